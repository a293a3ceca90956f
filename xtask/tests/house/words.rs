//! Words that have no business in the tree: traces of where it was made.

use crate::sources::{files, read};

const TEXTS: [&str; 9] =
    [".rs", ".md", ".toml", ".lock", ".yml", ".snap", ".gitignore", "LICENSE", "run"];

/// Hosts that addresses in the tree may name: what a reader can look at, and what is set aside
/// for examples, and the registry that a reference to an image means when it names none. A registry
/// that one machine happens to use is not among them.
const HOSTS: [&str; 13] = [
    "apache.org",
    "crates.io",
    "deb.debian.org",
    "docker.io",
    "docs.rs",
    "example.com",
    "example.org",
    "github.com",
    "keepachangelog.com",
    "rust-lang.org",
    "rustup.rs",
    "semver.org",
    "spdx.org",
];

#[test]
fn nothing_tells_of_the_place_where_it_was_made() {
    // Put together here, so that this file does not have them, either.
    let words = [["/work/", "main"], ["/work/", "shared"], ["/tmp/", "brief"]].map(|w| w.concat());
    for path in files(&TEXTS) {
        let text = read(&path);
        for word in &words {
            assert!(!text.contains(word), "{} mentions {word}", path.display());
        }
    }
}

#[test]
fn addresses_lead_to_known_places() {
    for path in files(&TEXTS) {
        let text = read(&path);
        for after in text.split("://").skip(1) {
            let end = after.find(|c: char| !(c.is_ascii_alphanumeric() || ".-".contains(c)));
            let host = &after[..end.unwrap_or(after.len())];
            let known = HOSTS.iter().any(|h| host == *h || host.ends_with(&format!(".{h}")));
            // A number is an address of a test, and a word without a dot is no host at all.
            let is_name = host.contains('.') && host.contains(|c: char| c.is_ascii_alphabetic());
            assert!(known || !is_name, "{} names {host}", path.display());
        }
    }
}
