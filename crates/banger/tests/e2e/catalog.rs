//! Catalogs from end to end: made of an image that is here, served by a plain web server, and pulled
//! by somebody else.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use banger_testkit::oci::images::TestImage;
use banger_testkit::oci::registry::lay_out;
use serde_json::{Value, json};

use crate::images::{Put, busybox, gives, image, layer};
use crate::support::TestEnv;

/// Serves the files of a directory on loopback for as long as it lives.
pub(crate) struct WebServer {
    pub(crate) host: String,
    ends: Arc<AtomicBool>,
}

impl WebServer {
    pub(crate) fn of(dir: &Path) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let ends = Arc::new(AtomicBool::new(false));
        let (dir, ended) = (dir.to_owned(), ends.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if ended.load(Ordering::SeqCst) {
                    return;
                }
                // A client that goes away ends nothing but its own connection.
                let _ = answer(&stream.unwrap(), &dir);
            }
        });
        Self { host, ends }
    }
}

impl Drop for WebServer {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(&self.host);
    }
}

fn answer(mut stream: &TcpStream, dir: &Path) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream).lines();
    let first = lines.next().unwrap_or_else(|| Ok(String::new()))?;
    while lines.next().transpose()?.is_some_and(|line| !line.is_empty()) {}
    let path = first.split(' ').nth(1).unwrap_or_default().trim_start_matches('/');
    let (status, body) = match std::fs::read(dir.join(path)) {
        Ok(body) => ("200 OK", body),
        Err(_) => ("404 Not Found", Vec::new()),
    };
    let length = body.len();
    write!(stream, "HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n")?;
    stream.write_all(&body)
}

fn small_image(says: &str) -> Option<TestImage> {
    let about = layer(&[Put::File("etc/says", says)]);
    Some(image(vec![busybox()?, about], &json!({ "Cmd": ["/bin/cat", "/etc/says"] })))
}

/// Makes an image called `small` of what it says.
fn make_small(env: &TestEnv, says: &str) -> Option<()> {
    let layout = env.home().join(format!("layout-{says}"));
    lay_out(&layout, "v1", &small_image(&format!("{says}\n"))?);
    let source = format!("oci:{}:v1", layout.display());
    assert_eq!(env.run(["image", "pull", "--name", "small", &source]).ok(), "small\n");
    Some(())
}

#[test]
fn a_catalog_is_made_served_and_pulled_from() {
    let Some(env) = TestEnv::with_machines().map(TestEnv::with_own_images) else { return };
    if make_small(&env, "hello").is_none() {
        return;
    }
    let out: PathBuf = env.home().join("public");
    let dir = out.to_str().unwrap();
    let public = env.run(["catalog", "genkey", "key.pem"]).ok().trim().to_owned();
    let build = ["catalog", "build", "--image", "small=tools", "--key", "key.pem", dir];
    assert_eq!(env.run(build).ok(), "1\n");
    let verified = env.run(["catalog", "verify", "--key", &public, dir]).ok();
    assert!(verified.contains("serial 1, ") && verified.contains("1 images"), "{verified}");
    let server = WebServer::of(&out);
    let config = format!("[catalog]\nurl = \"http://{}/\"\nkey = {public:?}\n", server.host);
    std::fs::write(env.home().join("config.toml"), config).unwrap();
    env.kill_daemon();
    gives(&env, "image delete small", "small\n");

    let shown: Value =
        serde_json::from_str(&env.run(["catalog", "show", "-o", "json"]).ok()).unwrap();
    let names: Vec<_> = shown.as_array().unwrap().iter().map(|row| row["name"].clone()).collect();
    assert_eq!(names, ["debian-bookworm", "debian-cloud", "tools"]);
    // A name of the catalog goes before a reference, also where a sandbox needs it.
    gives(&env, "vm run --network none --image tools", "hello\n");
    gives(&env, "image pull tools", "tools\n");

    // An index of before is refused, and what is here goes on without the server.
    let older: Vec<_> = ["index.json", "index.json.sig"]
        .map(|name| (name, std::fs::read(out.join(name)).unwrap()))
        .into();
    assert_eq!(env.run(["catalog", "build", "--key", "key.pem", dir]).ok(), "2\n");
    let updated = env.run(["catalog", "update"]).ok();
    assert!(updated.contains("serial 2, ") && updated.contains("0 images"), "{updated}");
    for (name, bytes) in older {
        std::fs::write(out.join(name), bytes).unwrap();
    }
    let replayed = env.run(["catalog", "update"]);
    assert_eq!(replayed.status, 1);
    assert!(replayed.stderr.contains("serial 1 is lower than 2"), "{}", replayed.stderr);
    drop(server);
    gives(&env, "vm run --network none --image tools", "hello\n");
    env.assert_nothing_left();
}
