//! What comes from outside: how much, from where, and how little of it reaches the places where
//! a fault costs most.

use std::collections::BTreeSet;

use banger_testkit::repo_root;

use crate::graph::tree;

/// Most packages in `Cargo.lock`. More is a decision, made here: a third of them serve the daemon
/// (hyper and axum, SQLite and its cache of statements, tracing, the metrics). TLS and decompression
/// for images from registries and kernels are 18, and the certificates that os-update has in it 1; Ed25519 and its
/// test vectors are 9; YAML is 2; ten more only name Windows and are never built.
const MAX_LOCKED: usize = 228;

/// Packages that come in two versions, each with the reason why that cannot be avoided.
const TWICE: [(&str, &str); 2] = [
    ("getrandom", "ring, which TLS rests on, still asks for 0.2 in its newest release"),
    ("syn", "the macros of curve25519-dalek still ask for 2; they run only while compiling"),
];

/// Everything that may end up in the guest agent, which runs as PID 1 in every sandbox. What
/// comes with macros runs only while compiling, but is compiled from the same hands.
const IN_AGENT: [&str; 18] = [
    "banger-agent",
    "banger-link",
    "banger-model",
    "bitflags",
    "cobs",
    "libc",
    "linux-raw-sys",
    "postcard",
    "proc-macro2",
    "quote",
    "rustix",
    "serde",
    "serde_core",
    "serde_derive",
    "syn",
    "thiserror",
    "thiserror-impl",
    "unicode-ident",
];

#[test]
fn the_agent_is_made_of_little() {
    let allowed: BTreeSet<String> = IN_AGENT.iter().map(|name| (*name).to_owned()).collect();
    let closure = tree(&["-p", "banger-agent", "-e", "normal"]);
    let new: Vec<_> = closure.difference(&allowed).collect();
    assert!(new.is_empty(), "new in the guest agent: {new:?}");
    let gone: Vec<_> = allowed.difference(&closure).collect();
    assert!(gone.is_empty(), "no longer in the guest agent, so take them off the list: {gone:?}");
}

/// Crates that are pure have nothing in them that does any I/O.
#[test]
fn pure_crates_are_made_of_pure_ones() {
    for name in ["banger-model", "banger-link", "banger-trust"] {
        let closure = tree(&["-p", name, "-e", "normal"]);
        for impure in ["tokio", "mio", "rusqlite", "rustix", "libc", "banger-host"] {
            assert!(!closure.contains(impure), "{impure} is in {name}");
        }
    }
}

#[test]
fn the_number_of_packages_is_bounded() {
    let lock = std::fs::read_to_string(repo_root().join("Cargo.lock")).unwrap();
    let count = lock.lines().filter(|line| *line == "[[package]]").count();
    assert!(count <= MAX_LOCKED, "{count} packages in Cargo.lock, at most {MAX_LOCKED} wanted");
}

/// Two versions of one package are two places to mend.
#[test]
fn no_package_comes_in_two_versions() {
    let mut twice = tree(&["--workspace", "--duplicates", "--depth", "0"]);
    // Empty lines stand between them.
    twice.remove("");
    for (name, reason) in TWICE {
        assert!(twice.remove(name), "{name} comes once now, so take it off the list ({reason})");
    }
    assert!(twice.is_empty(), "in more than one version: {twice:?}");
}

#[test]
fn everything_comes_from_the_one_registry() {
    for lock in ["Cargo.lock", "fuzz/Cargo.lock"] {
        let text = std::fs::read_to_string(repo_root().join(lock)).unwrap();
        for line in text.lines().filter(|line| line.starts_with("source = ")) {
            let expected = "source = \"registry+https://github.com/rust-lang/crates.io-index\"";
            assert_eq!(line, expected, "in {lock}");
        }
    }
}
