//! Every input kept in `fuzz/corpus` against its target, on the stable compiler: what fuzzing
//! once found stays found. And nothing is forgotten: each target has a corpus and a binary.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use banger_fuzz::{TARGETS, run};
use banger_testkit::repo_root;

/// The largest input worth keeping: the corpus is read by every test run.
const MAX_INPUT_LEN: usize = 64 * 1024;

fn files(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display()));
    let mut files: Vec<_> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    files.sort();
    files
}

fn stems(dir: &Path) -> BTreeSet<String> {
    let stem = |path: &PathBuf| Some(path.file_stem()?.to_string_lossy().into_owned());
    files(dir).iter().filter_map(stem).collect()
}

fn target_names() -> BTreeSet<String> {
    TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect()
}

#[test]
fn every_kept_input_holds() {
    for (name, _) in TARGETS {
        let inputs = files(&repo_root().join("fuzz/corpus").join(name));
        assert!(!inputs.is_empty(), "{name} has no corpus");
        for input in inputs {
            #[expect(clippy::disallowed_methods, reason = "files of this repository")]
            let bytes = std::fs::read(&input).unwrap();
            assert!(bytes.len() <= MAX_INPUT_LEN, "{} is too large", input.display());
            let outcome = std::panic::catch_unwind(|| run(name, &bytes));
            assert!(outcome.is_ok(), "{name} fails on {}", input.display());
        }
    }
}

/// Also bytes that nobody thought of: the beginning of every input of every other target.
#[test]
fn no_target_minds_the_inputs_of_another() {
    let inputs =
        TARGETS.iter().flat_map(|(name, _)| files(&repo_root().join("fuzz/corpus").join(name)));
    for input in inputs {
        #[expect(clippy::disallowed_methods, reason = "files of this repository")]
        let bytes = std::fs::read(&input).unwrap();
        for (name, check) in TARGETS {
            let outcome = std::panic::catch_unwind(|| check(&bytes[..bytes.len() / 2]));
            assert!(outcome.is_ok(), "{name} fails on half of {}", input.display());
        }
    }
}

#[test]
fn targets_corpora_and_binaries_are_the_same() {
    let fuzz = repo_root().join("fuzz");
    assert_eq!(stems(&fuzz.join("corpus")), target_names());
    assert_eq!(stems(&fuzz.join("fuzz_targets")), target_names());
}
