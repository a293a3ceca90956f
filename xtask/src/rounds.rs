//! How often something is to be done: `--rounds N`.

use std::ffi::OsString;

use anyhow::{Context as _, Result, bail};

/// The number that these arguments of a command ask for, one at least; `usual` when they ask for
/// nothing.
pub(crate) fn parse(command: &str, args: &[OsString], usual: u32) -> Result<u32> {
    let args: Vec<_> = args.iter().map(|arg| arg.to_string_lossy()).collect();
    match args.iter().map(AsRef::as_ref).collect::<Vec<&str>>().as_slice() {
        [] => Ok(usual),
        ["--rounds", number] => {
            let rounds = number.parse().ok().filter(|rounds| *rounds > 0);
            rounds.context("--rounds needs a whole number")
        }
        _ => bail!("usage: cargo xtask {command} [--rounds N]"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_are_a_number() {
        const ROUNDS: u32 = 7;
        let check = |args: &[&str]| {
            parse("x", &args.iter().map(OsString::from).collect::<Vec<_>>(), ROUNDS)
        };
        assert_eq!(check(&[]).unwrap(), ROUNDS);
        assert_eq!(check(&["--rounds", "9"]).unwrap(), 9);
        assert_eq!(check(&["--rounds", "200"]).unwrap(), 200);
        for bad in [&["--rounds"][..], &["--rounds", "0"], &["x"]] {
            assert!(check(bad).is_err(), "{bad:?}");
        }
    }
}
