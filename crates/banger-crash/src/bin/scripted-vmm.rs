//! The scripted monitor as a program, to be called `qemu-system-x86_64` by a link.

use std::process::ExitCode;
use std::time::Duration;

use banger_crash::scripted::{DELAY_VARIABLE, run};

#[expect(clippy::disallowed_methods, reason = "the daemon passes nothing else on to its monitor")]
fn main() -> ExitCode {
    let delay = std::env::var(DELAY_VARIABLE).ok().and_then(|text| text.parse().ok());
    let args: Vec<_> = std::env::args_os().skip(1).collect();
    run(&args, Duration::from_millis(delay.unwrap_or(0)))
}
