//! Which of our crates may use which. The table is the architecture; what does not follow it yet
//! stands in a list that may only become shorter.

use std::collections::{BTreeMap, BTreeSet};

use crate::graph::Graph;

/// Each crate with those of ours that it may use.
const MAY_USE: [(&str, &[&str]); 15] = [
    ("banger-model", &[]),
    ("banger-link", &["banger-model"]),
    ("banger-api", &["banger-model"]),
    ("banger-trust", &["banger-model"]),
    ("banger-host", &["banger-model"]),
    ("banger-store", &["banger-model"]),
    ("banger-image", &["banger-model", "banger-host", "banger-trust"]),
    ("banger-update", &["banger-model", "banger-host", "banger-trust"]),
    ("banger-net", &["banger-model", "banger-host"]),
    ("banger-vmm", &["banger-model", "banger-host"]),
    (
        "bangerd",
        &[
            "banger-model",
            "banger-link",
            "banger-host",
            "banger-image",
            "banger-net",
            "banger-vmm",
            "banger-store",
            "banger-api",
        ],
    ),
    ("banger", &["banger-model", "banger-api", "banger-update"]),
    ("banger-helper", &["banger-model", "banger-host", "banger-net"]),
    ("os-update", &["banger-model", "banger-host", "banger-trust", "banger-update"]),
    ("banger-agent", &["banger-model", "banger-link"]),
];

/// These serve development: they may use anything, and only tests may use them.
const FOR_DEVELOPMENT: [&str; 4] = ["banger-testkit", "banger-fuzz", "banger-crash", "xtask"];

/// Uses that the table forbids, for now. Whoever removes the last need for one removes it here.
const EXCEPTIONS: [(&str, &str, &str); 4] = [
    ("banger", "bangerd", "`doctor`, `bench` and `catalog` work on this host without a daemon"),
    ("banger", "banger-host", "the command line starts the daemon, and needs files and a terminal"),
    ("banger", "banger-link", "a test cuts the link of a real sandbox"),
    ("banger-vmm", "banger-net", "a machine is given its network's socket and processes to own"),
];

#[test]
fn crates_use_only_what_the_table_allows() {
    let graph = Graph::load();
    let table: BTreeMap<_, _> = MAY_USE.into_iter().collect();
    let ours: BTreeSet<_> = graph.ours().map(|package| package.name.as_str()).collect();
    let mut unneeded: BTreeSet<_> = EXCEPTIONS.iter().map(|(from, to, _)| (*from, *to)).collect();
    let mut wrong = Vec::new();
    for package in graph.ours().filter(|p| !FOR_DEVELOPMENT.contains(&p.name.as_str())) {
        let from = package.name.as_str();
        let Some(allowed) = table.get(from) else {
            panic!("{from} is new: give it a line in the table, and review what it may use");
        };
        for dependency in package.dependencies.iter().filter(|d| ours.contains(d.name.as_str())) {
            let to = dependency.name.as_str();
            let for_tests = dependency.for_development && FOR_DEVELOPMENT.contains(&to);
            if !for_tests && !allowed.contains(&to) && !unneeded.remove(&(from, to)) {
                wrong.push(format!("{from} -> {to}"));
            }
        }
    }
    assert!(wrong.is_empty(), "against the direction of crates: {wrong:?}");
    assert!(unneeded.is_empty(), "these exceptions are not needed any more: {unneeded:?}");
}

#[test]
fn every_exception_has_a_reason() {
    for (from, to, reason) in EXCEPTIONS {
        assert!(reason.len() > 20, "{from} -> {to}");
    }
}
