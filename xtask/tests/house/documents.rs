//! Documents, as far as a machine can tell whether they are true.

use std::path::Path;

use banger_testkit::repo_root;

use crate::sources::{files, read};

/// A map that takes longer to read than this is not read.
const MAX_ARCHITECTURE_LINES: usize = 300;

fn documents() -> Vec<std::path::PathBuf> {
    files(&[".md"])
}

#[test]
fn links_within_the_tree_lead_somewhere() {
    for path in documents() {
        for target in read(&path).split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let file = target.split('#').next().unwrap_or_default();
            if file.is_empty() || file.contains("://") {
                continue;
            }
            let there = path.parent().unwrap_or(Path::new(".")).join(file).exists();
            assert!(there, "{} links to {target}", path.display());
        }
    }
}

#[test]
fn the_map_is_short_and_shows_every_crate() {
    let map = read(&repo_root().join("ARCHITECTURE.md"));
    let lines = map.lines().count();
    assert!(lines < MAX_ARCHITECTURE_LINES, "ARCHITECTURE.md has {lines} lines");
    for entry in std::fs::read_dir(repo_root().join("crates")).unwrap() {
        let name = entry.unwrap().file_name().to_string_lossy().into_owned();
        assert!(map.contains(&format!("`{name}`")), "ARCHITECTURE.md does not show {name}");
    }
}

#[test]
fn paths_of_this_tree_in_documents_exist() {
    let roots = ["crates/", "docs/", "xtask/", "fuzz/", ".ci/"];
    for path in documents() {
        for code in read(&path).split('`').skip(1).step_by(2) {
            let is_path = roots.iter().any(|root| code.starts_with(root))
                && code.chars().all(|c| c.is_ascii_alphanumeric() || "/._-".contains(c));
            let there = !is_path || repo_root().join(code).exists();
            assert!(there, "{} mentions {code}, which does not exist", path.display());
        }
    }
}

#[test]
fn the_commands_of_the_readme_exist() {
    let menu = read(&repo_root().join("xtask/src/main.rs"));
    for document in ["README.md", "CONTRIBUTING.md"] {
        let text = read(&repo_root().join(document));
        for rest in text.split("cargo xtask ").skip(1) {
            let command: String = rest.chars().take_while(char::is_ascii_lowercase).collect();
            assert!(menu.contains(&format!("Some(\"{command}\")")), "{document}: {command}");
        }
    }
}

/// A row of the threat model that names a test is worth something as long as there is that test.
#[test]
fn the_tests_that_the_threat_model_names_exist() {
    let code: String = files(&[".rs"]).iter().map(|path| read(path)).collect();
    let model = read(&repo_root().join("docs/threat-model.md"));
    let rows = model.lines().filter(|line| {
        let id = line.strip_prefix("| ").unwrap_or_default().as_bytes();
        matches!(id, [b'T' | b'N' | b'F', b'0'..=b'9', b'0'..=b'9', b' ', ..])
    });
    let mut count = 0;
    for row in rows {
        let tests = row.rsplit('|').nth(1).unwrap_or_default();
        for name in tests.split('`').skip(1).step_by(2) {
            assert!(code.contains(&format!("fn {name}()")), "there is no test {name}: {row}");
            count += 1;
        }
        assert!(tests.contains('`') || tests.contains("does not apply"), "{row}");
    }
    assert!(count > 40, "{count}");
}
