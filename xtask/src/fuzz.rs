//! `cargo xtask fuzz`: looks for inputs that break a decoder.
//!
//! What libFuzzer keeps on its way stays among the build results; only inputs that somebody
//! chose are committed, to `fuzz/corpus`, and replayed by every test run.

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};

use crate::command::{Program, find};
use crate::place::Place;
use crate::steps::Steps;

/// Minutes for each target when nothing is said.
const MINUTES: u32 = 10;
/// Longest input that is made up: several frames, headers or records.
const MAX_INPUT_LEN: &str = "-max_len=16384";
/// Seconds that one input may take, and MiB that it may use.
const BOUNDS: [&str; 2] = ["-timeout=10", "-rss_limit_mb=2048"];

pub(crate) fn run(place: &Place, args: Vec<OsString>) -> Result<ExitCode> {
    let (minutes, wanted) = parse(args)?;
    let fuzz = place.root.join("fuzz");
    let mut targets = targets(&fuzz)?;
    if let Some(wanted) = wanted {
        targets.retain(|target| *target == wanted);
        anyhow::ensure!(!targets.is_empty(), "there is no fuzz target {wanted}");
    }
    ensure_tools(place)?;
    let compiler = Compiler::find();
    let mut steps = Steps::new(targets.len());
    for target in targets {
        steps.next(&format!("Fuzzing {target} for {minutes} minutes"));
        fuzz_one(compiler, (&fuzz, &target), minutes)?;
    }
    Ok(steps.finish("No target was broken"))
}

fn parse(args: Vec<OsString>) -> Result<(u32, Option<String>)> {
    let (mut minutes, mut target) = (MINUTES, None);
    let mut args = args.into_iter().map(|arg| arg.to_string_lossy().into_owned());
    while let Some(arg) = args.next() {
        if arg == "--minutes" {
            let number = args.next().and_then(|number| number.parse().ok());
            minutes = number.filter(|n| *n > 0).context("--minutes needs a whole number")?;
        } else if arg.starts_with('-') || target.is_some() {
            bail!("usage: cargo xtask fuzz [--minutes N] [TARGET]");
        } else {
            target = Some(arg);
        }
    }
    Ok((minutes, target))
}

/// The targets by name, as they lie in the directory.
fn targets(fuzz: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(fuzz.join("fuzz_targets"))? {
        let path = entry?.path();
        names.extend(path.file_stem().map(|stem| stem.to_string_lossy().into_owned()));
    }
    names.sort();
    Ok(names)
}

/// Where the compiler's instrumentation comes from.
#[derive(Clone, Copy, Debug)]
enum Compiler {
    /// A nightly one, which offers it.
    Nightly,
    /// The one that builds everything else, which has it and is told to let it be used.
    Usual,
}

impl Compiler {
    fn find() -> Self {
        let nightly = Program::new("rustup").args(["run", "nightly", "rustc", "--version"]);
        if nightly.succeeds() { Self::Nightly } else { Self::Usual }
    }

    fn cargo(self) -> Program {
        match self {
            Self::Nightly => Program::new("rustup").args(["run", "nightly", "cargo"]),
            Self::Usual => Program::new("cargo").env("RUSTC_BOOTSTRAP", "1"),
        }
    }
}

fn ensure_tools(place: &Place) -> Result<()> {
    if find("cargo-fuzz").is_none() {
        Program::cargo(place, "install").args(["cargo-fuzz", "--locked"]).run()?;
    }
    Ok(())
}

fn fuzz_one(compiler: Compiler, (fuzz, target): (&Path, &str), minutes: u32) -> Result<()> {
    // The first directory is where libFuzzer puts what it finds, the second where it begins.
    let found = format!("target/corpus/{target}");
    std::fs::create_dir_all(fuzz.join(&found))?;
    let seconds = u64::from(minutes) * 60;
    compiler
        .cargo()
        .args(["fuzz", "run", target])
        .args([&found, &format!("corpus/{target}")])
        .args(["--", MAX_INPUT_LEN, &format!("-max_total_time={seconds}")])
        .args(BOUNDS)
        .dir(fuzz)
        .run()
        .with_context(|| format!("{target}: the input is in fuzz/artifacts/{target}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(args: &[&str]) -> Result<(u32, Option<String>)> {
        parse(args.iter().map(OsString::from).collect())
    }

    #[test]
    fn minutes_and_a_target_in_any_order() {
        assert_eq!(check(&[]).unwrap(), (MINUTES, None));
        assert_eq!(check(&["qmp", "--minutes", "3"]).unwrap(), (3, Some("qmp".into())));
        for bad in [&["--minutes"][..], &["--minutes", "0"], &["a", "b"], &["-x"]] {
            assert!(check(bad).is_err(), "{bad:?}");
        }
    }
}
