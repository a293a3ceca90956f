//! Documents that are made by the program say what the program says.
#![expect(clippy::unwrap_used, reason = "a test ends where something fails")]
#![expect(clippy::disallowed_methods, reason = "tests are on the other side of the door")]

use std::path::Path;
use std::process::Command;

fn document(name: &str) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs");
    std::fs::read_to_string(root.join(name)).unwrap()
}

#[test]
fn the_openapi_document_is_that_of_the_api() {
    let printed = Command::new(env!("CARGO_BIN_EXE_bangerd")).arg("--openapi").output().unwrap();
    let printed = String::from_utf8(printed.stdout).unwrap();
    assert!(
        document("openapi.json") == printed,
        "the API has changed: `cargo run -p bangerd -- --openapi > docs/openapi.json`"
    );
}

#[test]
fn the_diagram_of_a_life_is_drawn_from_the_code() {
    let diagram = banger_model::lifecycle::diagram();
    assert!(
        document("lifecycle.md").contains(&diagram),
        "the life of a sandbox has changed; its diagram in docs/lifecycle.md is now:\n{diagram}"
    );
}

#[test]
fn a_home_without_a_database_is_checked_and_left_alone() {
    let home = tempfile::tempdir().unwrap();
    let checked = Command::new(env!("CARGO_BIN_EXE_bangerd"))
        .arg("--check-migrations")
        .env("BANGER_HOME", home.path())
        .output()
        .unwrap();
    let said = String::from_utf8(checked.stdout).unwrap();
    assert!(said.starts_with("there is no database; it would be created"), "{said}");
    assert!(!home.path().join("state/banger.db").exists());
}
