//! Terminals of the agent's processes.

use crate::host::{Host, shell};
use banger_link::{Command, Request, Window};
use banger_model::ProcessEnd;

fn on_terminal(script: &str) -> Command {
    let mut command = shell(script);
    command.terminal = Some(Window { rows: 33, cols: 77 });
    command
}

#[test]
fn a_program_has_a_terminal_of_the_size_asked_for() {
    let mut host = Host::new();
    let done = host.run(on_terminal("tty </dev/tty; stty size; tty <&2")).unwrap();
    let text = String::from_utf8(done.stdout).unwrap();
    let lines: Vec<_> = text.split("\r\n").collect();
    assert_eq!(lines[0], "/dev/tty");
    assert_eq!(lines[1], "33 77");
    assert!(lines[2].starts_with("/dev/pts/"), "{text}");
    assert_eq!((done.end, done.stderr.len()), (ProcessEnd::Exited(0), 0));
}

#[test]
fn a_new_size_is_told_to_the_program() {
    let mut host = Host::new();
    let script = "trap 'stty size; exit 0' WINCH; echo ready; while :; do :; done";
    let process = host.start(on_terminal(script)).unwrap();
    host.until(|host| host.seen.text(process).contains("ready").then_some(()));
    host.request(Request::Resize { process, window: Window { rows: 5, cols: 6 } }).unwrap();
    host.until(|host| host.seen.text(process).contains("5 6").then_some(()));
    assert_eq!(host.finish(process).end, ProcessEnd::Exited(0));
}

#[test]
fn control_characters_reach_the_program() {
    let mut host = Host::new();
    let process = host.start(Command { argv: vec![b"cat".to_vec()], ..on_terminal("") }).unwrap();
    host.push(process, b"line\n");
    // Once by the terminal, once by the program, which runs then.
    host.until(|host| (host.seen.text(process) == "line\r\nline\r\n").then_some(()));
    host.push(process, b"\x03");
    assert_eq!(host.finish(process).end, ProcessEnd::Signaled(2));
}

#[test]
fn the_end_of_input_is_an_end_of_file() {
    let mut host = Host::new();
    for input in [&b"line\n"[..], b"half a line", b""] {
        let process = host.start(on_terminal("cat >/dev/null; echo over")).unwrap();
        host.push(process, input);
        host.end_stdin(process);
        let done = host.finish(process);
        assert!(done.stdout.ends_with(b"over\r\n"), "{input:?}");
    }
}

#[test]
fn the_last_words_arrive_though_others_hold_the_terminal() {
    let mut host = Host::new();
    for _ in 0..20 {
        let script = "trap '' HUP; sleep 60 & stty -opost; head -c 30000 /dev/zero; kill $!";
        let done = host.run(on_terminal(script)).unwrap();
        assert_eq!(done.stdout.len(), 30000);
    }
}
