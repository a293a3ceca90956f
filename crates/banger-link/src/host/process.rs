//! A process as the host's end of the link knows it.

use banger_model::ProcessEnd;

use crate::message::Stream;
use crate::stream::{Receipt, SendBuffer, Violation};

/// Whether the streams of a process go over this connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Phase {
    /// They will, when the process has been started.
    Starting,
    /// Nobody asked for them yet on this connection.
    #[default]
    Away,
    /// They are to be asked for when an older question has been answered, whose answer counts
    /// for nothing.
    Queued,
    /// They were asked for; whatever comes before the answer is of an older attachment.
    Asked,
    /// They do.
    Attached,
}

/// The streams of a process and how far they are.
#[derive(Debug, Default)]
pub(super) struct Process {
    pub(super) phase: Phase,
    /// Whether the owner was told that it is attached.
    announced: bool,
    /// None until it is known where input goes on.
    pub(super) stdin: Option<SendBuffer>,
    /// Bytes of stdin that the guest has for certain.
    pub(super) stdin_received: u64,
    stdout: Option<Receipt>,
    stderr: Option<Receipt>,
    end: Option<ProcessEnd>,
}

/// What an attachment is to its owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum News {
    /// The first since it was asked for.
    First,
    /// The streams go on after a reconnect.
    GoesOn,
}

impl Process {
    /// One that is about to be started.
    pub(super) fn starting() -> Self {
        Self {
            phase: Phase::Starting,
            stdin: Some(SendBuffer::default()),
            stdout: Some(Receipt::default()),
            stderr: Some(Receipt::default()),
            ..Self::default()
        }
    }

    /// One that runs, whose output goes on at these offsets, or with the oldest bytes kept.
    pub(super) fn running(stdout: Option<u64>, stderr: Option<u64>) -> Self {
        Self { stdout: stdout.map(Receipt::at), stderr: stderr.map(Receipt::at), ..Self::default() }
    }

    /// The account of an output stream, once it is known where it begins.
    pub(super) fn output(&mut self, stream: Stream) -> Option<&mut Receipt> {
        match stream {
            Stream::Stdout => self.stdout.as_mut(),
            Stream::Stderr => self.stderr.as_mut(),
            Stream::Stdin => None,
        }
    }

    /// Where output is to go on after what has arrived.
    pub(super) fn received(&self) -> (Option<u64>, Option<u64>) {
        let at = |receipt: &Option<Receipt>| receipt.as_ref().map(Receipt::received);
        (at(&self.stdout), at(&self.stderr))
    }

    /// The connection is gone. What was never answered is asked again.
    pub(super) fn disconnected(&mut self) {
        if self.phase != Phase::Starting {
            self.phase = Phase::Away;
        }
    }

    /// The streams flow from now on.
    pub(super) fn attached(&mut self) -> News {
        self.phase = Phase::Attached;
        if std::mem::replace(&mut self.announced, true) { News::GoesOn } else { News::First }
    }

    /// Takes over where the streams go on, as the agent says.
    pub(super) fn go_on(
        &mut self,
        (stdin, stdin_taken): (u64, u64),
        (stdout, stderr): (u64, u64),
    ) -> Result<(), Violation> {
        let resumed = match &mut self.stdin {
            Some(buffer) => buffer.resume(stdin) && buffer.ack(stdin_taken).is_ok(),
            none => {
                *none = SendBuffer::at(stdin, stdin_taken);
                none.is_some()
            }
        };
        if !resumed {
            return Err(Violation("claims to have input that it was not sent"));
        }
        self.stdin_received = self.stdin_received.max(stdin);
        self.stdout.get_or_insert_with(|| Receipt::at(stdout));
        self.stderr.get_or_insert_with(|| Receipt::at(stderr));
        Ok(())
    }

    /// The guest took input up to this offset.
    pub(super) fn stdin_acked(&mut self, offset: u64) -> Result<(), Violation> {
        let Some(stdin) = &mut self.stdin else {
            return Err(Violation("acknowledged input that it was not sent"));
        };
        stdin.ack(offset)?;
        self.stdin_received = self.stdin_received.max(offset);
        Ok(())
    }

    /// The process has ended. Returns whether that is news.
    pub(super) fn ended(&mut self, end: ProcessEnd) -> Result<bool, Violation> {
        let ended = |receipt: &Option<Receipt>| receipt.as_ref().is_some_and(Receipt::ended);
        if !ended(&self.stdout) || !ended(&self.stderr) {
            return Err(Violation("reported the end of a process before that of its output"));
        }
        Ok(self.end.replace(end).is_none())
    }
}
