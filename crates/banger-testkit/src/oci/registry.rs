//! The registry that everybody runs, and the tool that everybody copies images with.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::json;

use super::images::{OCI_MANIFEST, TestImage, descriptor, sha256};
use crate::skipped;

/// `someone` with the password `pass:word`.
const HTPASSWD: &str = "someone:$2y$05$2Q5x9BE8tfLVBN5MZCVhQ.wO0QIAk2basLgTh.SWLVrwmjm3XCeBK\n";
/// The name and the password of the one user.
pub const CREDENTIALS: &str = "someone:pass:word";

/// A running registry; it ends with this value.
#[derive(Debug)]
pub struct Registry {
    child: Child,
    /// Where it listens: `HOST:PORT`.
    pub host: String,
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Who may use it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Auth {
    /// Everybody.
    None,
    /// Who has [`CREDENTIALS`].
    Basic,
}

impl Registry {
    /// `None` where there is none, after saying so.
    pub fn start(dir: &Path, auth: Auth) -> Option<Self> {
        let root = dir.join("registry");
        let mut config = json!({
            "version": "0.1",
            "log": { "level": "info", "accesslog": { "disabled": true } },
            "storage": { "filesystem": { "rootdirectory": root } },
            "http": { "addr": "127.0.0.1:0", "secret": "none" },
        });
        if matches!(auth, Auth::Basic) {
            let htpasswd = dir.join("htpasswd");
            std::fs::write(&htpasswd, HTPASSWD).unwrap();
            config["auth"] = json!({ "htpasswd": { "realm": "test", "path": htpasswd } });
        }
        // JSON is YAML.
        let path = dir.join("registry.yml");
        std::fs::write(&path, config.to_string()).unwrap();
        let child = Command::new("docker-registry")
            .arg("serve")
            .arg(&path)
            .env("OTEL_TRACES_EXPORTER", "none")
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn();
        let Ok(mut child) = child else {
            skipped("docker-registry is not installed");
            return None;
        };
        let mut log = BufReader::new(child.stderr.take().unwrap()).lines();
        let port = log.by_ref().map_while(Result::ok).find_map(|line| {
            let (_, rest) = line.split_once("listening on 127.0.0.1:")?;
            Some(rest.chars().take_while(char::is_ascii_digit).collect::<String>())
        });
        // It writes on as long as it runs, and must not wait for a reader.
        std::thread::spawn(move || log.for_each(drop));
        let host = format!("127.0.0.1:{}", port.expect("it says where it listens"));
        Some(Self { child, host })
    }
}

/// Copies an image; `None` where skopeo is missing, after saying so.
pub fn skopeo(args: &[&str]) -> Option<()> {
    let output =
        Command::new("skopeo").args(["--insecure-policy", "copy", "--quiet"]).args(args).output();
    let Ok(output) = output else {
        skipped("skopeo is not installed");
        return None;
    };
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Some(())
}

/// A layout of the OCI with this image.
pub fn lay_out(dir: &Path, tag: &str, image: &TestImage) {
    let blobs = dir.join("blobs/sha256");
    std::fs::create_dir_all(&blobs).unwrap();
    let mut all = vec![&image.manifest, &image.config];
    all.extend(image.layers.iter().map(|layer| &layer.bytes));
    for bytes in all {
        std::fs::write(blobs.join(sha256(bytes).hex()), bytes).unwrap();
    }
    let mut entry = descriptor(OCI_MANIFEST, &image.manifest);
    entry["annotations"] = json!({ "org.opencontainers.image.ref.name": tag });
    let path = dir.join("index.json");
    let mut index = match std::fs::read(&path) {
        Ok(json) => serde_json::from_slice(&json).unwrap(),
        Err(_) => json!({ "schemaVersion": 2, "manifests": [] }),
    };
    index["manifests"].as_array_mut().unwrap().push(entry);
    std::fs::write(&path, index.to_string()).unwrap();
    std::fs::write(dir.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
}
