//! What host and agent say to each other.
//!
//! Messages are encoded with postcard: compact, and a variant is its number. So a variant that
//! was ever published keeps its place and its fields for good; what is new is a new variant at
//! the end, sent only when the negotiated version has it. A test pins the encodings.

use banger_model::{EnvVar, GuestNet, MacAddress, ProcessEnd};
use serde::{Deserialize, Serialize};

/// What the host calls a process: chosen at random before it is started, so that a request to
/// start it can be repeated without starting it twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ProcessId(pub u64);

/// The streams of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Stream {
    /// From host to process.
    Stdin,
    /// From process to host; with a terminal, everything it shows.
    Stdout,
    /// From process to host; never used with a terminal.
    Stderr,
}

/// Rows and columns of a terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Window {
    /// Lines.
    pub rows: u16,
    /// Characters in a line.
    pub cols: u16,
}

/// What makes a guest this sandbox and no other; given once it runs, never before.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// The hostname.
    pub hostname: String,
    /// The machine id (machine-id(5)).
    pub machine_id: [u8; 16],
    /// Fresh random bytes for the kernel's pool.
    pub entropy: [u8; 32],
    /// Nanoseconds since 1970.
    pub wall_clock_ns: u64,
    /// The Ethernet address of the network interface.
    pub mac: MacAddress,
    /// Addresses; none for a sandbox without a network.
    pub net: Option<GuestNet>,
}

/// What to run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Command {
    /// Program and arguments. A program without `/` is looked up in the command's own `PATH`.
    pub argv: Vec<Vec<u8>>,
    /// The environment, whole; the agent adds only `HOME`, `USER`, `LOGNAME`, `SHELL` and `PATH`
    /// where they are missing.
    pub env: Vec<EnvVar>,
    /// Working directory; the user's home where none is given.
    pub cwd: Option<Vec<u8>>,
    /// `user`, `user:group` or numbers, looked up in the image's own files; root where none is
    /// given.
    pub user: Option<Vec<u8>>,
    /// The terminal it gets; without one it gets pipes.
    pub terminal: Option<Window>,
}

/// Whom a signal is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SignalScope {
    /// The process and its process group.
    Group,
    /// Every process that it ever started and that still lives.
    Tree,
}

/// What a host asks of an agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// Become this sandbox. Answered by [`Reply::Done`].
    Configure(Identity),
    /// Start a process, attached from its first byte. Answered by [`Reply::Started`].
    Start {
        /// What it will be called.
        process: ProcessId,
        /// What to run.
        command: Command,
    },
    /// Send a process's output on this connection, and take its input. Answered by
    /// [`Reply::Attached`].
    Attach {
        /// Which process.
        process: ProcessId,
        /// Where to go on in its stdout; none means the oldest byte still kept.
        stdout: Option<u64>,
        /// Where to go on in its stderr; none means the oldest byte still kept.
        stderr: Option<u64>,
    },
    /// Signal a process. Answered by [`Reply::Done`].
    Signal {
        /// Which process.
        process: ProcessId,
        /// The signal's number.
        signal: u8,
        /// Whom it is for.
        scope: SignalScope,
    },
    /// The terminal of a process has this size now. Answered by [`Reply::Done`].
    Resize {
        /// Which process.
        process: ProcessId,
        /// The new size.
        window: Window,
    },
    /// Which processes are there? Answered by [`Reply::Processes`].
    List,
    /// Forget a process that has ended. Answered by [`Reply::Done`].
    Release {
        /// Which process.
        process: ProcessId,
    },
    /// Who are you? Answered by [`Reply::Info`].
    Info,
    /// Write everything to the disk and power off. Answered by [`Reply::Done`] just before.
    PowerOff,
    /// Nobody reads this output any more: the process is to learn it as it would from a pipe
    /// whose reader has gone. Answered by [`Reply::Done`].
    CloseOutput {
        /// Which process.
        process: ProcessId,
        /// Which of its streams.
        stream: Stream,
    },
    /// How much of the machine is in use? Answered by [`Reply::Stats`]. Since version 2.
    Stats,
    /// Start one of the agent's own tools as a process, attached from its first byte. Answered by
    /// [`Reply::Started`]. Since version 2.
    StartTool {
        /// What it will be called.
        process: ProcessId,
        /// What it does.
        tool: Tool,
    },
    /// What is at this path? Answered by [`Reply::Looked`]. Since version 2.
    Look {
        /// The path, in the sandbox's root; a relative one counts from `/`.
        path: Vec<u8>,
    },
    /// Make the machine small, for it is to be saved: everything on the disk, nothing cached,
    /// free memory full of zeros. Answered by [`Reply::Done`]. Since version 3.
    Settle,
    /// Let no process run but the agent, until [`Request::Thaw`]. Answered by [`Reply::Done`]
    /// when all stand still. Since version 3.
    Freeze,
    /// Let all processes go on. Answered by [`Reply::Done`]. Since version 3.
    Thaw,
    /// Move the wall clock, and tell what it says then. Answered by [`Reply::Clock`]. Since
    /// version 4.
    Clock {
        /// By so many nanoseconds; nothing to be told alone.
        adjust_ns: i64,
    },
    /// What a process is asked to end with when the machine goes off, instead of SIGTERM; it is asked
    /// before all others. Answered by [`Reply::Done`]. Since version 6.
    EndWith {
        /// Which process.
        process: ProcessId,
        /// Number of the signal.
        signal: u8,
    },
}

impl Request {
    /// The oldest version of the protocol that has this request.
    pub fn since(&self) -> u16 {
        match self {
            Self::StartTool { tool: Tool::MountVolume { .. } | Tool::PackRoot, .. } => 5,
            Self::Stats | Self::StartTool { .. } | Self::Look { .. } => 2,
            Self::Settle | Self::Freeze | Self::Thaw => 3,
            Self::Clock { .. } => 4,
            Self::EndWith { .. } => 6,
            _ => 1,
        }
    }

    /// The process that it starts, if it starts one.
    pub(crate) fn starts(&self) -> Option<ProcessId> {
        match self {
            Self::Start { process, .. } | Self::StartTool { process, .. } => Some(*process),
            _ => None,
        }
    }

    /// Whether a reply is one that this request may have.
    pub(crate) fn is_answered_by(&self, reply: &Reply) -> bool {
        if matches!(reply, Reply::Refused(_)) {
            return true;
        }
        match self {
            Self::Start { .. } | Self::StartTool { .. } => matches!(reply, Reply::Started { .. }),
            Self::Attach { .. } => matches!(reply, Reply::Attached { .. }),
            Self::List => matches!(reply, Reply::Processes(_)),
            Self::Info => matches!(reply, Reply::Info(_)),
            Self::Stats => matches!(reply, Reply::Stats(_)),
            Self::Look { .. } => matches!(reply, Reply::Looked(_)),
            Self::Clock { .. } => matches!(reply, Reply::Clock { .. }),
            Self::Configure(_)
            | Self::Signal { .. }
            | Self::Resize { .. }
            | Self::Release { .. }
            | Self::PowerOff
            | Self::Settle
            | Self::Freeze
            | Self::Thaw
            | Self::EndWith { .. }
            | Self::CloseOutput { .. } => matches!(reply, Reply::Done),
        }
    }
}

/// What the agent can do as a process of its own, without any program of the image.
///
/// Paths are those of the sandbox's root, as its processes see it; a relative one counts from
/// `/`. A tool says what is wrong in lines on its stderr and ends with 0 when all is done, 1 when
/// it had to leave something out, 2 when it could not go on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Tool {
    /// Writes what is at a path to stdout, as a tar stream. The first component of every entry is
    /// the last one of the path, and `.` for a path that ends in none.
    Pack {
        /// What to pack. If it is a symbolic link, the link itself is packed.
        path: Vec<u8>,
    },
    /// Reads a tar stream from stdin into a directory.
    Unpack {
        /// The directory; it has to exist.
        path: Vec<u8>,
        /// What the first component of every entry is called instead.
        name: Option<Vec<u8>>,
    },
    /// Mounts a volume. A new one is filled with what is at the path first. Since version 5.
    MountVolume {
        /// Which of the machine's devices for volumes it is.
        slot: u8,
        /// Where it is to be.
        path: Vec<u8>,
    },
    /// Writes the root file system to stdout, as a tar stream without sparse files, with extended
    /// attributes and whole times, and without what is mounted in it. Since version 5.
    PackRoot,
}

/// An agent's answer to one request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    /// It is done.
    Done,
    /// The process runs.
    Started {
        /// Its pid in the guest.
        pid: u32,
    },
    /// The streams go on from here.
    Attached {
        /// Bytes of stdin that arrived so far.
        stdin: u64,
        /// Bytes of stdin that the process took so far.
        stdin_taken: u64,
        /// The first byte of stdout that will be sent.
        stdout: u64,
        /// The first byte of stderr that will be sent.
        stderr: u64,
    },
    /// The processes that run, or have ended and are not released.
    Processes(Vec<ProcessInfo>),
    /// About the agent.
    Info(AgentInfo),
    /// It cannot be done.
    Refused(Refusal),
    /// How much of the machine is in use.
    Stats(GuestStats),
    /// What is at the path.
    Looked(PathKind),
    /// What the wall clock says.
    Clock {
        /// Nanoseconds since 1970.
        wall_clock_ns: u64,
    },
}

/// How much of a guest is in use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestStats {
    /// Milliseconds since the guest's kernel started.
    pub uptime_ms: u64,
    /// Milliseconds in which its processors worked since then, all of them together.
    pub cpu_busy_ms: u64,
    /// How many processors it has.
    pub cpus: u16,
    /// Bytes of memory that its kernel manages.
    pub memory_total: u64,
    /// Bytes of memory that a program could still get.
    pub memory_available: u64,
    /// Bytes that its root file system can hold.
    pub disk_total: u64,
    /// Bytes of them that are free for every user.
    pub disk_free: u64,
    /// Bytes that all network interfaces but the loopback received.
    pub net_rx: u64,
    /// Bytes that they sent.
    pub net_tx: u64,
    /// Processes that run a program: neither threads of the kernel nor what waits to be reaped.
    pub processes: u32,
}

/// What is at a path, symbolic links followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PathKind {
    /// A directory.
    Directory,
    /// A regular file.
    File,
    /// Something else: a device, a pipe, a socket.
    Other,
    /// Nothing.
    Missing,
}

/// One process in a list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessInfo {
    /// What the host called it.
    pub process: ProcessId,
    /// Its pid in the guest.
    pub pid: u32,
    /// The program's name as it was given, cut at 256 bytes.
    pub program: Vec<u8>,
    /// How it ended, if it has.
    pub end: Option<ProcessEnd>,
}

/// About the agent and the system it runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentInfo {
    /// The agent's version.
    pub version: String,
    /// The guest kernel's id of its boot.
    pub boot_id: String,
    /// Microseconds from the kernel's start to the agent's readiness.
    pub ready_us: u64,
}

/// Why an agent does not do what it is asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Refusal {
    /// There is no such program.
    #[error("{0}: command not found")]
    NotFound(String),
    /// The program is there but cannot be executed.
    #[error("{0}: cannot be executed: {1}")]
    CannotInvoke(String, String),
    /// The image has no such user or group.
    #[error("no user or group {0:?} in the image")]
    NoSuchUser(String),
    /// The working directory cannot be entered.
    #[error("cannot enter the working directory {0}: {1}")]
    WorkingDirectory(String, String),
    /// As many processes as an agent takes.
    #[error("too many processes: {0} run or wait to be released")]
    TooManyProcesses(u32),
    /// No process of this id.
    #[error("no such process")]
    UnknownProcess,
    /// The process has ended, or has not.
    #[error("the process {0}")]
    WrongState(String),
    /// The output asked for is no longer kept.
    #[error("output from byte {asked} is gone: the oldest kept is {kept}")]
    OutputLost {
        /// The byte asked for.
        asked: u64,
        /// The oldest byte there is.
        kept: u64,
    },
    /// The message is not one this agent knows.
    #[error("the agent does not know this request")]
    Unsupported,
    /// The guest's system refused.
    #[error("{0}")]
    Failed(String),
}

/// Everything a host sends beside stream data.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum HostMessage {
    /// A request. Replies to requests before `settled` have all arrived.
    Request { id: u64, settled: u64, request: Request },
    /// Output up to this offset was taken.
    Ack { process: ProcessId, stream: Stream, offset: u64 },
    /// Stdin ends at this offset.
    End { process: ProcessId, offset: u64 },
}

/// Everything an agent sends beside stream data.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum AgentMessage {
    /// The answer to a request.
    Reply { id: u64, reply: Reply },
    /// Input up to this offset was taken.
    Ack { process: ProcessId, offset: u64 },
    /// An output stream ends at this offset.
    End { process: ProcessId, stream: Stream, offset: u64 },
    /// The process has ended. Its output may still be on its way.
    Exited { process: ProcessId, end: ProcessEnd },
}
