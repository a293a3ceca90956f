//! A hermetic place to run `banger` in, and what came of a run.

use std::ffi::OsStr;
use std::io::Write as _;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// How long a condition may take to become true: nothing here takes a second on an idle machine.
const PATIENCE: Duration = Duration::from_secs(300);
/// Between two looks at a condition that nothing announces.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// An installed `banger` with a home of its own. Kernel, image and what is known of the host are
/// shared between tests; sandboxes are not.
pub(crate) struct TestEnv {
    root: TempDir,
    spares: usize,
}

/// What came of a run.
pub(crate) struct Ran {
    pub(crate) status: i32,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: String,
}

impl TestEnv {
    /// A place where nothing was ever made: for what needs no machine.
    pub(crate) fn empty() -> Self {
        let root = tempfile::tempdir().unwrap();
        for dir in ["bin", "lib/banger", "home"] {
            std::fs::create_dir_all(root.path().join(dir)).unwrap();
        }
        // A copy would be another 20 MB for each test; the program finds itself by its link's
        // target, so the link is a hard one where it can be.
        let built = Path::new(env!("CARGO_BIN_EXE_banger"));
        for name in ["banger", "bangerd"] {
            let (built, program) = (built.with_file_name(name), root.path().join("bin").join(name));
            std::fs::hard_link(&built, &program)
                .or_else(|_| std::fs::copy(&built, &program).map(drop))
                .unwrap_or_else(|error| panic!("{}: {error}", built.display()));
        }
        if let Some(agents) = banger_testkit::agent_dir() {
            for name in ["banger-agent", "banger-floor"] {
                symlink(agents.join(name), root.path().join("lib/banger").join(name)).unwrap();
            }
        }
        Self { root, spares: 0 }
    }

    /// A place where sandboxes start at once; `None`, with the reason said, where they cannot.
    pub(crate) fn with_machines() -> Option<Self> {
        if banger_testkit::agent_dir().is_none() {
            banger_testkit::skipped("the static guest agent is not built");
            return None;
        }
        if let Err(why) = shared() {
            banger_testkit::skipped(why);
            return None;
        }
        let env = Self::empty();
        env.share_what_is_made();
        Some(env)
    }

    /// The same place, where so many machines may wait to become sandboxes. Elsewhere there are
    /// none, so that what is left over shows.
    pub(crate) fn with_spares(mut self, spares: usize) -> Self {
        self.spares = spares;
        self
    }

    /// The same place, whose images, cache and templates are its own; what there is in the shared
    /// one is seen in it.
    pub(crate) fn with_own_images(self) -> Self {
        let home = self.home();
        for part in ["data", "cache", "state/templates"] {
            let (shared, own) = (banger_testkit::test_home().join(part), home.join(part));
            std::fs::remove_file(&own).unwrap();
            std::fs::create_dir(&own).unwrap();
            if part != "state/templates" {
                look_through(&shared, &own);
            }
        }
        for part in ["data/images", "data/image-store", "data/kernels"] {
            std::fs::remove_file(home.join(part)).unwrap();
            std::fs::create_dir(home.join(part)).unwrap();
            look_through(&banger_testkit::test_home().join(part), &home.join(part));
        }
        self
    }

    fn share_what_is_made(&self) {
        let shared = banger_testkit::test_home();
        let home = self.home();
        std::fs::create_dir_all(home.join("state")).unwrap();
        for part in ["data", "cache", "state/host", "state/templates"] {
            symlink(shared.join(part), home.join(part)).unwrap();
        }
    }

    pub(crate) fn home(&self) -> PathBuf {
        self.root.path().join("home")
    }

    pub(crate) fn program(&self) -> PathBuf {
        self.root.path().join("bin/banger")
    }

    /// A command with nothing of this process's environment.
    pub(crate) fn command<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Command {
        let mut command = Command::new(self.program());
        command
            .args(args)
            .env_clear()
            .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
            .env("HOME", self.root.path())
            .env("BANGER_HOME", self.home())
            .env("BANGER_SPARES", self.spares.to_string())
            // On a busy host anything may take so long that it is told.
            .env("BANGER_PROGRESS", "none")
            .current_dir(self.root.path());
        command
    }

    #[must_use = "look at the status, or call `ok`"]
    pub(crate) fn run<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Ran {
        Ran::of(self.command(args).stdin(Stdio::null()).output().unwrap())
    }

    #[must_use = "look at the status, or call `ok`"]
    pub(crate) fn run_with_input(&self, args: &[&str], input: &[u8]) -> Ran {
        Ran::of(self.output_with_input(args, input))
    }

    /// As [`TestEnv::run_with_input`], with standard error byte for byte.
    pub(crate) fn output_with_input(&self, args: &[&str], input: &[u8]) -> Output {
        let mut child = self
            .command(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        std::thread::scope(|scope| {
            scope.spawn(move || drop(stdin.write_all(input)));
            child.wait_with_output().unwrap()
        })
    }

    /// Runs a shell script in a new sandbox.
    #[must_use = "look at the status, or call `ok`"]
    pub(crate) fn sh(&self, script: &str) -> Ran {
        self.run(["vm", "run", "--", "sh", "-c", script])
    }

    /// Directories of sandboxes that are there.
    pub(crate) fn sandboxes(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(self.home().join("state/sandboxes"));
        let dirs = entries.into_iter().flatten().map(|entry| entry.unwrap().path());
        dirs.filter(|path| path.is_dir()).collect()
    }

    /// Pids and command lines of processes that have to do with this place.
    pub(crate) fn all_processes(&self) -> Vec<(i32, String)> {
        let here = self.root.path().to_string_lossy().into_owned();
        let lines = std::fs::read_dir("/proc").unwrap().filter_map(|entry| {
            let path = entry.ok()?.path();
            let pid = path.file_name()?.to_str()?.parse().ok()?;
            let line = std::fs::read(path.join("cmdline")).ok()?;
            let line = String::from_utf8_lossy(&line).replace('\0', " ");
            line.contains(&here).then_some((pid, line))
        });
        lines.collect()
    }

    /// Command lines of processes that have to do with this place, but for the daemon.
    pub(crate) fn processes(&self) -> Vec<String> {
        let all = self.all_processes().into_iter().map(|(_, line)| line);
        all.filter(|line| !is_daemon(line)).collect()
    }

    /// The pid of the daemon, if one runs.
    pub(crate) fn daemon(&self) -> Option<i32> {
        self.all_processes().into_iter().find(|(_, line)| is_daemon(line)).map(|(pid, _)| pid)
    }

    /// Kills the daemon, and waits until it is gone.
    pub(crate) fn kill_daemon(&self) {
        let Some(pid) = self.daemon() else { return };
        kill(pid);
        // Its sockets go with its last thread: only then nobody can connect to it.
        wait_until("the daemon is gone", || {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            let ended = stat.rsplit_once(')').is_none_or(|(_, rest)| rest.starts_with(" Z"));
            let threads = std::fs::read_dir(format!("/proc/{pid}/task"));
            ended && threads.map_or(0, Iterator::count) <= 1
        });
    }

    /// Asserts that no sandbox, no process and no file of one is left.
    pub(crate) fn assert_nothing_left(&self) {
        wait_until("nothing of the sandboxes is left", || {
            let leases = std::fs::read_dir(self.home().join("state/leases"));
            let leases = leases.into_iter().flatten().count();
            self.sandboxes().is_empty() && self.processes().is_empty() && leases == 0
        });
    }
}

/// Makes everything in one directory seen in another; names of images stay names.
fn look_through(from: &Path, into: &Path) {
    for entry in std::fs::read_dir(from).unwrap() {
        let (path, own) = entry.map(|e| (e.path(), into.join(e.file_name()))).unwrap();
        symlink(std::fs::read_link(&path).unwrap_or(path), own).unwrap();
    }
}

fn is_daemon(line: &str) -> bool {
    line.contains("/bin/bangerd --socket-fd")
}

pub(crate) fn kill(pid: i32) {
    if let Some(pid) = rustix::process::Pid::from_raw(pid) {
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
    }
}

impl Drop for TestEnv {
    /// Ends the daemon first: it would go on with what it finds ended.
    fn drop(&mut self) {
        self.kill_daemon();
        for (pid, _) in self.all_processes() {
            kill(pid);
        }
    }
}

impl Ran {
    fn of(output: Output) -> Self {
        use std::os::unix::process::ExitStatusExt as _;
        let status = output.status;
        let code = status.code().unwrap_or_else(|| -status.signal().unwrap_or(0));
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        Self { status: code, stdout: output.stdout, stderr }
    }

    /// Standard output of a run that succeeded.
    pub(crate) fn ok(self) -> String {
        assert_eq!(self.status, 0, "{}{}", self.text(), self.stderr);
        self.text()
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }
}

/// Makes kernel, image and KVM's verdict once for all tests of this run.
fn shared() -> &'static Result<(), String> {
    static SHARED: OnceLock<Result<(), String>> = OnceLock::new();
    SHARED.get_or_init(|| {
        let env = TestEnv::empty();
        let mut command = env.command(["vm", "run", "--", "true"]);
        let home = banger_testkit::test_home();
        let output = command.env("BANGER_HOME", &home).output().unwrap();
        if output.status.success() {
            // Its daemon ends with `env`, and nobody else comes to remove the sandbox.
            wait_until("the sandbox is gone", || {
                let sandboxes = std::fs::read_dir(home.join("state/sandboxes"));
                sandboxes.into_iter().flatten().next().is_none()
            });
            return Ok(());
        }
        Err(format!("no sandbox starts here: {}", String::from_utf8_lossy(&output.stderr).trim()))
    })
}

/// Waits for what nothing announces.
pub(crate) fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !condition() {
        assert!(begin.elapsed() < PATIENCE, "not within {} s: {what}", PATIENCE.as_secs());
        std::thread::sleep(LOOK_AGAIN);
    }
}

/// Whether this process may mount file systems.
pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// A file system of its own, unmounted when dropped.
pub(crate) struct Tmpfs(PathBuf);

impl Tmpfs {
    pub(crate) fn mount(at: &Path, options: &str) -> Self {
        std::fs::create_dir_all(at).unwrap();
        let status =
            Command::new("mount").args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(at).status();
        assert!(status.unwrap().success());
        Self(at.to_owned())
    }

    fn unmount(&self, options: &[&str]) -> bool {
        let mut umount = Command::new("umount");
        umount.args(options).arg(&self.0).stderr(Stdio::null());
        umount.status().unwrap().success()
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // A test that has failed already has said more, and its daemon may still run.
            self.unmount(&["--lazy"]);
        } else {
            // Whoever reads /proc/PID/cmdline as a process ends, as the other tests do, has a share in
            // its memory, and the files mapped there are open until the last share has been torn down:
            // some ten milliseconds after the process is gone.
            wait_until("the file system is unmounted", || self.unmount(&[]));
        }
    }
}
