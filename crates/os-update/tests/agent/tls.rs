//! TLS with the real `openssl` at the other end.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use os_update::agent::Outcome;
use os_update::health::chain;
use os_update::settings::Key;

use crate::appliance::{Appliance, PLAIN, Release};

/// A server that ends with its test.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Serves a directory with a certificate for 127.0.0.1 that only its own file vouches for.
fn serve(dir: &Path) -> Option<(Server, u16)> {
    let make = "req -x509 -newkey ed25519 -nodes -days 2 -subj /CN=test -keyout ../tls.key \
                -out ../tls.crt -addext subjectAltName=IP:127.0.0.1 -addext basicConstraints=critical,CA:FALSE";
    let made =
        Command::new("openssl").args(make.split_ascii_whitespace()).current_dir(dir).output();
    let Ok(made) = made else {
        banger_testkit::skipped("openssl is not installed");
        return None;
    };
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let serve = "s_server -accept 127.0.0.1:0 -WWW -cert ../tls.crt -key ../tls.key";
    let mut command = Command::new("openssl");
    command.args(serve.split(' ')).current_dir(dir).stdin(Stdio::null());
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
    let Some((_server, port)) = serve(&www) else { return };
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
