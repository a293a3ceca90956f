//! TLS with the real `openssl` at the other end.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use os_update::agent::Outcome;
use os_update::health::chain;
use os_update::settings::Key;

use crate::appliance::{Appliance, PLAIN, Release};
use crate::server::{Server as Plain, send};

/// A server that ends with its test.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What `openssl s_server` makes of a file that is asked for: a body, or a whole answer.
const BODIES: &str = "-WWW";
const ANSWERS: &str = "-HTTP";

/// Serves a directory with a certificate for 127.0.0.1 that only its own file vouches for.
fn serve(dir: &Path, files_are: &str) -> Option<(Server, u16)> {
    let make = "req -x509 -newkey ed25519 -nodes -days 2 -subj /CN=test -keyout ../tls.key \
                -out ../tls.crt -addext subjectAltName=IP:127.0.0.1 -addext basicConstraints=critical,CA:FALSE";
    let made =
        Command::new("openssl").args(make.split_ascii_whitespace()).current_dir(dir).output();
    let Ok(made) = made else {
        banger_testkit::skipped("openssl is not installed");
        return None;
    };
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let serve = "s_server -accept 127.0.0.1:0 -cert ../tls.crt -key ../tls.key";
    let mut command = Command::new("openssl");
    command.args(serve.split(' ')).arg(files_are).current_dir(dir).stdin(Stdio::null());
    let mut server = Server(command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap());
    // It says where it listens, when it does.
    let lines = BufReader::new(server.0.stdout.take().unwrap()).lines();
    let port = lines
        .map_while(Result::ok)
        .find_map(|line| line.strip_prefix("ACCEPT ")?.rsplit_once(':')?.1.trim().parse().ok());
    Some((server, port.unwrap()))
}

#[test]
fn n03_only_certificates_that_are_trusted_are_taken() {
    let mut appliance = Appliance::new();
    let www = appliance.path("www");
    Release::new("2.0.0").publish(&www, &appliance.secret);
    let Some((_server, port)) = serve(&www, BODIES) else { return };
    appliance.set(Key::Server, &format!("https://127.0.0.1:{port}"));
    let error = chain(appliance.apply(PLAIN).unwrap_err());
    assert!(error.contains("certificate"), "{error}");
    let crt = appliance.path("tls.crt");
    appliance.set(Key::CaFile, crt.to_str().unwrap());
    let outcome = appliance.apply(PLAIN).map_err(chain);
    assert!(matches!(outcome, Ok(Outcome::Staged(_))), "{outcome:?}");
    // The same server under a name that is not in its certificate.
    appliance.set(Key::Server, &format!("https://127.0.0.2:{port}"));
    assert!(appliance.check(PLAIN).is_err());
}

#[test]
fn n03_a_redirect_from_tls_to_none_is_not_followed() {
    let mut appliance = Appliance::new();
    let www = appliance.path("www");
    fs::create_dir_all(&www).unwrap();
    let was_asked = Arc::new(AtomicBool::new(false));
    let asked = Arc::clone(&was_asked);
    let plain = Plain::answering(move |_, stream| {
        asked.store(true, Ordering::SeqCst);
        send(stream, "404 Not Found", "", b"");
    });
    let Some((_server, port)) = serve(&www, ANSWERS) else { return };
    let crt = appliance.path("tls.crt");
    appliance.set(Key::CaFile, crt.to_str().unwrap());
    appliance.set(Key::Server, &format!("https://127.0.0.1:{port}"));
    // The other host is one that may be asked, with TLS.
    appliance.set(Key::AllowedHosts, plain.url.trim_start_matches("http://"));
    for (location, problem) in [
        (format!("{}/latest.json", plain.url), "without TLS"),
        (format!("http://127.0.0.1:{port}/latest.json"), "without TLS"),
        (format!("https://127.0.0.2:{port}/latest.json"), "another host"),
    ] {
        let answer =
            format!("HTTP/1.1 302 Found\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n");
        fs::write(www.join("latest.json"), answer).unwrap();
        let error = chain(appliance.check(PLAIN).unwrap_err());
        assert!(error.contains(problem), "{location}: {error}");
    }
    assert!(!was_asked.load(Ordering::SeqCst), "nobody was asked without TLS");
}

#[test]
fn n03_a_file_of_certificates_that_is_of_no_use_is_an_error_and_not_no_check() {
    let mut appliance = Appliance::new();
    appliance.set(Key::Server, "https://127.0.0.1:1");
    fs::write(appliance.path("empty.pem"), "").unwrap();
    for (name, problem) in [("empty.pem", "no certificate"), ("missing.pem", "cannot read")] {
        let path = appliance.path(name);
        appliance.set(Key::CaFile, path.to_str().unwrap());
        let error = chain(appliance.check(PLAIN).unwrap_err());
        assert!(error.contains(problem), "{name}: {error}");
    }
}
