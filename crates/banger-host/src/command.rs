//! Programs that are run for their result.
//!
//! Every run has a deadline and a bound on what it may print; an error names the program and
//! carries the end of what it wrote to standard error.
#![expect(unsafe_code, reason = "a child must ask for its own end between fork and exec")]

use std::ffi::OsStr;
use std::io::{self, Read, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::process::Signal;

use crate::clock::Deadline;
use crate::error::{HostError, Result};
use crate::process::{Process, spawn_error};
use crate::readiness::{self, Interest};

/// How much of a failed program's standard error an error message keeps, from its end.
const STDERR_TAIL: usize = 2048;
/// How long a killed program may take to be gone.
const KILL_PATIENCE: Duration = Duration::from_secs(10);
/// How often whoever reads a program's output looks whether that is still wanted.
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// Most bytes that [`Tool::capture`] takes from standard output.
const MAX_CAPTURE: u64 = 64 * 1024 * 1024;
/// Most bytes that [`Tool::answer`] takes from standard output.
const MAX_ANSWER: u64 = 64 * 1024;

/// A program with its arguments, not yet running.
#[derive(Debug)]
pub struct Tool {
    name: String,
    command: Command,
    input: Vec<u8>,
}

impl Tool {
    /// A program found on the path.
    #[expect(clippy::disallowed_methods, reason = "this is the door")]
    pub fn new(program: impl AsRef<OsStr>) -> Self {
        let name = Path::new(program.as_ref())
            .file_name()
            .unwrap_or(program.as_ref())
            .to_string_lossy()
            .into_owned();
        let mut command = Command::new(program);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Self { name, command, input: Vec::new() }
    }

    /// Adds one argument.
    #[must_use]
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.command.arg(arg);
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<S: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.command.args(args);
        self
    }

    /// Sets an environment variable.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// Runs it in this directory.
    #[must_use]
    pub fn dir(mut self, dir: &Path) -> Self {
        self.command.current_dir(dir);
        self
    }

    /// Ends it with SIGKILL when the thread that starts it ends, however that happens: for
    /// programs that must not work on in a place that the next one will clean. Its own children
    /// are its own business.
    #[must_use]
    pub fn ends_with_caller(mut self) -> Self {
        // SAFETY: between fork and exec only prctl(2) is called, which is async-signal-safe.
        // JUSTIFICATION: std has no stable way to ask for a signal at the parent's death.
        unsafe {
            self.command.pre_exec(|| {
                Ok(rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?)
            });
        }
        self
    }

    /// Gives it these bytes as standard input.
    #[must_use]
    pub fn input(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.input = bytes.into();
        self.command.stdin(Stdio::piped());
        self
    }

    /// Runs the program to its end and returns what it wrote to standard output.
    ///
    /// # Errors
    /// When it is not installed, fails, prints too much or exceeds `timeout` (it is killed then).
    pub fn capture(self, timeout: Duration) -> Result<Vec<u8>> {
        let mut running = self.stream(timeout)?;
        let stdout = running.take_stdout();
        let reader = stdout.map(|out| std::thread::spawn(move || read_up_to(out, MAX_CAPTURE)));
        running.finish()?;
        Ok(reader.and_then(|thread| thread.join().ok()).unwrap_or_default())
    }

    /// Runs the program to its end, and returns what it wrote to standard output also when it
    /// fails: there are programs that say there what is wrong.
    ///
    /// # Errors
    /// When it is not installed or cannot be started.
    pub fn answer(self, timeout: Duration) -> Result<Answer> {
        let mut running = self.stream(timeout)?;
        let stdout = running.take_stdout();
        let reader = stdout.map(|out| std::thread::spawn(move || read_up_to(out, MAX_ANSWER)));
        let ended = running.finish();
        let stdout = reader.and_then(|thread| thread.join().ok()).unwrap_or_default();
        Ok(Answer { stdout, ended })
    }

    /// Starts the program; its standard output is the caller's to read, then
    /// [`Running::finish`] tells how it went.
    ///
    /// # Errors
    /// When it is not installed or cannot be started.
    pub fn stream(self, timeout: Duration) -> Result<Running> {
        let Self { name, mut command, input } = self;
        let mut child = command.spawn().map_err(|source| spawn_error(name.clone(), source))?;
        if let Some(mut stdin) = child.stdin.take() {
            // A program that does not read its input to the end is not our failure.
            std::thread::spawn(move || drop(stdin.write_all(&input)));
        }
        let stderr = child.stderr.take().map(|err| std::thread::spawn(move || read_tail(err)));
        Ok(Running {
            name,
            child: Some(child),
            stderr,
            timeout,
            deadline: Deadline::after(timeout),
        })
    }
}

/// What a program said, and how it ended.
#[derive(Debug)]
pub struct Answer {
    /// The beginning of what it wrote to standard output, at most 64 KiB.
    pub stdout: Vec<u8>,
    /// An error when it failed or exceeded its time.
    pub ended: Result<()>,
}

/// A program on its way. Dropped before it has ended, it is killed.
#[derive(Debug)]
pub struct Running {
    name: String,
    child: Option<Child>,
    stderr: Option<JoinHandle<Vec<u8>>>,
    timeout: Duration,
    deadline: Deadline,
}

impl Running {
    /// The program's standard output; `None` the second time.
    pub fn take_stdout(&mut self) -> Option<ChildStdout> {
        self.child.as_mut().and_then(|child| child.stdout.take())
    }

    /// The program's standard output for whoever copies it. A read fails when nothing has come for
    /// as long as the program's time, which begins anew with each, or when `is_over` says that nobody
    /// wants it any more. Dropped after that, the program is killed.
    pub fn output<'a>(&'a mut self, is_over: &'a dyn Fn() -> bool) -> impl Read + 'a {
        Output { running: self, is_over }
    }

    /// Waits for the program's end.
    ///
    /// # Errors
    /// When it fails or exceeds its time (it is killed then).
    pub fn finish(mut self) -> Result<()> {
        let Some(mut child) = self.child.take() else { return Ok(()) };
        // What nobody has read nobody will: it is not to wait for that.
        drop(child.stdout.take());
        let status = self.wait(&mut child)?;
        let stderr = self.stderr.take().and_then(|thread| thread.join().ok()).unwrap_or_default();
        if status.success() {
            return Ok(());
        }
        Err(HostError::Failed {
            program: self.name.clone(),
            status: status.to_string(),
            stderr: String::from_utf8_lossy(&stderr).trim().to_owned(),
        })
    }

    fn wait(&self, child: &mut Child) -> Result<ExitStatus> {
        let failed = |source| HostError::system(format!("wait for {}", self.name), source);
        let pid = i32::try_from(child.id()).unwrap_or(i32::MAX);
        if let Some(process) = Process::open(pid)?
            && !process.ended(self.deadline)?
        {
            process.kill(KILL_PATIENCE)?;
            let seconds = self.timeout.as_secs();
            return Err(HostError::TimedOut { program: self.name.clone(), seconds });
        }
        child.wait().map_err(failed)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let Some(mut child) = self.child.take() else { return };
        // Where not even that ends it, as a disk that does not answer may have it, nobody waits.
        let process = Process::open(i32::try_from(child.id()).unwrap_or(i32::MAX));
        if let Ok(Some(process)) = process {
            let _ = process.kill(KILL_PATIENCE);
        } else {
            let _ = child.kill();
        }
        let _ = child.try_wait();
    }
}

/// See [`Running::output`].
struct Output<'a> {
    running: &'a mut Running,
    is_over: &'a dyn Fn() -> bool,
}

impl Output<'_> {
    /// Whether there is something to read, or the output's end, before its time is over.
    fn is_ready(&mut self) -> Result<bool> {
        let Running { name, child, deadline, timeout, .. } = &mut *self.running;
        let Some(stdout) = child.as_ref().and_then(|child| child.stdout.as_ref()) else {
            return Ok(true);
        };
        *deadline = Deadline::after(*timeout);
        while !(self.is_over)() {
            let patience = deadline.left().min(LOOK_AGAIN);
            let ready = readiness::wait(&[(stdout.as_fd(), Interest::Reading)], Some(patience))?;
            if ready.iter().any(|ready| ready.reading) {
                return Ok(true);
            }
            if deadline.passed() {
                let (program, seconds) = (name.clone(), timeout.as_secs());
                return Err(HostError::Silent { program, seconds });
            }
        }
        Ok(false)
    }
}

impl Read for Output<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if !self.is_ready().map_err(io::Error::other)? {
            return Err(io::Error::other("it was called off"));
        }
        let child = self.running.child.as_mut();
        child.and_then(|child| child.stdout.as_mut()).map_or(Ok(0), |stdout| stdout.read(buffer))
    }
}

/// Where a program is, if it is on this search path. Entries that are not absolute are passed
/// over: they mean another directory wherever the program is started from, and what lies in the
/// directory where somebody happens to be is not what he meant to run.
pub fn find_program(name: &str, path: &OsStr) -> Option<PathBuf> {
    let dirs = std::env::split_paths(path).filter(|dir| dir.is_absolute());
    dirs.map(|dir| dir.join(name)).find(|file| {
        rustix::fs::access(file, rustix::fs::Access::EXEC_OK).is_ok() && file.is_file()
    })
}

/// A path as a word of a command that somebody may paste into a shell.
pub fn quoted(path: &Path) -> String {
    let text = path.to_string_lossy();
    let plain = |c: char| c.is_alphanumeric() || "/._-+:@%,".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        return text.into_owned();
    }
    format!("'{}'", text.replace('\'', r"'\''"))
}

fn read_up_to(source: impl Read, limit: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut limited = source.take(limit);
    let _ = limited.read_to_end(&mut bytes);
    // The rest is read and dropped, so that the program does not block on a full pipe.
    let _ = std::io::copy(&mut limited.into_inner(), &mut std::io::sink());
    bytes
}

fn read_tail(mut source: impl Read) -> Vec<u8> {
    let mut tail = Vec::new();
    let mut chunk = [0; 4096];
    while let Ok(n @ 1..) = source.read(&mut chunk) {
        tail.extend_from_slice(&chunk[..n]);
        if tail.len() > STDERR_TAIL {
            tail.drain(..tail.len() - STDERR_TAIL);
        }
    }
    tail
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn output_and_input_pass_through() {
        let out = Tool::new("tr").args(["a-z", "A-Z"]).input("hello").capture(LONG).unwrap();
        assert_eq!(out, b"HELLO");
    }

    #[test]
    fn a_failure_says_what_the_program_said() {
        let error =
            Tool::new("sh").args(["-c", "echo bad luck >&2; exit 3"]).capture(LONG).unwrap_err();
        assert_eq!(error.to_string(), "sh failed (exit status: 3): bad luck");
    }

    #[test]
    fn an_answer_is_heard_also_from_a_program_that_fails() {
        let said = Tool::new("sh").args(["-c", "echo no such thing; exit 1"]).answer(LONG).unwrap();
        assert_eq!(said.stdout, b"no such thing\n");
        assert!(matches!(said.ended, Err(HostError::Failed { .. })));
    }

    #[test]
    fn a_program_is_found_in_absolute_directories_alone() {
        let found = |path: &str| find_program("sh", OsStr::new(path));
        assert_eq!(found("/nonexistent:/bin:/usr/bin"), Some("/bin/sh".into()));
        let here = std::env::current_dir().unwrap();
        let up = "../".repeat(here.components().count());
        assert!(here.join(&up).join("bin/sh").exists());
        assert_eq!(found(&format!("{up}bin::.")), None);
    }

    #[test]
    fn a_quoted_path_is_one_word_to_a_shell() {
        assert_eq!(quoted(Path::new("/a/b-1.2")), "/a/b-1.2");
        for path in ["/h a=b,c", "/it's $HOME `x` \"y\"", "/~;&|*"] {
            let script = format!("printf %s {}", quoted(Path::new(path)));
            let said = Tool::new("sh").args(["-c", &script]).capture(LONG).unwrap();
            assert_eq!(String::from_utf8(said).unwrap(), path);
        }
    }

    #[test]
    fn a_program_over_its_time_is_killed() {
        let error = Tool::new("sleep").arg("1000").capture(Duration::from_millis(50)).unwrap_err();
        assert!(matches!(error, HostError::TimedOut { .. }), "{error}");
    }

    /// Starts a program that says something and then no more.
    fn hanging(timeout: Duration) -> Running {
        Tool::new("sh").args(["-c", "echo begun; exec sleep 1000"]).stream(timeout).unwrap()
    }

    #[test]
    fn output_that_does_not_go_on_is_given_up() {
        let mut running = hanging(Duration::from_millis(200));
        let mut said = Vec::new();
        let error = running.output(&|| false).read_to_end(&mut said).unwrap_err();
        assert_eq!(said, b"begun\n");
        assert!(error.to_string().starts_with("sh has stopped in the midst"), "{error}");
        // Each read gives it its time anew, so more may come than there was time for in all.
        let script = "for n in 1 2 3 4; do sleep 0.4; echo $n; done";
        let mut running =
            Tool::new("sh").args(["-c", script]).stream(Duration::from_millis(1500)).unwrap();
        let mut said = String::new();
        running.output(&|| false).read_to_string(&mut said).unwrap();
        running.finish().unwrap();
        assert_eq!(said, "1\n2\n3\n4\n");
    }

    #[test]
    fn output_that_nobody_wants_is_given_up_and_its_program_ends() {
        let mut running = hanging(LONG);
        let pid = i32::try_from(running.child.as_ref().unwrap().id()).unwrap();
        let process = Process::open(pid).unwrap().unwrap();
        let wanted = std::cell::Cell::new(true);
        let is_over = || !wanted.get();
        let mut output = running.output(&is_over);
        assert_eq!(output.read(&mut [0; 64]).unwrap(), 6);
        wanted.set(false);
        assert_eq!(output.read(&mut [0]).unwrap_err().to_string(), "it was called off");
        drop(output);
        drop(running);
        assert!(process.ended(Deadline::after(Duration::ZERO)).unwrap());
    }

    #[test]
    fn a_missing_program_is_named() {
        let error = Tool::new("no-such-program").capture(LONG).unwrap_err();
        assert_eq!(error.to_string(), "no-such-program is not installed");
    }

    #[test]
    fn a_program_ends_with_the_thread_that_started_it() {
        let start = || {
            let mut running =
                Tool::new("sleep").arg("1000").ends_with_caller().stream(LONG).unwrap();
            let stdout = running.take_stdout().unwrap();
            (running, stdout)
        };
        let (running, mut stdout) = std::thread::spawn(start).join().unwrap();
        assert_eq!(stdout.read(&mut [0]).unwrap(), 0, "its end closes its output");
        assert!(matches!(running.finish(), Err(HostError::Failed { .. })));
    }

    #[test]
    fn much_output_does_not_block() {
        let out = Tool::new("head").args(["-c", "5000000", "/dev/zero"]).capture(LONG).unwrap();
        assert_eq!(out.len(), 5_000_000);
    }
}
