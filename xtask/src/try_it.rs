//! `cargo xtask try`: from a fresh machine to a command in a sandbox.

use std::ffi::OsString;
use std::path::Path;
use std::process::{ExitCode, ExitStatus};

use anyhow::{Result, bail};

use crate::command::{Program, find};
use crate::place::Place;
use crate::steps::Steps;
use crate::{build, install, packages};

/// What a sandbox shows of itself when nothing is asked for.
const DEMONSTRATION: &str = r#"
. /etc/os-release
echo "This is $PRETTY_NAME with Linux $(uname -r), as $(id -un)@$(hostname), in a machine of its own:"
echo "$(nproc) CPU, $(free -m | awk '/^Mem/ { print $2 }') MiB of memory"
df -h /
"#;

pub(crate) fn run(place: &Place, args: Vec<OsString>) -> Result<ExitCode> {
    let command = match args.split_first() {
        None => ["sh", "-c", DEMONSTRATION].map(OsString::from).to_vec(),
        Some((dashes, command)) if dashes == "--" && !command.is_empty() => command.to_vec(),
        Some(_) => bail!("usage: cargo xtask try [-- CMD ARGS...]"),
    };
    let mut steps = Steps::new(4);
    steps.next("Looking for the host's packages");
    packages::ensure(&packages::TO_RUN)?;
    steps.next("Building banger");
    build::banger(place)?;
    steps.next("Building the guest's programs");
    build::guest_programs(place)?;
    let banger = install::install(place)?;
    steps.next("Running a command in a sandbox (the first time, its kernel and image are made)");
    let status = Program::new(&banger).args(["vm", "run", "--"]).args(command).status()?;
    say_what_next(&banger);
    Ok(exit_code(status))
}

/// Three lines, on standard error: standard output is the command's.
fn say_what_next(banger: &Path) {
    let on_path = find("banger").is_some_and(|found| found == banger);
    let name = if on_path { "banger".into() } else { banger.display().to_string() };
    eprintln!("Next:  {name} vm run             a shell in a new sandbox, gone when you leave it");
    eprintln!(
        "       {name} vm run -- CMD...   any command; its streams and exit status are yours"
    );
    eprintln!("       {name} doctor             what this machine can do, and what would help");
}

/// The status of the command, as a shell shows it.
fn exit_code(status: ExitStatus) -> ExitCode {
    use std::os::unix::process::ExitStatusExt as _;
    let code = status.code().or_else(|| Some(128 + status.signal()?)).unwrap_or(1);
    ExitCode::from(u8::try_from(code).unwrap_or(1))
}
