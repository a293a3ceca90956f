//! What cargo says of this workspace and of what it is built from.

use std::collections::BTreeSet;
use std::process::Command;

use banger_testkit::repo_root;
use serde_json::Value;

/// The platform that is looked at.
const PLATFORM: &str = "x86_64-unknown-linux-gnu";

/// One package of the graph.
#[derive(Debug)]
pub(crate) struct Package {
    pub(crate) name: String,
    pub(crate) version: String,
    pub(crate) licence: Option<String>,
    /// Where it comes from; none for what is ours.
    pub(crate) source: Option<String>,
    /// What its manifest says it depends on.
    pub(crate) dependencies: Vec<Dependency>,
}

/// One dependency in a manifest.
#[derive(Debug)]
pub(crate) struct Dependency {
    pub(crate) name: String,
    /// Whether only its tests and examples use it.
    pub(crate) for_development: bool,
}

/// The packages that this workspace may be built from on Linux.
///
/// What is really built in is less: cargo lists optional packages here that no feature asks for.
/// [`tree`] knows.
#[derive(Debug)]
pub(crate) struct Graph {
    pub(crate) packages: Vec<Package>,
}

impl Graph {
    pub(crate) fn load() -> Self {
        let output = cargo(&["metadata", "--format-version", "1", "--filter-platform", PLATFORM]);
        let json: Value = serde_json::from_str(&output).unwrap();
        Self { packages: list(&json["packages"]).iter().map(package).collect() }
    }

    /// Our own packages.
    pub(crate) fn ours(&self) -> impl Iterator<Item = &Package> {
        self.packages.iter().filter(|package| package.source.is_none())
    }
}

/// The names of the packages in a listing of `cargo tree`.
pub(crate) fn tree(args: &[&str]) -> BTreeSet<String> {
    let common = ["tree", "--target", PLATFORM, "--prefix", "none"];
    let listing = cargo(&[&common, args].concat());
    listing.lines().filter_map(|line| line.split(' ').next()).map(str::to_owned).collect()
}

fn cargo(args: &[&str]) -> String {
    let output = Command::new(std::env::var_os("CARGO").unwrap())
        .args(args)
        .arg("--locked")
        .current_dir(repo_root())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn package(json: &Value) -> Package {
    let dependency = |json: &Value| Dependency {
        name: text(&json["name"]),
        for_development: json["kind"] == "dev",
    };
    Package {
        name: text(&json["name"]),
        version: text(&json["version"]),
        licence: json["license"].as_str().map(str::to_owned),
        source: json["source"].as_str().map(str::to_owned),
        dependencies: list(&json["dependencies"]).iter().map(dependency).collect(),
    }
}

fn list(json: &Value) -> &[Value] {
    json.as_array().unwrap()
}

fn text(json: &Value) -> String {
    json.as_str().unwrap().to_owned()
}
