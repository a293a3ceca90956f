//! Servers and networks that fail in every way.

use std::io::{Read as _, Write as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use banger_update::State;
use os_update::agent::{AgentError, Outcome};
use os_update::fetch::Silent;
use os_update::health::chain;
use os_update::http::Patience;
use os_update::settings::Key;

use crate::appliance::{Appliance, PATIENCE, PLAIN, Release, run};
use crate::server::{Asked, Server, send, send_file};

/// An appliance whose server answers requests for the kernel by `kernel`, and the rest as it
/// should. The function is told how often the kernel was asked for.
fn with_kernel(
    kernel: impl Fn(usize, &Asked, &mut std::net::TcpStream, &std::path::Path) + Send + Sync + 'static,
) -> (Appliance, Server) {
    let mut appliance = Appliance::new();
    let size = format!(r#", "vmlinuz_size": {}"#, Release::new("2.0.0").kernel.len());
    Release::new("2.0.0").with(&size).publish(&appliance.path("www"), &appliance.secret);
    let (www, count) = (appliance.path("www"), AtomicUsize::new(0));
    let server = Server::answering(move |asked, stream| {
        if asked.path == "/vmlinuz" {
            kernel(count.fetch_add(1, Ordering::SeqCst), asked, stream, &www);
        } else {
            send_file(&www, asked, stream);
        }
    });
    appliance.set(Key::Server, &server.url);
    (appliance, server)
}

/// Sends the head of a whole answer and part of its body, and hangs up.
fn cut(stream: &mut std::net::TcpStream, content: &[u8], at: usize) {
    let head =
        format!("HTTP/1.1 200 OK\r\nETag: \"x\"\r\nContent-Length: {}\r\n\r\n", content.len());
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(&content[..at]).unwrap();
}

#[test]
fn n04_n05_a_download_that_breaks_off_is_gone_on_with() {
    let asked_for = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&asked_for);
    let (appliance, _server) = with_kernel(move |count, asked, stream, www| {
        if count < 5 && asked.range.is_none() {
            return cut(stream, &std::fs::read(www.join("vmlinuz")).unwrap(), 100_000);
        }
        let begin = asked.range.clone().unwrap_or_default();
        seen.store(begin.len(), Ordering::SeqCst);
        assert!(begin.starts_with("bytes=100000"), "{begin}");
        send_file(www, asked, stream);
    });
    assert!(matches!(appliance.apply(PLAIN), Ok(Outcome::Staged(_))));
    assert!(asked_for.load(Ordering::SeqCst) > 0);
}

#[test]
fn n05_a_run_that_was_killed_is_gone_on_with_by_the_next() {
    let (appliance, _server) = with_kernel(move |count, asked, stream, www| {
        if count < 3 {
            let begin = asked.range.is_some();
            let content = std::fs::read(www.join("vmlinuz")).unwrap();
            return if begin {
                send(stream, "503 No", "", b"")
            } else {
                cut(stream, &content, 50_000)
            };
        }
        assert_eq!(asked.range.as_deref(), Some("bytes=50000-"));
        send_file(www, asked, stream);
    });
    let error = appliance.apply(PLAIN).unwrap_err();
    assert_eq!(error.exit_code(), 1, "{error}");
    let State::Failed(failure) = appliance.record().state else { panic!("it did not fail") };
    assert!(failure.retryable);
    assert!(matches!(appliance.apply(PLAIN), Ok(Outcome::Staged(_))));
}

#[test]
fn n05_a_part_of_something_else_is_thrown_away() {
    // The server ignores ranges, or answers with another part.
    for wrong in [0, 1] {
        let (appliance, _server) = with_kernel(move |count, asked, stream, www| {
            let content = std::fs::read(www.join("vmlinuz")).unwrap();
            match (count, wrong) {
                (0, _) => cut(stream, &content, 1000),
                (1, 0) => send(stream, "200 OK", "", &content),
                (1, _) => {
                    let range = "Content-Range: bytes 999-300000/300000\r\n";
                    send(stream, "206 Partial Content", range, &content[999..]);
                }
                _ => send_file(www, asked, stream),
            }
        });
        assert!(matches!(appliance.apply(PLAIN), Ok(Outcome::Staged(_))), "{wrong}");
    }
}

#[test]
fn n01_too_much_is_refused_with_and_without_a_length() {
    for lying in [false, true] {
        let (appliance, _server) = with_kernel(move |_, _, stream, www| {
            let mut content = std::fs::read(www.join("vmlinuz")).unwrap();
            content.extend_from_slice(&[0; 4096]);
            if lying {
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n");
                let _ = stream.write_all(&content);
            } else {
                send(stream, "200 OK", "", &content);
            }
        });
        let error = appliance.apply(PLAIN).unwrap_err();
        assert_eq!(error.exit_code(), 5, "{error}");
        let left = std::fs::read_dir(appliance.path("boot/os/b")).unwrap().count();
        assert_eq!(left, 0, "nothing of it stays");
    }
    let mut appliance = Appliance::new();
    let server = Server::answering(|_, stream| {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n");
        while stream.write_all(&[b' '; 65536]).is_ok() {}
    });
    appliance.set(Key::Server, &server.url);
    assert!(chain(appliance.check(PLAIN).unwrap_err()).contains("that make sense"));
}

#[test]
fn n01_what_is_compressed_on_the_way_is_not_unpacked() {
    let (appliance, _server) = with_kernel(|_, _, stream, www| {
        let content = std::fs::read(www.join("vmlinuz")).unwrap();
        send(stream, "200 OK", "Content-Encoding: gzip\r\n", &content);
    });
    assert!(matches!(appliance.apply(PLAIN), Ok(Outcome::Staged(_))), "bytes are what is signed");
}

#[test]
fn n02_a_server_that_falls_silent_is_given_up() {
    let (appliance, _server) = with_kernel(|_, _, stream, www| {
        let content = std::fs::read(www.join("vmlinuz")).unwrap();
        cut(stream, &content, 10);
        // Until the agent hangs up.
        let _ = std::io::Read::read(stream, &mut [0; 1]);
    });
    let error = chain(appliance.apply(PLAIN).unwrap_err());
    assert!(error.contains("too slow"), "{error}");
}

#[test]
fn n02_a_server_that_sends_a_byte_now_and_then_is_given_up() {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    let (appliance, _server) = with_kernel(move |_, asked, stream, _| {
        count.fetch_add(1, Ordering::SeqCst);
        let begin = asked
            .range
            .as_ref()
            .map_or("0", |range| range.trim_start_matches("bytes=").trim_end_matches('-'));
        let status = if asked.range.is_some() { "206 Partial Content" } else { "200 OK" };
        let head = format!(
            "HTTP/1.1 {status}\r\nContent-Range: bytes {begin}-299999/300000\r\n\
             Content-Length: 300000\r\n\r\n"
        );
        stream.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        stream.write_all(head.as_bytes()).unwrap();
        // Until the agent hangs up.
        while stream.write_all(b"x").is_ok() && !matches!(stream.read(&mut [0; 1]), Ok(0)) {}
    });
    let (share, share_within) = (200_000, Duration::from_millis(100));
    let idle = Duration::from_secs(60);
    let patience = Patience { idle, share, share_within, ..PATIENCE };
    let outcome = run(appliance.agent_with(patience).apply(PLAIN, &mut Silent));
    let error = chain(outcome.unwrap_err());
    assert!(error.contains("too slow: the least that has to come"), "{error}");
    assert_eq!(asked.load(Ordering::SeqCst), 3, "it is not asked again and again");
}

#[test]
fn n03_redirects_are_followed_within_the_rules_and_not_for_ever() {
    let mut appliance = Appliance::new();
    Release::new("2.0.0").publish(&appliance.path("www/real"), &appliance.secret);
    let www = appliance.path("www");
    let server = Server::answering(move |asked, stream| match asked.path.as_str() {
        path if path.starts_with("/real/") => send_file(&www, asked, stream),
        path if path.starts_with("/loop/") => send(stream, "302 Found", "Location: x\r\n", b""),
        path if path.starts_with("/away/") => {
            send(stream, "302 Found", "Location: http://127.0.0.2:9/x\r\n", b"");
        }
        path if path.starts_with("/file/") => {
            send(stream, "302 Found", "Location: file:///etc/passwd\r\n", b"");
        }
        path => {
            let location = format!("Location: /real{path}\r\n");
            send(stream, "307 Temporary Redirect", &location, b"");
        }
    });
    appliance.set(Key::Server, &server.url);
    assert!(matches!(appliance.apply(PLAIN), Ok(Outcome::Staged(_))));
    for (path, problem) in [("loop", "without end"), ("away", "another host"), ("file", "nowhere")]
    {
        appliance.set(Key::Server, &format!("{}/{path}", server.url));
        let error = chain(appliance.check(PLAIN).unwrap_err());
        assert!(error.contains(problem), "{path}: {error}");
    }
}

#[test]
fn n06_n07_other_answers_than_files_are_no_files() {
    let mut appliance = Appliance::new();
    for (status, body) in [
        ("500 Oops", ""),
        ("403 Forbidden", ""),
        ("404 Not Found", ""),
        ("204 No Content", ""),
        ("200 OK", "<html>log in to the hotel's network</html>"),
    ] {
        let server = Server::answering(move |_, stream| send(stream, status, "", body.as_bytes()));
        appliance.set(Key::Server, &server.url);
        let before = appliance.bootable();
        assert!(appliance.apply(PLAIN).is_err(), "{status}");
        assert_eq!(appliance.bootable(), before);
    }
    appliance.set(Key::Server, "http://127.0.0.1:1");
    assert!(matches!(appliance.apply(PLAIN), Err(AgentError::Fetch(_))));
}

#[test]
fn n07_a_server_that_is_busy_is_asked_again() {
    let (appliance, _server) = with_kernel(|count, asked, stream, www| {
        if count == 0 {
            send(stream, "503 Busy", "Retry-After: 0\r\n", b"");
        } else {
            send_file(www, asked, stream);
        }
    });
    assert!(matches!(appliance.apply(PLAIN), Ok(Outcome::Staged(_))));
}

#[test]
fn n01_a_signed_size_that_is_not_the_files_is_refused() {
    let mut appliance = Appliance::new();
    let most = 2_u64 << 30;
    let release = Release::new("2.0.0").with(&format!(r#", "initramfs_size": {most}"#));
    release.publish(&appliance.path("www"), &appliance.secret);
    let server = Server::of(&appliance.path("www"));
    appliance.set(Key::Server, &server.url);
    // Whether or not there is room for it.
    let error = appliance.apply(PLAIN).unwrap_err();
    assert!([1, 5].contains(&error.exit_code()), "{error}");
    assert!(matches!(appliance.record().state, State::Failed(_)));
}
