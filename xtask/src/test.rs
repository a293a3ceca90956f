//! `cargo xtask test`: everything that can tell whether the tree is sound. CI runs exactly this.

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context as _, Result};

use crate::command::Program;
use crate::place::Place;
use crate::steps::Steps;
use crate::{build, check, packages};

/// Where tests find a Debian with systemd, in the home that they share.
const SYSTEMD_ROOT: &str = "systemd.tar";

pub(crate) fn run(place: &Place, filters: Vec<OsString>) -> Result<ExitCode> {
    // Whoever asks for a few tests wants their outcome, not everything's.
    let whole = filters.is_empty();
    let mut steps = Steps::new(if whole { 7 } else { 5 });
    steps.next("Looking for the host's packages");
    let needed = [packages::TO_RUN.as_slice(), packages::TO_TEST.as_slice()].concat();
    packages::ensure(&needed)?;
    if whole {
        check::style(place, &mut steps)?;
    }
    steps.next("Building the guest's programs");
    build::guest_programs(place)?;
    build::os_update(place, build::Shape::Quick)?;
    steps.next("Building the tests");
    cargo_test(place).arg("--no-run").run()?;
    steps.next("Making the kernel and the image that tests share");
    let home = place.target.join("test-home");
    Program::new(place.target.join("debug/examples/prepare")).arg(&home).run()?;
    make_systemd_root(&home.join(SYSTEMD_ROOT))?;
    steps.next("Running the tests");
    let tests = cargo_test(place)
        .env("BANGER_TEST_HOME", &home)
        .env("BANGER_TEST_AGENT_DIR", place.guest_programs());
    // In CI, what a test needs is installed or the run has a fault: nothing may be skipped.
    let in_ci = std::env::var_os("CI").is_some_and(|ci| !ci.is_empty() && ci != "false");
    let tests = if in_ci { tests.env("BANGER_REQUIRE_ALL", "1") } else { tests };
    // Whoever has waited for all of it wants to know everything that failed.
    tests.args(["--no-fail-fast", "--"]).args(filters).run()?;
    Ok(steps.finish("All tests passed"))
}

/// A Debian that brings itself up, as a tar: what an image with an init of its own is made of.
fn make_systemd_root(tar: &Path) -> Result<()> {
    if tar.exists() {
        return Ok(());
    }
    let aside = tar.with_extension("new");
    Program::new("mmdebstrap")
        .args(["--quiet", "--variant=minbase", "--format=tar", "--include=systemd-sysv,dbus"])
        .args([r#"--aptopt=Acquire::Languages "none""#, "--dpkgopt=path-exclude=/usr/share/doc/*"])
        .args(["--dpkgopt=path-exclude=/usr/share/locale/*", "bookworm"])
        .arg(&aside)
        .run()?;
    std::fs::rename(&aside, tar).with_context(|| format!("cannot make {}", tar.display()))
}

fn cargo_test(place: &Place) -> Program {
    Program::cargo(place, "test").args(["--workspace", "--locked"])
}
