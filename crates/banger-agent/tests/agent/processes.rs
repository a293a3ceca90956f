//! Processes of the agent, on this machine: how they start, run and end.

use banger_testkit::skipped_on_this_machine;

use crate::host::{Consume, Host, command, shell};
use banger_link::{Refusal, Request, Stream};
use banger_model::{EnvVar, ProcessEnd};

#[test]
fn a_process_ends_as_it_ends() {
    let mut host = Host::new();
    let cases = [
        ("exit 0", ProcessEnd::Exited(0)),
        ("exit 7", ProcessEnd::Exited(7)),
        ("kill -9 $$", ProcessEnd::Signaled(9)),
        ("kill -TERM $$", ProcessEnd::Signaled(15)),
    ];
    for (script, end) in cases {
        assert_eq!(host.run(shell(script)).unwrap().end, end, "{script}");
    }
}

#[test]
fn what_cannot_be_started_says_why() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &[u8], mode: u32| {
        let path = dir.path().join(name);
        let mut file = std::fs::File::create(&path).unwrap();
        std::io::Write::write_all(&mut file, text).unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(mode);
        std::fs::set_permissions(&path, mode).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let mut host = Host::new();
    let mut refused = |argv: &[&str]| host.run(command(argv)).unwrap_err();
    assert_eq!(refused(&["no-such-program"]), Refusal::NotFound("no-such-program".into()));
    assert_eq!(refused(&["/no/such"]), Refusal::NotFound("/no/such".into()));
    assert_eq!(refused(&[]), Refusal::NotFound(String::new()));
    for (path, why) in [
        ("/tmp".to_owned(), "directory"),
        (file("plain", b"x", 0o644), "denied"),
        (file("lost", b"#!/no/such/interpreter\n", 0o755), "interpreter"),
    ] {
        match refused(&[&path]) {
            Refusal::CannotInvoke(name, text) => {
                assert!(name == path && text.contains(why), "{name}: {text}");
            }
            other => panic!("{path}: {other:?}"),
        }
    }
    let mut elsewhere = command(&["true"]);
    elsewhere.cwd = Some(b"/no/such/dir".to_vec());
    assert!(
        matches!(host.run(elsewhere), Err(Refusal::WorkingDirectory(dir, _)) if dir == "/no/such/dir")
    );
    let mut stranger = command(&["true"]);
    stranger.user = Some(b"no-such-user".to_vec());
    assert_eq!(host.run(stranger), Err(Refusal::NoSuchUser("no-such-user".into())));
    let too_long = "x".repeat(200 * 1024);
    assert!(matches!(host.run(command(&["true", &too_long])), Err(Refusal::CannotInvoke(..))));
    assert_eq!(host.run(command(&["true"])).unwrap().end, ProcessEnd::Exited(0));
}

#[test]
fn a_script_without_an_interpreter_runs_in_the_shell() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("script");
    std::io::Write::write_all(&mut std::fs::File::create(&path).unwrap(), b"echo \"$1\"\n")
        .unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(&path, mode).unwrap();
    let mut run = command(&["script", "argument"]);
    let search = format!("PATH=/nowhere:{}", dir.path().display());
    run.env = vec![EnvVar::parse(search.as_bytes()).unwrap()];
    assert_eq!(Host::new().run(run).unwrap().stdout, b"argument\n");
}

#[test]
fn streams_carry_every_byte() {
    let input: Vec<u8> =
        (0..8 << 20u32).map(|n: u32| n.wrapping_mul(2_654_435_761).to_le_bytes()[3]).collect();
    let both = shell("tee /dev/fd/2");
    let done = Host::new().run_with(both, &input).unwrap();
    assert!(done.stdout == input, "stdout differs ({} bytes)", done.stdout.len());
    assert!(done.stderr == input, "stderr differs ({} bytes)", done.stderr.len());
}

#[test]
fn input_that_nobody_reads_does_not_stop_anything() {
    let mut host = Host::new();
    let done = host.run_with(shell("exec <&-; echo still here"), &vec![b'x'; 2 << 20]).unwrap();
    assert_eq!((done.end, &done.stdout[..]), (ProcessEnd::Exited(0), &b"still here\n"[..]));
}

#[test]
fn arguments_arrive_many_long_and_not_in_utf8() {
    let mut host = Host::new();
    let mut many = command(&["sh", "-c", "echo $#", "sh"]);
    many.argv.extend((0..10_000).map(|n: u32| n.to_string().into_bytes()));
    assert_eq!(host.run(many).unwrap().stdout, b"10000\n");
    let mut large = command(&["sh", "-c", "echo $#", "sh"]);
    large.argv.extend(vec![vec![b'y'; 100_000]; 15]);
    assert_eq!(host.run(large).unwrap().stdout, b"15\n");
    let mut raw = command(&["printf", "%s"]);
    raw.argv.push(b"\xff\xfe\x01".to_vec());
    assert_eq!(host.run(raw).unwrap().stdout, b"\xff\xfe\x01");
}

#[test]
fn a_program_starts_with_nothing_of_the_agents() {
    let mut host = Host::new();
    let script = "grep -E 'Sig(Blk|Ign)' /proc/self/status; ls /proc/self/fd";
    let text = String::from_utf8(host.run(shell(script)).unwrap().stdout).unwrap();
    for line in text.lines().take(2) {
        let set = u64::from_str_radix(line.split('\t').nth(1).unwrap(), 16).unwrap();
        // Whoever started this test may ignore real-time signals, which stay ignored.
        assert_eq!(set & 0x7fff_ffff, 0, "{line}");
    }
    // One more is the directory that ls reads.
    let open = text.lines().skip(2).filter(|fd| !inherited(fd)).count();
    assert_eq!(open, 4, "{text}");
    let limit = host.run(shell("ulimit -Sn; umask")).unwrap().stdout;
    assert_eq!(String::from_utf8(limit).unwrap(), "1024\n0022\n");
}

/// Whether a descriptor comes from whoever started this test: one that programs inherit.
fn inherited(fd: &str) -> bool {
    let close_on_exec = 0o2_000_000;
    let Ok(mut file) = std::fs::File::open(format!("/proc/self/fdinfo/{fd}")) else { return false };
    let mut info = String::new();
    std::io::Read::read_to_string(&mut file, &mut info).unwrap();
    let flags = info.lines().find_map(|line| line.strip_prefix("flags:")).unwrap();
    let flags = u32::from_str_radix(flags.trim(), 8).unwrap();
    flags & close_on_exec == 0 && !["0", "1", "2"].contains(&fd)
}

#[test]
fn a_program_in_the_background_neither_delays_the_end_nor_dies_of_it() {
    let mut host = Host::new();
    let dir = tempfile::tempdir().unwrap();
    let fifo = dir.path().join("fifo").display().to_string();
    let script = format!(
        "mkfifo {fifo}; (read go <{fifo}; head -c 300000 /dev/zero; echo alive >{fifo}.out) & \
         mkfifo {fifo}.out; echo started"
    );
    let done = host.run(shell(&script)).unwrap();
    assert_eq!((done.end, &done.stdout[..]), (ProcessEnd::Exited(0), &b"started\n"[..]));
    let answer = host.run(shell(&format!("echo go >{fifo}; cat {fifo}.out"))).unwrap();
    assert_eq!(answer.stdout, b"alive\n");
}

#[test]
fn everything_written_before_the_end_arrives_though_others_hold_the_stream() {
    let mut host = Host::new();
    for _ in 0..20 {
        let done = host.run(shell("sleep 60 & head -c 60000 /dev/zero; kill $!")).unwrap();
        assert_eq!(done.stdout.len(), 60000);
    }
}

#[test]
fn a_host_that_takes_no_output_holds_up_the_process_and_not_the_agent() {
    let mut host = Host::new();
    host.consume = Consume::Never;
    let process = host.start(command(&["cat", "/dev/zero"])).unwrap();
    let window = banger_link::limits::WINDOW;
    host.until(|host| (host.seen.output(process, Stream::Stdout).len() == window).then_some(()));
    let kill = Request::Signal { process, signal: 9, scope: banger_link::SignalScope::Group };
    host.request(kill).unwrap();
    assert_eq!(host.seen.output(process, Stream::Stdout).len(), window);
    assert_eq!(host.seen.exit(process), None, "its output has not ended");
}

#[test]
fn orphans_are_reaped() {
    let mut host = Host::new();
    let script = "for i in 1 2 3 4 5; do (true & true) & done; wait; \
                  (exec 3>&1; (while :; do :; done) & echo $!)";
    let done = host.run(shell(script)).unwrap();
    let orphan = String::from_utf8(done.stdout).unwrap().trim().to_owned();
    host.run(shell(&format!("kill -9 {orphan}"))).unwrap();
    let children = format!("/proc/{0}/task/{0}/children", host.agent_pid());
    host.until_after_requests("the agent has no children", || {
        let mut list = String::new();
        let mut file = std::fs::File::open(&children).unwrap();
        std::io::Read::read_to_string(&mut file, &mut list).unwrap();
        list.trim().is_empty()
    });
}

#[test]
fn users_are_those_of_the_system() {
    if !rustix::process::geteuid().is_root() {
        return skipped_on_this_machine("only root can become another user");
    }
    let mut host = Host::new();
    let mut as_user = |user: &str, script: &str| {
        let mut run = shell(script);
        run.user = Some(user.as_bytes().to_vec());
        String::from_utf8(host.run(run).unwrap().stdout).unwrap()
    };
    assert_eq!(
        as_user("nobody", "id -un; echo $USER; echo $HOME"),
        "nobody\nnobody\n/nonexistent\n"
    );
    assert_eq!(as_user("4242", "id -u; id -g; id -G; echo x$USER"), "4242\n0\n0\nx\n");
    assert_eq!(as_user("4242:4711", "id -u; id -G"), "4242\n4711\n");
    // Standard error may be opened by its name.
    assert_eq!(as_user("nobody", "echo x 2>/dev/null >/dev/stderr && echo y"), "y\n");
}

#[test]
fn there_is_a_most_of_processes_and_release_makes_room() {
    let mut host = Host::new();
    let most = banger_link::limits::MAX_PROCESSES;
    let all: Vec<_> = (0..most).map(|_| host.start(command(&["true"])).unwrap()).collect();
    let one_more = host.start(command(&["true"]));
    assert_eq!(one_more, Err(Refusal::TooManyProcesses(u32::try_from(most).unwrap())));
    host.finish(all[0]);
    host.start(command(&["true"])).unwrap();
}

#[test]
fn a_running_process_is_not_released() {
    let mut host = Host::new();
    let process = host.start(command(&["cat"])).unwrap();
    let early = host.request(Request::Release { process });
    assert!(matches!(early, Err(Refusal::WrongState(_))));
    host.end_stdin(process);
    host.finish(process);
    assert_eq!(host.request(Request::Release { process }), Err(Refusal::UnknownProcess));
}
