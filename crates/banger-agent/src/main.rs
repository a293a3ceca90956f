//! The first process of a sandbox, and the tools that it starts itself as.

use std::process::ExitCode;

fn main() -> ExitCode {
    banger_agent::live(std::env::args_os())
}
