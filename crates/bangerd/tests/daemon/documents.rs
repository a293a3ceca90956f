//! Documents that are made by the program say what the program says.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::support::{Answer, Daemon};

/// What is answered where nothing is served.
const NO_PATH: &str = "there is nothing at this path";
/// What is answered to a method that means nothing at a path.
const NO_METHOD: &str = "this path has no such method";

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

/// What stands in the place of each parameter of a path.
const MADE_UP: [(&str, &str); 8] = [
    ("{sandbox}", "nobody"),
    ("{process}", "0123456789abcdef"),
    ("{operation}", "0123456789abcdef"),
    ("{template}", "0123456789abcdef"),
    ("{snapshot}", "nobody@1"),
    ("{image}", "nothing"),
    ("{volume}", "nothing"),
    ("{kernel}", "nothing"),
];

/// Paths of the API's document, each with its methods.
fn paths() -> BTreeMap<String, BTreeSet<String>> {
    let openapi: Value = serde_json::from_str(&document("openapi.json")).unwrap();
    let paths = openapi["paths"].as_object().unwrap().iter().map(|(path, methods)| {
        let methods = methods.as_object().unwrap().keys().map(|key| key.to_uppercase());
        (path.clone(), methods.collect())
    });
    paths.collect()
}

fn made_up(path: &str) -> String {
    let path =
        MADE_UP.iter().fold(path.to_owned(), |path, (name, value)| path.replace(name, value));
    assert!(!path.contains('{'), "{path} has a parameter that is made up nowhere");
    path
}

fn detail(answer: &Answer) -> String {
    let problem: Value = serde_json::from_str(&answer.body).unwrap_or_default();
    problem["detail"].as_str().unwrap_or_default().to_owned()
}

#[test]
fn every_path_of_the_openapi_document_is_served() {
    let daemon = Daemon::start();
    let version: Value = serde_json::from_str(&daemon.ask("GET", "/v1/version").body).unwrap();
    assert_eq!(version["pid"], daemon.pid());
    for (path, methods) in paths() {
        for method in methods {
            let answer = daemon.ask(&method, &made_up(&path));
            let detail = detail(&answer);
            assert!(![NO_PATH, NO_METHOD].contains(&&*detail), "{method} {path}: {detail}");
            // A parameter that is no such thing would not lead to what is served there.
            assert!(answer.status < 500 && !detail.contains("Invalid URL"), "{path}: {answer:?}");
        }
    }
    assert_eq!(daemon.ask("GET", "/v1/sandboxes").body, "[]", "nothing was made by asking");
}

#[test]
fn what_the_openapi_document_does_not_have_is_not_served() {
    let daemon = Daemon::start();
    for path in ["/", "/v1", "/v2/version", "/v1/version/", "/v1/sandboxes/a/b", "/v1//sandboxes"] {
        let answer = daemon.ask("GET", path);
        assert_eq!((answer.status, &*detail(&answer)), (404, NO_PATH), "{path}");
    }
    for (path, methods) in paths() {
        let answer = daemon.ask("OPTIONS", &made_up(&path));
        assert_eq!(detail(&answer), NO_METHOD, "{path}");
        let allowed = answer.head.lines().find_map(|line| line.strip_prefix("allow: ")).unwrap();
        let mut allowed: BTreeSet<_> = allowed.split(',').map(str::to_owned).collect();
        // Where there is something to get, its head can be had, too.
        allowed.remove("HEAD");
        assert_eq!(allowed, methods, "{path}");
    }
}
