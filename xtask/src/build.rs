//! Building what is shipped: the program on the host and the static ones in guests.

use std::path::Path;

use anyhow::{Context as _, Result};

use crate::command::Program;
use crate::install::replace;
use crate::place::Place;

/// The programs that run in guests: PID 1 of a sandbox, and the least a boot can do, to measure
/// against.
pub(crate) const GUEST_PROGRAMS: [&str; 2] = ["banger-agent", "banger-floor"];

/// Builds `banger` and its daemon as they are used.
pub(crate) fn banger(place: &Place) -> Result<()> {
    Program::cargo(place, "build")
        .args(["--release", "--locked", "-p", "banger", "-p", "bangerd"])
        .run()
}

/// Builds the guest programs and puts them where a `banger` among the build results finds them.
///
/// They are linked statically, so that they run on any image. That is said for the named target
/// only: without it, build scripts and macros would be, too. Paths of this machine are replaced
/// in them: the same sources make the same programs wherever they are.
pub(crate) fn guest_programs(place: &Place) -> Result<()> {
    static_programs(place, "banger-agent", &GUEST_PROGRAMS, "agent")
}

/// Most bytes of the update agent as it is shipped.
const MAX_SHIPPED: u64 = 8 << 20;

/// How the static `os-update` is built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    /// As tests need it: soon.
    Quick,
    /// As it is shipped: small and fast.
    Shipped,
}

/// Builds the update agent, and puts it beside the guest programs.
pub(crate) fn os_update(place: &Place, shape: Shape) -> Result<()> {
    let profile = match shape {
        Shape::Quick => "dev",
        Shape::Shipped => "appliance",
    };
    static_programs(place, "os-update", &["os-update"], profile)?;
    let len = place.guest_programs().join("os-update").metadata()?.len();
    anyhow::ensure!(
        shape == Shape::Quick || len <= MAX_SHIPPED,
        "os-update has {len} bytes, and {MAX_SHIPPED} are what an initramfs has for it"
    );
    Ok(())
}

fn static_programs(place: &Place, package: &str, names: &[&str], profile: &str) -> Result<()> {
    let flags = [
        "-Ctarget-feature=+crt-static".to_owned(),
        "-Cstrip=symbols".to_owned(),
        remap(&place.cargo_home, "/cargo"),
        remap(&place.root, "/banger"),
    ];
    let flags: Vec<_> = flags.iter().map(|flag| toml_string(flag)).collect();
    let config = format!("target.{}.rustflags=[{}]", place.triple, flags.join(","));
    Program::cargo(place, "build")
        .args(["--locked", "-p", package, "--bins", "--profile", profile])
        .args(["--target", &place.triple, "--config", &config])
        // They would take the place of the flags above.
        .without_env("RUSTFLAGS")
        .without_env("CARGO_ENCODED_RUSTFLAGS")
        .run()?;
    let dir = if profile == "dev" { "debug" } else { profile };
    let built = place.target.join(&place.triple).join(dir);
    for name in names {
        let program = built.join(name);
        let elf = std::fs::read(&program).with_context(|| format!("no {}", program.display()))?;
        anyhow::ensure!(!needs_loader(&elf), "{} is not static", program.display());
        replace(&program, &place.guest_programs().join(name))?;
    }
    Ok(())
}

fn remap(from: &Path, to: &str) -> String {
    format!("--remap-path-prefix={}={to}", from.display())
}

/// A text as a basic string of TOML.
fn toml_string(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

/// Whether a 64-bit ELF file asks for a dynamic loader: it has a `PT_INTERP` header.
fn needs_loader(elf: &[u8]) -> bool {
    const PT_INTERP: [u8; 4] = 3u32.to_le_bytes();
    const HEADER_LEN: usize = 56;
    let offset = elf.get(0x20..0x28).and_then(|b| b.try_into().ok()).map(u64::from_le_bytes);
    let count = elf.get(0x38..0x3a).and_then(|b| b.try_into().ok()).map(u16::from_le_bytes);
    let headers = offset.and_then(|at| elf.get(usize::try_from(at).ok()?..)).unwrap_or_default();
    headers
        .chunks(HEADER_LEN)
        .take(usize::from(count.unwrap_or(0)))
        .any(|header| header.starts_with(&PT_INTERP))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dynamic_program_is_known_by_its_loader() {
        let own = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        assert!(needs_loader(&own), "tests are linked dynamically");
        assert!(!needs_loader(b"\x7fELF"));
    }

    #[test]
    fn any_path_is_a_toml_string() {
        assert_eq!(toml_string(r#"/a "b"\c"#), r#""/a \"b\"\\c""#);
    }
}
