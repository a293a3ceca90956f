//! The scribe as a child process that never outlives its test.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};

/// A running `examples/scribe.rs`.
pub(crate) struct Scribe {
    child: Child,
    output: Option<BufReader<ChildStdout>>,
}

impl Scribe {
    #[expect(
        clippy::disallowed_methods,
        reason = "the test's own child, killed when it is dropped"
    )]
    pub(crate) fn start(args: &[&str], path: &Path, rest: &[&str]) -> Self {
        // Examples are built with the tests, beside them.
        let test = std::env::current_exe().unwrap();
        let program = test.ancestors().nth(2).unwrap().join("examples/scribe");
        let mut child = Command::new(program)
            .args(args)
            .arg(path)
            .args(rest)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let output = child.stdout.take().map(BufReader::new);
        Self { child, output }
    }

    /// What it says, for another thread to read.
    pub(crate) fn output(&mut self) -> BufReader<ChildStdout> {
        self.output.take().unwrap()
    }

    /// Ends it as a crash would.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Scribe {
    fn drop(&mut self) {
        let _ended_already = self.child.kill();
        let _reaped_already = self.child.wait();
    }
}

/// The next whole line; `None` at the end, even after half a line.
pub(crate) fn line(output: &mut impl BufRead) -> Option<String> {
    let mut line = String::new();
    output.read_line(&mut line).unwrap();
    line.strip_suffix('\n').map(str::to_owned)
}
