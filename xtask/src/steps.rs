//! The steps of a command as the user sees them: `[2/4] Building banger`.

use std::process::ExitCode;
use std::time::Instant;

/// Steps of a known number, told on standard error: standard output belongs to what is run.
#[derive(Debug)]
pub(crate) struct Steps {
    count: usize,
    done: usize,
    begun: Instant,
}

impl Steps {
    pub(crate) fn new(count: usize) -> Self {
        Self { count, done: 0, begun: Instant::now() }
    }

    /// The next step begins.
    pub(crate) fn next(&mut self, what: &str) {
        self.done += 1;
        eprintln!("[{}/{}] {what}", self.done, self.count);
    }

    /// All is done.
    pub(crate) fn finish(self, what: &str) -> ExitCode {
        eprintln!("{what} ({} s)", self.begun.elapsed().as_secs());
        ExitCode::SUCCESS
    }
}
