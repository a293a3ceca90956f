//! Clients that make no sense, take their time, send too much, are too many, or are somebody else:
//! the daemon bears them all, and whoever does nothing wrong is answered meanwhile.

use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, geteuid, getrlimit, setrlimit};

use crate::support::{Answer, Daemon, PATIENCE};

const MIB: u64 = 1024 * 1024;
/// How much the daemon may grow under one attack: the longest body there may be, several times.
const MAX_GROWTH: u64 = 64 * MIB;
/// The daemon's bound for the head of a request, and for a connection that is idle.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// The daemon's bound for a whole request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);
/// The daemon's bound for connections.
const MAX_CONNECTIONS: usize = 4096;
/// Descriptors that these tests may need at the same time, with something to spare.
const DESCRIPTORS: u64 = 6000;
/// How much later than its bounds a busy host may see to it that they are kept.
const SLACK: Duration = Duration::from_secs(30);
/// Between two pieces of what comes slowly.
const DRIP: Duration = Duration::from_millis(200);
/// Between two looks at what nothing announces.
const LOOK_AGAIN: Duration = Duration::from_millis(10);
/// A user that is nobody in particular.
const NOBODY: u32 = 65534;
/// Tells the stranger where to knock.
const STRANGER_SOCKET: &str = "BANGER_TEST_STRANGER_SOCKET";

/// Somebody who does nothing wrong.
fn others_are_answered(daemon: &Daemon) {
    assert_eq!(daemon.ask("GET", "/v1/version").status, 200);
    let list = daemon.ask("GET", "/v1/sandboxes");
    assert_eq!((list.status, list.body.as_str()), (200, "[]"));
}

/// The most memory that the daemon has had so far, in bytes.
fn peak(daemon: &Daemon) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", daemon.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap() * 1024
}

/// The sockets that the daemon has open. At its start they are its own; what it opens besides is
/// not for connections, and may come and go.
fn sockets(daemon: &Daemon) -> usize {
    let open = std::fs::read_dir(format!("/proc/{}/fd", daemon.pid())).unwrap();
    let links = open.filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok());
    links.filter(|link| link.to_string_lossy().starts_with("socket:")).count()
}

/// Waits for what nothing announces.
fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !condition() {
        assert!(begin.elapsed() < PATIENCE, "not within {} s: {what}", PATIENCE.as_secs());
        std::thread::sleep(LOOK_AGAIN);
    }
}

/// Everything until the daemon hangs up.
fn rest(stream: &mut UnixStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    if let Err(error) = stream.read_to_end(&mut bytes) {
        assert_eq!(error.kind(), ErrorKind::ConnectionReset, "it does not hang up");
    }
    bytes
}

/// Somebody who sends too much.
struct Flood {
    what: &'static str,
    /// What comes first.
    begin: &'static str,
    /// What comes then, again and again.
    more: Vec<u8>,
    /// Bytes of that which are nothing unusual yet.
    usual: u64,
    /// Bytes of that in all.
    all: u64,
    /// The statuses of which one is the answer.
    answers: &'static [u16],
}

impl Flood {
    /// How much of it the daemon took, and what it answered.
    fn run(&self, daemon: &Daemon) -> (u64, Option<Answer>) {
        let mut stream = daemon.connect();
        stream.write_all(self.begin.as_bytes()).unwrap();
        let mut sent = 0;
        let mut send = |stream: &mut UnixStream, until: u64| {
            while sent < until {
                match stream.write(&self.more) {
                    Ok(count) => sent += count as u64,
                    Err(error) => {
                        let hung_up = [ErrorKind::BrokenPipe, ErrorKind::ConnectionReset];
                        assert!(hung_up.contains(&error.kind()), "{}: {error}", self.what);
                        return;
                    }
                }
            }
        };
        send(&mut stream, self.usual);
        others_are_answered(daemon);
        send(&mut stream, self.all);
        let answer = Answer::parse(&rest(&mut stream));
        (sent, answer)
    }
}

fn floods() -> [Flood; 8] {
    let post = "POST /v1/sandboxes HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\n";
    let post_length = "POST /v1/sandboxes HTTP/1.1\r\nhost: a\r\n\
                       content-type: application/json\r\ncontent-length: 1073741824\r\n\r\n";
    let post_chunks = "POST /v1/sandboxes HTTP/1.1\r\nhost: a\r\n\
                       content-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n";
    let unasked = "GET /v1/version HTTP/1.1\r\nhost: a\r\ncontent-length: 1073741824\r\n\r\n";
    let spaces = vec![b' '; 65536];
    let chunks = format!("10000\r\n{}\r\n", " ".repeat(65536)).into_bytes();
    let flood = |what, begin, more: &[u8], usual, all, answers| {
        let more = more.to_vec();
        Flood { what, begin, more, usual, all, answers }
    };
    [
        flood("no protocol", "", b"\0\x01\xff\xfe{}[]\r\n\r\n\x80", 0, 64 * MIB, &[400]),
        flood("another protocol", "PRI * HTTP/2.0\r\n\r\n", b"SM\r\n\r\n\0\0\0", 0, MIB, &[400]),
        flood("a request line without end", "GET /", b"aaaaaaaa", 4096, 64 * MIB, &[414, 431]),
        flood("a header without end", &post[..post.len() - 2], b"aaaaaaaa", 4096, 64 * MIB, &[431]),
        flood("headers without end", post, b"x-a: b\r\n", 64, 64 * MIB, &[431]),
        flood("a long body", post_length, &spaces, MIB, 1024 * MIB, &[413]),
        flood("a body without end", post_chunks, &chunks, MIB, 1024 * MIB, &[413]),
        flood("a body nobody asked for", unasked, &spaces, 0, 1024 * MIB, &[200]),
    ]
}

#[test]
fn what_is_too_much_is_refused_before_it_is_all_there() {
    let daemon = Daemon::start();
    others_are_answered(&daemon);
    let before = peak(&daemon);
    for flood in floods() {
        let (sent, answer) = flood.run(&daemon);
        let what = flood.what;
        assert!(sent < flood.all, "{what}: the daemon took it all, and answered {answer:?}");
        let answer = answer.unwrap_or_else(|| panic!("{what}: no answer"));
        assert!(flood.answers.contains(&answer.status), "{what}: {answer:?}");
        // What the API refuses it refuses with a problem that a client understands.
        let understood = answer.head.contains("application/problem+json");
        assert_eq!(understood, answer.status == 413, "{what}: {answer:?}");
        let grown = peak(&daemon) - before;
        assert!(grown < MAX_GROWTH, "{what}: the daemon grew by {grown} bytes");
    }
    others_are_answered(&daemon);
}

/// Somebody who takes their time.
struct Slow {
    what: &'static str,
    begin: &'static str,
    /// What comes from time to time, if anything does.
    drip: &'static str,
    /// How long the daemon bears with it.
    bound: Duration,
    /// The answer, if there is one before it hangs up.
    answer: Option<u16>,
}

impl Slow {
    fn run(&self, mut stream: UnixStream) {
        let begun = Instant::now();
        stream.write_all(self.begin.as_bytes()).unwrap();
        stream.set_read_timeout(Some(DRIP)).unwrap();
        let (mut answer, mut piece) = (Vec::new(), [0; 4096]);
        loop {
            match stream.read(&mut piece) {
                Ok(0) => break,
                Ok(count) => answer.extend(&piece[..count]),
                Err(error) if error.kind() == ErrorKind::ConnectionReset => break,
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::WouldBlock, "{}", self.what);
                    // Who has been hung up on is told so by the next read.
                    let _ = stream.write_all(self.drip.as_bytes());
                }
            }
            let borne = begun.elapsed();
            assert!(borne < self.bound + SLACK, "{}: borne for {borne:?}", self.what);
        }
        let borne = begun.elapsed();
        assert!(borne > self.bound / 2, "{}: only borne for {borne:?}", self.what);
        let answer = Answer::parse(&answer).map(|answer| answer.status);
        assert_eq!(answer, self.answer, "{}", self.what);
    }
}

const SLOW: [Slow; 8] = {
    const fn head(what: &'static str, begin: &'static str, drip: &'static str) -> Slow {
        Slow { what, begin, drip, bound: HEAD_TIMEOUT, answer: None }
    }
    const fn body(what: &'static str, begin: &'static str, drip: &'static str) -> Slow {
        Slow { what, begin, drip, bound: REQUEST_TIMEOUT, answer: Some(408) }
    }
    [
        head("nothing", "", ""),
        head("half a request line", "GET /v1/ver", ""),
        head("half a head", "GET /v1/version HTTP/1.1\r\nhost: a\r\n", ""),
        head("a request line that drips", "GET /", "a"),
        head("a header that drips", "GET /v1/version HTTP/1.1\r\nhost: ", "a"),
        Slow {
            what: "nothing after a request",
            begin: "GET /v1/version HTTP/1.1\r\nhost: a\r\n\r\n",
            drip: "",
            bound: HEAD_TIMEOUT,
            answer: Some(200),
        },
        body(
            "half a body",
            "POST /v1/sandboxes HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\n\
             content-length: 1000\r\n\r\n{",
            "",
        ),
        body(
            "a chunked body that drips",
            "POST /v1/sandboxes HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\n\
             transfer-encoding: chunked\r\n\r\n",
            "1\r\n \r\n",
        ),
    ]
};

/// All of them at once: they take a minute, by the daemon's own bounds.
#[test]
fn who_is_too_slow_is_hung_up_on_and_keeps_nobody_waiting() {
    let daemon = Daemon::start();
    let open = sockets(&daemon);
    others_are_answered(&daemon);
    let before = peak(&daemon);
    std::thread::scope(|scope| {
        let (ends, ended) = mpsc::channel::<()>();
        for slow in &SLOW {
            let (stream, ends) = (daemon.connect(), ends.clone());
            scope.spawn(move || {
                slow.run(stream);
                drop(ends);
            });
        }
        drop(ends);
        // Nothing is ever sent: the channel is closed when the last of them has ended.
        while ended.recv_timeout(DRIP) == Err(mpsc::RecvTimeoutError::Timeout) {
            others_are_answered(&daemon);
        }
    });
    wait_until("their descriptors are closed", || sockets(&daemon) == open);
    assert!(peak(&daemon) - before < MAX_GROWTH);
}

#[test]
fn answers_that_nobody_reads_do_not_heap_up() {
    let daemon = Daemon::start();
    others_are_answered(&daemon);
    let before = peak(&daemon);
    let mut stream = daemon.connect();
    // So long the daemon takes nothing: it waits for its answers to be read.
    stream.set_write_timeout(Some(Duration::from_secs(1))).unwrap();
    let requests = "GET /v1/openapi.json HTTP/1.1\r\nhost: a\r\n\r\n".repeat(100);
    let mut sent = 0;
    while sent < 64 * MIB {
        match stream.write(requests.as_bytes()) {
            Ok(count) => sent += count as u64,
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::WouldBlock);
                break;
            }
        }
    }
    others_are_answered(&daemon);
    let grown = peak(&daemon) - before;
    assert!(sent < 64 * MIB && grown < MAX_GROWTH, "{sent} bytes sent, grown by {grown}");
}

/// Whether there may be as many connections as these tests want.
fn enough_descriptors() -> bool {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    if maximum.is_some_and(|maximum| maximum < DESCRIPTORS) {
        banger_testkit::skipped_on_this_machine("too few open files are allowed");
        return false;
    }
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).unwrap();
    true
}

/// So many connections with this on each.
fn crowd(daemon: &Daemon, count: usize, says: &str) -> Vec<UnixStream> {
    let one = |_| {
        let mut stream = daemon.connect();
        stream.write_all(says.as_bytes()).unwrap();
        stream
    };
    (0..count).map(one).collect()
}

#[test]
fn a_thousand_that_say_nothing_or_half_keep_nobody_waiting_and_leave_nothing() {
    if !enough_descriptors() {
        return;
    }
    let daemon = Daemon::start();
    let open = sockets(&daemon);
    others_are_answered(&daemon);
    let before = peak(&daemon);
    let silent = crowd(&daemon, 500, "");
    let half = crowd(&daemon, 500, "GET /v1/version HTTP/1.1\r\nho");
    wait_until("they are all connected", || sockets(&daemon) >= open + 1000);
    others_are_answered(&daemon);
    drop((silent, half));
    wait_until("their descriptors are closed", || sockets(&daemon) == open);
    others_are_answered(&daemon);
    assert!(peak(&daemon) - before < MAX_GROWTH);
}

#[test]
fn one_too_many_is_hung_up_on_until_there_is_a_place() {
    if !enough_descriptors() {
        return;
    }
    let daemon = Daemon::start();
    let open = sockets(&daemon);
    let mut all = crowd(&daemon, MAX_CONNECTIONS, "");
    wait_until("they are all connected", || sockets(&daemon) == open + MAX_CONNECTIONS);
    assert!(daemon.try_to_ask("GET", "/v1/version").is_none());
    all.pop();
    wait_until("there is a place", || daemon.try_to_ask("GET", "/v1/version").is_some());
    drop(all);
    wait_until("their descriptors are closed", || sockets(&daemon) == open);
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

fn set_mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn the_socket_and_its_directory_are_the_owners_alone() {
    let daemon = Daemon::start();
    let socket = daemon.socket();
    assert!(std::fs::metadata(&socket).unwrap().file_type().is_socket());
    assert_eq!((mode(&socket), mode(socket.parent().unwrap())), (0o600, 0o700));
}

/// What becomes of another user who knocks.
fn stranger(socket: &Path) -> String {
    // The program may lie where this user cannot get; the link to it leads there all the same.
    let output = Command::new("/proc/self/exe")
        .args(["hostile::the_stranger_of_another_test", "--exact", "--ignored", "--nocapture"])
        .env(STRANGER_SOCKET, socket)
        .uid(NOBODY)
        .gid(NOBODY)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let says = said.lines().find_map(|line| line.split_once("stranger: "));
    says.unwrap_or_else(|| panic!("{said}{}", String::from_utf8_lossy(&output.stderr))).1.to_owned()
}

#[test]
#[ignore = "another user's part in a test, which starts it"]
fn the_stranger_of_another_test() {
    let Some(socket) = std::env::var_os(STRANGER_SOCKET) else { return };
    let became = match UnixStream::connect(socket) {
        Err(error) => format!("{:?}", error.kind()),
        Ok(mut stream) => {
            let _ = stream.write_all(b"GET /v1/version HTTP/1.1\r\nhost: a\r\n\r\n");
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            format!("{} bytes", rest(&mut stream).len())
        }
    };
    println!("\nstranger: {became}");
}

#[test]
fn another_user_is_kept_out_by_the_mode_and_hung_up_on_without_it() {
    if !geteuid().is_root() {
        banger_testkit::skipped_on_this_machine("only root can be somebody else");
        return;
    }
    let daemon = Daemon::start();
    let socket = daemon.socket();
    assert_eq!(stranger(&socket), "PermissionDenied", "the directory is closed");
    let home = socket.ancestors().skip(1).take_while(|dir| mode(dir) & 0o001 == 0);
    for dir in home {
        set_mode(dir, 0o755);
    }
    assert_eq!(stranger(&socket), "PermissionDenied", "the socket is closed");
    set_mode(&socket, 0o666);
    assert_eq!(stranger(&socket), "0 bytes", "the daemon sees who connects");
    others_are_answered(&daemon);
}
