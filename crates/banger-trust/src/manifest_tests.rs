//! Manifests as servers write them, and as attackers do.

use super::*;
use crate::key::{KeySet, SecretKey};
use crate::verified::{Trust, Verified};
use crate::{OpenError, Signature};

const GOOD: &str = r#"{
  "version": "v1.4.0",
  "vmlinuz_url": "https://updates.example.com/v1.4.0/vmlinuz",
  "vmlinuz_sha256": "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
  "vmlinuz_sig_url": "https://updates.example.com/v1.4.0/vmlinuz.sig",
  "vmlinuz_size": 8000000,
  "initramfs_url": "v1.4.0/kubesolo-os.gz",
  "initramfs_sha256": "0a7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
  "initramfs_sig_url": "",
  "metadata_sig_url": "https://updates.example.com/latest.json.sig",
  "release_notes": "Fixes.\n\u001b[2JMore.",
  "release_date": "2027-01-31",
  "channel": "stable",
  "min_compatible_version": "1.2.0",
  "architecture": "amd64",
  "serial": 42,
  "expires": "2027-03-01T00:00:00Z",
  "via": [{"version": "1.2.9", "url": "v1.2.9/latest.json"}],
  "rollout": {"start": "2027-02-01T00:00:00Z", "hours": 48, "percent": 100},
  "something_new": {"a": [1, 2.5, null]}
}"#;

fn parse(text: &str) -> Result<Manifest, DocumentError> {
    Manifest::parse(text.as_bytes())
}

/// The manifest with one of its lines written anew.
fn with(field: &str, line: &str) -> String {
    let start = format!("  \"{field}\"");
    let lines: Vec<&str> =
        GOOD.lines().map(|l| if l.starts_with(&start) { line } else { l }).collect();
    assert!(lines.contains(&line), "{field} is not in it");
    lines.join("\n")
}

#[test]
fn everything_that_is_said_is_read() {
    let manifest = parse(GOOD).unwrap();
    assert_eq!(manifest.version, "1.4.0".parse().unwrap());
    assert_eq!(manifest.kernel.size, Some(8_000_000));
    assert_eq!(manifest.initramfs.url, "v1.4.0/kubesolo-os.gz");
    assert_eq!(manifest.initramfs.signature_url, None, "an empty address is none");
    assert_eq!(manifest.channel.as_ref().map(Channel::as_str), Some("stable"));
    assert_eq!(manifest.via[0].version.to_string(), "1.2.9");
    assert_eq!(manifest.freshness.serial, Some(42));
    assert_eq!(manifest.rollout.unwrap().hours, 48);
    assert_eq!(manifest.release_notes, "Fixes.\n[2JMore.", "no terminal is driven by notes");
    let hint = Manifest::signature_url_hint(GOOD.as_bytes());
    assert_eq!(hint.as_deref(), Some("https://updates.example.com/latest.json.sig"));
}

#[test]
fn what_may_be_left_out_may_be_empty_or_null_as_well() {
    let fields = ["channel", "architecture", "min_compatible_version", "expires", "release_notes"];
    for field in fields {
        for value in ["\"\"", "null"] {
            assert!(parse(&with(field, &format!("  \"{field}\": {value},"))).is_ok(), "{field}");
        }
        assert!(parse(&with(field, "")).is_ok(), "{field}");
    }
}

#[test]
fn t06_digests_are_mandatory() {
    for field in ["vmlinuz_sha256", "initramfs_sha256", "vmlinuz_url", "initramfs_url"] {
        for line in
            ["".to_owned(), format!("  \"{field}\": null,"), format!("  \"{field}\": \"\",")]
        {
            let error = parse(&with(field, &line)).unwrap_err();
            assert!(
                matches!(error, DocumentError::Field { field: f, .. } if f == field),
                "{error}"
            );
        }
    }
}

#[test]
fn t15_t16_values_that_make_no_sense_are_refused() {
    for (field, value) in [
        ("version", "\"1.4\""),
        ("version", "\"../1.4.0\""),
        ("version", "\"\""),
        ("version", "14"),
        ("vmlinuz_url", "\"https://a.example.com/\\u0000\""),
        ("vmlinuz_url", "\"https://a.example.com/a b\""),
        ("vmlinuz_sha256", "\"ba78\""),
        ("vmlinuz_size", "-1"),
        ("vmlinuz_size", "1.5"),
        ("vmlinuz_size", "0"),
        ("vmlinuz_size", "9000000000000"),
        ("channel", "\"sta ble\""),
        ("channel", "[\"stable\"]"),
        ("architecture", "\"amd64\\n\""),
        ("min_compatible_version", "\"1\""),
        ("serial", "18446744073709551616"),
        ("serial", "-1"),
        ("serial", "\"42\""),
        ("expires", "\"tomorrow\""),
        ("expires", "1900000000"),
        ("via", "[{\"version\": \"1\", \"url\": \"x\"}]"),
        ("via", "[{\"version\": \"1.0.0\", \"url\": \"\"}]"),
        ("via", "{}"),
        ("rollout", "{\"start\": \"2027-02-01\", \"hours\": 1, \"percent\": 101}"),
        ("rollout", "{\"start\": \"\", \"hours\": 1, \"percent\": 1}"),
        ("rollout", "50"),
    ] {
        let text = with(field, &format!("  \"{field}\": {value},"));
        assert!(parse(&text).is_err(), "{field}: {value}");
    }
    assert!(parse(&with("serial", "  \"serial\": 18446744073709551615,")).is_ok());
    let many = format!("  \"via\": [{}],", [r#"{"version":"1.0.0","url":"x"}"#; 17].join(","));
    assert!(parse(&with("via", &many)).is_err());
}

#[test]
fn t16_what_could_be_read_in_two_ways_is_refused() {
    for line in [
        "  \"channel\": \"stable\", \"channel\": \"beta\",",
        "  \"channel\": \"stable\", \"other\": 1, \"other\": 2,",
        "  \"channel\": \"stable\", \"ch\\u0061nnel\": \"beta\",",
    ] {
        assert!(parse(&with("channel", line)).is_err(), "{line}");
    }
    let deep = format!("  \"serial\": 1, \"deep\": {}{},", "[".repeat(50), "]".repeat(50));
    for text in [
        with("serial", &deep),
        format!("\u{feff}{GOOD}"),
        format!("{GOOD}{GOOD}"),
        format!("{GOOD}{}", " ".repeat(MAX_LEN)),
        String::new(),
        "null".into(),
    ] {
        assert!(parse(&text).is_err());
    }
}

#[test]
fn t16_a_form_that_is_not_known_is_told_apart() {
    let newer = with("serial", "  \"serial\": 1, \"schema\": \"os-release/2\",");
    let error = parse(&newer).unwrap_err();
    assert!(error.to_string().contains("update the updater"), "{error}");
    let same = with("serial", "  \"serial\": 1, \"schema\": \"os-release/1\",");
    assert!(parse(&same).is_ok());
}

fn open(bytes: &[u8], signature: &Signature) -> Result<Verified<Manifest>, OpenError> {
    let keys = KeySet::new([SecretKey::from_seed([1; 32]).public()]).unwrap();
    Trust::Keys(keys).open(bytes, Some(signature))
}

#[test]
fn t01_t14_every_byte_of_a_signed_manifest_changed_added_or_left_out_is_refused() {
    let signature = SecretKey::from_seed([1; 32]).sign(GOOD.as_bytes());
    assert!(open(GOOD.as_bytes(), &signature).is_ok());
    for at in 0..GOOD.len() {
        for flip in [0x01, 0x20, 0x80] {
            let mut bytes = GOOD.as_bytes().to_vec();
            bytes[at] ^= flip;
            assert!(open(&bytes, &signature).is_err(), "byte {at} changed");
        }
        let mut bytes = GOOD.as_bytes().to_vec();
        bytes.remove(at);
        assert!(open(&bytes, &signature).is_err(), "byte {at} left out");
        bytes.insert(at, b' ');
        bytes.insert(at, GOOD.as_bytes()[at]);
        assert!(open(&bytes, &signature).is_err(), "a space behind byte {at}");
    }
    for at in 0..64 {
        for bit in 0..8 {
            let mut bytes = *signature.bytes();
            bytes[at] ^= 1 << bit;
            let bytes = Signature::parse(&bytes).unwrap();
            assert!(open(GOOD.as_bytes(), &bytes).is_err(), "bit {bit} of byte {at}");
        }
    }
}

#[test]
fn t01_t14_every_field_of_a_signed_manifest_changed_or_left_out_is_refused() {
    let signature = SecretKey::from_seed([1; 32]).sign(GOOD.as_bytes());
    let fields = GOOD.lines().filter_map(|line| line.split('"').nth(1));
    let mut count = 0;
    for field in fields {
        for line in
            ["".to_owned(), format!("  \"{field}\": null,"), format!("  \"{field}\": \"\",")]
        {
            let changed = with(field, &line);
            assert!(changed == GOOD || open(changed.as_bytes(), &signature).is_err(), "{field}");
        }
        count += 1;
    }
    assert_eq!(count, 19);
}

proptest::proptest! {
    #[test]
    fn no_bytes_panic(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
        let _ = Manifest::parse(&bytes);
        let _ = Manifest::signature_url_hint(&bytes);
    }
}
