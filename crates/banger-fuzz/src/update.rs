//! What an update agent reads: what servers sign, what operators and clouds write, what GRUB and
//! an earlier run have left, what name servers answer.

use std::collections::BTreeMap;
use std::path::Path;

use banger_trust::{Manifest, SignedDocument as _};
use banger_update::{BLOCK_LEN, EnvBlock, Record};
use os_update::dns::{Answer, Kind, decode_answer, encode_query, in_hosts, parse_config};
use os_update::settings::{Merged, parse_conf};
use os_update::{cloud_init, settings};

/// What is taken has what an installation takes, and nothing that drives a terminal.
pub(crate) fn manifest(bytes: &[u8]) {
    let hint = Manifest::signature_url_hint(bytes);
    assert!(hint.is_none_or(|url| url.bytes().all(|b| b.is_ascii_graphic())));
    let Ok(manifest) = Manifest::parse(bytes) else { return };
    assert!(bytes.len() <= Manifest::MAX_LEN);
    for artifact in [&manifest.kernel, &manifest.initramfs] {
        assert!(!artifact.url.is_empty() && artifact.url.bytes().all(|b| b.is_ascii_graphic()));
        let bounded = artifact.size.is_none_or(|size| size <= artifact.name.default_max_len());
        assert!(bounded);
    }
    assert!(!manifest.release_notes.contains(|c: char| c.is_control() && c != '\n'));
    // Versions become names and words of command lines.
    let version = manifest.version.to_string();
    assert!(version.bytes().all(|b| b.is_ascii_alphanumeric() || b".-+".contains(&b)));
}

/// Whatever a file says, signatures are not skipped by it.
pub(crate) fn conf(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let file = parse_conf(&text);
    assert!(file.values.values().all(|value| !value.contains(char::is_control)));
    if let Ok(valid) = Merged::new(&BTreeMap::new(), &file).validate(None) {
        let key = file.values.get(&settings::Key::Pubkey).is_some_and(|key| !key.is_empty());
        assert_eq!(valid.keys.is_some(), key, "a key that is named is used");
    }
}

/// What is taken from user data is what `update.conf` then says, and never replaces what it said.
pub(crate) fn cloud_init(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let Ok(block) = cloud_init::parse(&text) else { return };
    let (fresh, refused) = cloud_init::merge("", &block);
    assert!(refused.is_empty());
    assert_eq!(parse_conf(&fresh.unwrap_or_default()).values, block);
    let before = "pubkey=AAAA\nserver=https://a.example.com/\n";
    let (merged, _) = cloud_init::merge(before, &block);
    let after = parse_conf(merged.as_deref().unwrap_or(before)).values;
    for (key, value) in parse_conf(before).values {
        assert_eq!(after.get(&key), Some(&value));
    }
}

/// A block that is read is written as it was; one that is changed stays a block.
pub(crate) fn env(bytes: &[u8]) {
    let Ok(mut block) = EnvBlock::parse(bytes) else { return };
    assert_eq!(block.to_bytes().as_slice(), bytes);
    if block.set("slot_b", "3").is_ok() {
        let again = EnvBlock::parse(&block.to_bytes());
        assert_eq!(again.map(|block| block.get("slot_b")), Ok(Some("3".to_owned())));
        assert!(block.used() <= BLOCK_LEN);
    }
}

/// What is read is written and read as the same.
pub(crate) fn record(bytes: &[u8]) {
    let path = Path::new("state.json");
    let Ok(record) = Record::decode(bytes, path) else { return };
    let again = Record::decode(&record.encode(), path);
    // Reasons are shortened when they are written.
    assert!(again.is_ok_and(|again| again.state.name() == record.state.name()));
}

/// An answer is one to the question, and bounded.
pub(crate) fn dns(bytes: &[u8]) {
    for kind in [Kind::A, Kind::Aaaa] {
        let Ok(query) = encode_query(7, "a.example.com", kind) else { return };
        if let Some(Answer::Addresses(found)) = decode_answer(bytes, &query, 7, kind) {
            assert!(bytes.starts_with(&7_u16.to_be_bytes()) && found.len() <= 16);
        }
    }
    let text = String::from_utf8_lossy(bytes);
    assert!(parse_config(&text).servers.len() <= 3);
    assert!(in_hosts(&text, "localhost").len() <= 16);
    let _ = encode_query(7, &text, Kind::A);
}
