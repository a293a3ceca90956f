//! The licences of everything that is built in, held against the list of `deny.toml`: cargo-deny
//! reads the same list, but is not installed everywhere.

use banger_testkit::repo_root;

use crate::graph::Graph;

#[test]
fn every_package_may_be_used_under_a_licence_of_the_list() {
    let allowed = allowed();
    assert!(allowed.iter().any(|licence| licence == "Apache-2.0"), "{allowed:?}");
    for package in Graph::load().packages {
        let Some(licence) = &package.licence else {
            panic!("{} {} names no licence", package.name, package.version);
        };
        assert!(
            satisfied(licence, &allowed),
            "{} {}: {licence} is not on the list of deny.toml",
            package.name,
            package.version
        );
    }
}

/// The list `allow` in the section `[licenses]`.
fn allowed() -> Vec<String> {
    let text = std::fs::read_to_string(repo_root().join("deny.toml")).unwrap();
    let (_, section) = text.split_once("[licenses]").unwrap();
    let (_, list) = section.split_once("allow = [").unwrap();
    let (list, _) = list.split_once(']').unwrap();
    list.split('"').skip(1).step_by(2).map(str::to_owned).collect()
}

/// Whether one of the ways to fulfil an SPDX expression is allowed. `AND` binds tighter than
/// `OR`; old packages write `/` for `OR`.
fn satisfied(expression: &str, allowed: &[String]) -> bool {
    let spaced = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let (value, rest) = any(&words, allowed);
    value && rest.is_empty()
}

fn any<'a>(words: &'a [&'a str], allowed: &[String]) -> (bool, &'a [&'a str]) {
    let (mut value, mut rest) = all(words, allowed);
    while let ["OR", tail @ ..] = rest {
        let next = all(tail, allowed);
        (value, rest) = (value | next.0, next.1);
    }
    (value, rest)
}

fn all<'a>(words: &'a [&'a str], allowed: &[String]) -> (bool, &'a [&'a str]) {
    let (mut value, mut rest) = one(words, allowed);
    while let ["AND", tail @ ..] = rest {
        let next = one(tail, allowed);
        (value, rest) = (value & next.0, next.1);
    }
    (value, rest)
}

fn one<'a>(words: &'a [&'a str], allowed: &[String]) -> (bool, &'a [&'a str]) {
    let known = |licence: &str| allowed.iter().any(|known| known == licence);
    match words {
        ["(", tail @ ..] => match any(tail, allowed) {
            (value, [")", rest @ ..]) => (value, rest),
            (_, rest) => (false, rest),
        },
        [licence, "WITH", exception, rest @ ..] => {
            (known(&format!("{licence} WITH {exception}")), rest)
        }
        [licence, rest @ ..] => (known(licence), rest),
        [] => (false, &[]),
    }
}

#[test]
fn expressions_are_understood() {
    let allowed = ["MIT", "Unicode-3.0"].map(str::to_owned);
    for good in ["MIT", "MIT/GPL-3.0", "GPL-3.0 OR MIT", "(GPL-3.0 OR MIT) AND Unicode-3.0"] {
        assert!(satisfied(good, &allowed), "{good}");
    }
    for bad in ["", "GPL-3.0", "MIT AND GPL-3.0", "MIT WITH X", "(MIT", "MIT MIT", "GPL-3.0 OR"] {
        assert!(!satisfied(bad, &allowed), "{bad}");
    }
}
