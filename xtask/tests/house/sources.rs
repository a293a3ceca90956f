//! The shape of our source files, as far as neither the compiler nor clippy looks at it.

use std::fs;
use std::path::{Path, PathBuf};

use banger_testkit::repo_root;

/// Most lines of code in one file, without comments and blank lines. Aim at 400; a file that
/// comes near this has more than one job.
const MAX_CODE_LINES: usize = 600;

/// What crates without I/O never name. Addresses and paths as plain values are no I/O.
const IMPURE: [&str; 14] = [
    "std::env",
    "std::fs",
    "std::io",
    "std::net::Tcp",
    "std::net::Udp",
    "std::os",
    "std::process",
    "std::thread",
    "std::time::Instant",
    "std::time::SystemTime",
    "tokio",
    "rusqlite",
    "rustix",
    "libc",
];

/// Every file with this ending that belongs to the tree.
pub(crate) fn files(endings: &[&str]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut left = vec![repo_root().to_owned()];
    while let Some(dir) = left.pop() {
        for entry in fs::read_dir(&dir).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            // Build results and what tools leave: all that .gitignore names.
            let ignored = ["target", ".git", "artifacts", "coverage", "corpus"];
            if path.is_dir() {
                if !ignored.contains(&name.as_str()) {
                    left.push(path);
                }
            } else if endings.iter().any(|ending| name.ends_with(ending)) {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

pub(crate) fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn rust_files() -> Vec<PathBuf> {
    files(&[".rs"])
}

/// The lines of code before the unit tests.
fn code_lines(text: &str) -> usize {
    let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
    let counts = |line: &&str| !line.trim().is_empty() && !line.trim().starts_with("//");
    code.lines().filter(counts).count()
}

#[test]
fn every_file_says_what_it_is_for() {
    for path in rust_files() {
        // A fuzz target is one line that calls what is explained in the library; unit tests that
        // have grown out of their file are explained there.
        if path.starts_with(repo_root().join("fuzz")) || path.ends_with("tests.rs") {
            continue;
        }
        let text = read(&path);
        assert!(text.starts_with("//! "), "{} does not begin with its purpose", path.display());
    }
}

#[test]
fn files_stay_small() {
    for path in rust_files() {
        let lines = code_lines(&read(&path));
        assert!(lines <= MAX_CODE_LINES, "{} has {lines} lines of code", path.display());
    }
}

#[test]
fn exceptions_to_lints_are_expected_and_have_a_reason() {
    let (allow, expect) = (["#[", "#!["].map(|mark| format!("{mark}allow(")), "expect(clippy");
    for path in rust_files() {
        let text = read(&path);
        for mark in &allow {
            assert!(!text.contains(mark), "{}: write `expect` with a reason", path.display());
        }
        for part in text.split(expect).skip(1) {
            let attribute = part.split(")]").next().unwrap_or_default();
            assert!(attribute.contains("reason"), "{}: {attribute}", path.display());
        }
    }
}

#[test]
fn pure_crates_name_nothing_impure() {
    for name in ["banger-model", "banger-link", "banger-trust"] {
        let src = repo_root().join("crates").join(name).join("src");
        for path in rust_files().into_iter().filter(|path| path.starts_with(&src)) {
            let text = read(&path);
            let code = text.lines().filter(|line| !line.trim().starts_with("//"));
            for line in code {
                let named = IMPURE.iter().find(|impure| line.contains(*impure));
                assert!(named.is_none(), "{}: {line}", path.display());
            }
        }
    }
}

#[test]
fn every_crate_takes_the_lints_of_the_workspace() {
    let root = repo_root();
    for path in files(&["Cargo.toml"]) {
        let apart = path == root.join("Cargo.toml") || path.starts_with(root.join("fuzz"));
        let inherits = read(&path).contains("[lints]\nworkspace = true");
        assert!(apart || inherits, "{} has lints of its own or none", path.display());
    }
}

#[test]
fn tests_skip_through_the_one_door() {
    let said = concat!("\"skip", "ped: ");
    let door = repo_root().join("crates/banger-testkit/src/lib.rs");
    let skipping: Vec<_> = rust_files()
        .into_iter()
        .filter(|path| *path != door && read(path).contains(said))
        .map(|path| path.strip_prefix(repo_root()).unwrap().to_string_lossy().into_owned())
        .collect();
    assert!(skipping.is_empty(), "use banger_testkit::skipped: {skipping:?}");
}

#[test]
fn counting_leaves_out_comments_and_tests() {
    assert_eq!(code_lines("//! a\n\nfn b() {\n    // c\n}\n#[cfg(test)]\nmod tests {\n}\n"), 2);
}
