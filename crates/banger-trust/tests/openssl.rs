//! Signatures and keys, exchanged with the real `openssl` in both directions.
#![expect(clippy::disallowed_methods, reason = "tests run the tools that users have")]
#![expect(clippy::unwrap_used, reason = "helpers of tests, which clippy does not take for tests")]

use std::path::Path;
use std::process::Command;

use banger_trust::{Expected, KeySet, PublicKey, SecretKey, Signature, SignedBy, Trust};

fn openssl(dir: &Path, args: &[&str]) -> bool {
    let output = Command::new("openssl").args(args).current_dir(dir).output().unwrap();
    output.status.success()
}

fn has_openssl() -> bool {
    let there = Command::new("openssl").arg("version").output().is_ok_and(|o| o.status.success());
    if !there {
        banger_testkit::skipped("openssl is not installed");
    }
    there
}

fn verifies(key: &PublicKey, message: &[u8], signature: &Signature) -> bool {
    let trust = Trust::Keys(KeySet::new([key.clone()]).unwrap());
    let expected = Expected { max_len: u64::MAX, len: None, digest: None };
    let by = SignedBy::Key(key.id());
    let mut check = trust.check(&by, Some(signature), expected).unwrap();
    check.update(message).unwrap();
    check.finish().is_ok()
}

#[test]
fn keys_and_signatures_of_openssl_are_understood() {
    if !has_openssl() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    std::fs::write(at("message"), b"one release").unwrap();
    assert!(openssl(dir.path(), &["genpkey", "-algorithm", "ed25519", "-out", "key.pem"]));
    assert!(openssl(dir.path(), &["pkey", "-in", "key.pem", "-pubout", "-out", "pub.pem"]));
    let sign = "pkeyutl -sign -inkey key.pem -rawin -in message -out message.sig";
    assert!(openssl(dir.path(), &sign.split(' ').collect::<Vec<_>>()));
    assert!(openssl(dir.path(), &["base64", "-in", "message.sig", "-out", "message.b64"]));
    let public = PublicKey::parse(&std::fs::read(at("pub.pem")).unwrap()).unwrap();
    let secret = SecretKey::parse(&std::fs::read(at("key.pem")).unwrap()).unwrap();
    assert_eq!(secret.public(), public);
    let signature = Signature::parse(&std::fs::read(at("message.sig")).unwrap()).unwrap();
    assert_eq!(Signature::parse(&std::fs::read(at("message.b64")).unwrap()), Ok(signature));
    assert!(verifies(&public, b"one release", &signature));
    assert!(!verifies(&public, b"one releasE", &signature));
    assert_eq!(secret.sign(b"one release"), signature, "Ed25519 signs without chance");
}

#[test]
fn openssl_understands_our_keys_and_signatures() {
    if !has_openssl() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let secret = SecretKey::from_seed([42; 32]);
    std::fs::write(at("message"), b"one release").unwrap();
    std::fs::write(at("other"), b"another release").unwrap();
    std::fs::write(at("pub.pem"), secret.public().to_pem()).unwrap();
    std::fs::write(at("key.pem"), secret.to_pem()).unwrap();
    std::fs::write(at("sig"), secret.sign(b"one release").bytes()).unwrap();
    let verify = |message: &str| {
        let line =
            format!("pkeyutl -verify -pubin -inkey pub.pem -rawin -in {message} -sigfile sig");
        openssl(dir.path(), &line.split(' ').collect::<Vec<_>>())
    };
    assert!(verify("message"));
    assert!(!verify("other"));
    assert!(openssl(dir.path(), &["pkey", "-in", "key.pem", "-noout"]));
}
