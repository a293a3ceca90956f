//! What the tests of several crates share: where things are, and how a test that cannot run
//! says so.
//!
//! A skipped test looks like a passed one, so there is one way to skip. It always says why, and
//! under `cargo xtask test` in CI it fails: what tests need is installed there, so whatever is
//! missing then is a fault of the run. Only what belongs to the machine itself (KVM, root, loop
//! devices) may be missing everywhere.
//!
//! Tests are told where to work by the environment; without it they use the same places among
//! the build results, so that a plain `cargo test` works, too.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

pub mod bundle;
pub mod kernel;
pub mod oci;

use std::path::{Path, PathBuf};

/// Set where a skipped test is a failed one.
pub const REQUIRE_ALL: &str = "BANGER_REQUIRE_ALL";
/// The home with a kernel and an image that tests share.
pub const TEST_HOME: &str = "BANGER_TEST_HOME";
/// The directory with the static `banger-agent` and `banger-floor`.
pub const AGENT_DIR: &str = "BANGER_TEST_AGENT_DIR";

/// Says why a test does not run, for lack of something that `cargo xtask test` provides.
///
/// # Panics
/// Where every test has to run.
pub fn skipped(why: &str) {
    say_skipped(why);
    assert!(
        variable(REQUIRE_ALL).is_none(),
        "this test has to run here ({REQUIRE_ALL} is set), but: {why}"
    );
}

/// Says why a test does not run, for lack of something that nobody can install: a working
/// `/dev/kvm`, root, loop devices, a network.
pub fn skipped_on_this_machine(why: &str) {
    say_skipped(why);
}

#[expect(clippy::print_stderr, reason = "a test that does not run must not pass silently")]
fn say_skipped(why: &str) {
    eprintln!("skipped: {why}");
}

/// An error with all its causes, in one line.
pub fn told(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// The root of this repository.
pub fn repo_root() -> &'static Path {
    let crate_dir = Path::new(env!("CARGO_MANIFEST_DIR"));
    crate_dir.ancestors().nth(2).unwrap_or(crate_dir)
}

/// The home that tests share; its kernel and image are kept, so that repeated runs are fast.
/// Sandboxes of several tests live in it side by side.
pub fn test_home() -> PathBuf {
    variable(TEST_HOME).unwrap_or_else(|| repo_root().join("target/test-home"))
}

/// A tar of a Debian that brings itself up with systemd; `None` when it has not been made.
pub fn systemd_root() -> Option<PathBuf> {
    Some(test_home().join("systemd.tar")).filter(|tar| tar.is_file())
}

/// The directory with the static guest programs; `None` when they have not been built. Without
/// being told, it is where a `banger` among the build results looks for them, too.
pub fn agent_dir() -> Option<PathBuf> {
    let dir = variable(AGENT_DIR).unwrap_or_else(|| repo_root().join("target/lib/banger"));
    dir.join("banger-agent").is_file().then_some(dir)
}

/// The static `os-update`, which tests put into an initramfs with nothing beside it; `None` when it
/// has not been built.
pub fn static_os_update() -> Option<PathBuf> {
    let dir = variable(AGENT_DIR).unwrap_or_else(|| repo_root().join("target/lib/banger"));
    Some(dir.join("os-update")).filter(|program| program.is_file())
}

#[expect(clippy::disallowed_methods, reason = "tests are told by the environment where to work")]
fn variable(name: &str) -> Option<PathBuf> {
    std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_root_is_where_the_workspace_is() {
        let root = repo_root();
        assert!(root.join("Cargo.lock").is_file(), "{}", root.display());
        assert!(root.join("crates/banger-testkit").is_dir());
    }

    #[test]
    fn the_home_is_absolute() {
        assert!(test_home().is_absolute());
    }
}
