//! A sandbox's network: out to the world, not into the host.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::support::TestEnv;

/// The address by which this host reaches others; none when it reaches none.
pub(crate) fn own_address() -> Option<Ipv4Addr> {
    // Connecting a datagram socket sends nothing: it only asks for a route.
    let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
    socket.connect("198.51.100.1:9").ok()?;
    match socket.local_addr().ok()? {
        SocketAddr::V4(address) => Some(*address.ip()),
        SocketAddr::V6(_) => None,
    }
}

/// A server that counts who comes.
fn count_visitors(address: &str) -> (u16, Arc<AtomicUsize>) {
    let listener = TcpListener::bind(address).unwrap();
    let port = listener.local_addr().unwrap().port();
    let visitors = Arc::new(AtomicUsize::new(0));
    let counter = visitors.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            counter.fetch_add(1, Ordering::SeqCst);
            let mut stream = stream;
            let _ = stream.read(&mut [0; 1024]);
            let _ = stream.write_all(b"HTTP/1.0 200 OK\r\nContent-Length: 6\r\n\r\nhello\n");
        }
    });
    (port, visitors)
}

#[test]
fn packages_can_be_installed() {
    let Some(env) = TestEnv::with_machines() else { return };
    let script = "apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq install -y \
                  --no-install-recommends hello >/dev/null 2>&1; hello";
    let ran = env.sh(script);
    assert_eq!((ran.status, ran.text().as_str()), (0, "Hello, world!\n"), "{}", ran.stderr);
}

#[test]
fn the_hosts_loopback_is_out_of_reach_and_its_own_address_is_not() {
    let Some(env) = TestEnv::with_machines() else { return };
    let Some(own) = own_address() else {
        return banger_testkit::skipped_on_this_machine("this host has no address");
    };
    let (hidden, visitors) = count_visitors("127.0.0.1:0");
    let (open, _) = count_visitors(&format!("{own}:0"));
    let script = format!(
        "gateway=$(ip route show default | cut -d' ' -f3)
         for host in 127.0.0.1 $gateway 0.0.0.0 169.254.169.254; do
             curl -s -m 3 http://$host:{hidden}/ && echo \"reached $host\"
         done
         # By a route of the guest's own making, the packets do leave the guest.
         ip addr del 127.0.0.1/8 dev lo; ip route flush table local 2>/dev/null
         ip route add 127.0.0.1/32 via $gateway dev eth0 2>/dev/null
         sysctl -qw net.ipv4.conf.all.route_localnet=1 net.ipv4.conf.eth0.route_localnet=1
         curl -s -m 3 http://127.0.0.1:{hidden}/ && echo 'reached by a route'
         true"
    );
    assert_eq!(env.sh(&script).ok(), "");
    assert_eq!(visitors.load(Ordering::SeqCst), 0);
    let reached = env.sh(&format!("curl -s -m 20 http://{own}:{open}/")).ok();
    assert_eq!(reached, "hello\n");
}

#[test]
fn a_repository_on_the_hosts_own_address_can_be_cloned() {
    let Some(env) = TestEnv::with_machines() else { return };
    let Some(own) = own_address() else {
        return banger_testkit::skipped_on_this_machine("this host has no address");
    };
    let dir = tempfile::tempdir().unwrap();
    let git = |args: &[&str]| {
        let status = Command::new("git")
            .args(["-c", "user.name=n", "-c", "user.email=e", "-C"])
            .arg(dir.path())
            .args(args)
            .status();
        assert!(status.unwrap().success(), "git {args:?}");
    };
    git(&["init", "-q", "-b", "main", "repo"]);
    git(&["-C", "repo", "commit", "-q", "--allow-empty", "-m", "a commit"]);
    let port = serve_git(dir.path(), own);
    let script = format!("git clone -q git://{own}:{port}/repo && git -C repo log --format=%s");
    assert_eq!(env.sh(&script).ok(), "a commit\n");
}

/// Serves a directory's repositories by handing each connection to `git daemon --inetd`.
fn serve_git(dir: &std::path::Path, address: Ipv4Addr) -> u16 {
    let listener = TcpListener::bind((address, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let base = format!("--base-path={}", dir.display());
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let socket = |stream: &std::net::TcpStream| {
                std::os::fd::OwnedFd::from(stream.try_clone().unwrap())
            };
            let _ = Command::new("git")
                .args(["daemon", "--inetd", "--export-all", &base])
                .stdin(socket(&stream))
                .stdout(socket(&stream))
                .status();
        }
    });
    port
}

#[test]
fn a_network_that_fails_is_told() {
    let Some(env) = TestEnv::with_machines() else { return };
    // A passt that ends at once, found before the real one.
    let fake = env.home().join("fake");
    std::fs::create_dir_all(&fake).unwrap();
    let script = fake.join("passt");
    std::fs::write(&script, "#!/bin/sh\necho out of luck >&2; exit 1\n").unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(&script, mode).unwrap();
    let mut command = env.command(["vm", "run", "--", "echo", "ran"]);
    let path = format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", fake.display());
    let output = command.env("PATH", path).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!((output.status.code(), &*output.stdout), (Some(0), &b"ran\n"[..]), "{stderr}");
    assert!(
        stderr.contains("the sandbox has no network: passt has ended: out of luck"),
        "{stderr}"
    );
}

#[test]
fn a_network_that_ends_meanwhile_is_told() {
    let Some(env) = TestEnv::with_machines() else { return };
    let mut child = env
        .command(["vm", "run", "--", "sh", "-c", "echo ready; read line"])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut ready = [0; 6];
    child.stdout.as_mut().unwrap().read_exact(&mut ready).unwrap();
    let relay = std::fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| entry.unwrap().file_name().to_str()?.parse::<i32>().ok())
        .find(|pid| {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line);
            line.contains("relay") && line.contains(&*env.home().to_string_lossy())
        })
        .unwrap();
    let relay = rustix::process::Pid::from_raw(relay).unwrap();
    rustix::process::kill_process(relay, rustix::process::Signal::KILL).unwrap();
    let mut line = String::new();
    let mut stderr = std::io::BufReader::new(child.stderr.take().unwrap());
    std::io::BufRead::read_line(&mut stderr, &mut line).unwrap();
    assert!(line.contains("the sandbox has no network any more"), "{line}");
    drop(child.stdin.take());
    child.wait().unwrap();
    env.assert_nothing_left();
}
