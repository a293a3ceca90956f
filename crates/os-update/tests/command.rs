//! The program as people call it: output, exit status, files.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers, too")]
#![expect(clippy::disallowed_methods, reason = "these tests run the program")]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Output};

fn os_update(dir: &Path, args: &[&str]) -> Output {
    let conf = dir.join("update.conf");
    Command::new(env!("CARGO_BIN_EXE_os-update"))
        .args(args)
        .arg("--conf")
        .arg(conf)
        .current_dir(dir)
        .env_clear()
        .output()
        .unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A machine of which only the settings and what the kernel was told are there.
fn machine() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    fs::write(at("cmdline"), "os_update.slot=a os_update.nonce=none\n").unwrap();
    fs::write(at("version"), "1.0.0\n").unwrap();
    let conf = format!(
        "state_dir={0}/state\nboot_dir={0}/boot\ncmdline_file={0}/cmdline\nversion_file={0}/version\n\
         colour=red\n",
        dir.path().display()
    );
    fs::write(at("update.conf"), conf).unwrap();
    dir
}

#[test]
fn keys_are_made_once_and_sign_what_openssl_verifies() {
    let dir = machine();
    let at = |name: &str| dir.path().join(name);
    let made = os_update(dir.path(), &["genkey", "release"]);
    assert!(made.status.success(), "{}", text(&made.stderr));
    let mode = fs::metadata(at("release.key")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let before = fs::read(at("release.key")).unwrap();
    assert_eq!(os_update(dir.path(), &["genkey", "release"]).status.code(), Some(1));
    assert_eq!(fs::read(at("release.key")).unwrap(), before, "a key is never overwritten");
    fs::write(at("file"), "content").unwrap();
    assert!(os_update(dir.path(), &["sign", "--key", "release.key", "file"]).status.success());
    assert_eq!(fs::read(at("file.sig")).unwrap().len(), 64);
    let verify = "pkeyutl -verify -pubin -inkey release.pub -rawin -in file -sigfile file.sig";
    match Command::new("openssl").args(verify.split(' ')).current_dir(dir.path()).output() {
        Ok(output) => assert!(output.status.success(), "{}", text(&output.stderr)),
        Err(_) => banger_testkit::skipped("openssl is not installed"),
    }
}

#[test]
fn status_tells_the_state_and_where_settings_come_from() {
    let dir = machine();
    let status = os_update(dir.path(), &["status", "-o", "json", "--channel", "beta"]);
    assert!(status.status.success(), "{}", text(&status.stderr));
    assert!(text(&status.stderr).contains("there is no setting \"colour\""));
    let json: serde_json::Value = serde_json::from_slice(&status.stdout).unwrap();
    assert_eq!((&json["state"], &json["running_version"]), (&"Idle".into(), &"1.0.0".into()));
    let origin = |name: &str| {
        let settings = json["settings"].as_array().unwrap();
        settings.iter().find(|s| s["name"] == name).unwrap()["origin"].clone()
    };
    assert_eq!(
        [origin("channel"), origin("boot_dir"), origin("server")],
        ["flag", "file", "default"]
    );
    assert!(!dir.path().join("state").exists(), "whoever only looks changes nothing");
    let metrics = text(&os_update(dir.path(), &["metrics"]).stdout);
    assert!(metrics.contains("os_update_state{state=\"Idle\"} 1"));
}

#[test]
fn each_kind_of_failure_has_its_status() {
    let dir = machine();
    let code = |args: &[&str]| os_update(dir.path(), args).status.code();
    assert_eq!(code(&["nonsense"]), Some(2));
    assert_eq!(code(&["check", "--maintenance-window", "25:00-26:00"]), Some(2));
    assert_eq!(code(&["apply"]), Some(3), "no key");
    assert_eq!(code(&["apply", "--maintenance-window", "03:00-03:00"]), Some(3));
    assert_eq!(code(&["activate"]), Some(3), "nothing staged");
    assert_eq!(code(&["check"]), Some(1), "no server");
    assert_eq!(code(&["check", "--pubkey", "/nowhere"]), Some(1));
}

#[test]
fn user_data_fills_settings_and_never_replaces_them() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let [ours, other] =
        [1, 2].map(|seed| banger_trust::SecretKey::from_seed([seed; 32]).public().to_base64());
    let take = |user_data: &str| {
        fs::write(at("user-data"), user_data).unwrap();
        let conf = at("etc/kubesolo/update.conf");
        let mut command = Command::new(env!("CARGO_BIN_EXE_os-update"));
        command.args(["cloud-init", "--conf", conf.to_str().unwrap()]).arg(at("user-data"));
        command.output().unwrap()
    };
    let path = at("etc/kubesolo/update.conf");
    for bad in ["pubkey: AAAA", "maintenance_window: 25:00-26:00", "server: a.example.com"] {
        let refused = take(&format!("updates:\n  {bad}\n"));
        assert!(!refused.status.success() && !path.exists(), "{bad}");
    }
    let first = format!("updates:\n  server: https://a.example.com\n  pubkey: {ours}\n");
    assert!(take(&first).status.success(), "parents are made");
    let expected = format!("server=https://a.example.com\npubkey={ours}\n");
    assert_eq!(fs::read_to_string(&path).unwrap(), expected);
    let again = take(&format!("updates:\n  pubkey: {other}\n"));
    assert!(text(&again.stderr).contains("pubkey is set already"));
    assert_eq!(fs::read_to_string(&path).unwrap(), expected);
    let before = fs::metadata(&path).unwrap().modified().unwrap();
    assert!(take("updates: {}\n").status.success());
    assert_eq!(fs::metadata(&path).unwrap().modified().unwrap(), before);
}
