//! What a session knows, without any I/O: what to send on a connection, and what comes of what
//! arrives. A connection that breaks is [`State::detached`], and nothing else changes.

use std::collections::VecDeque;

use super::{SessionError, SessionEvent};
use crate::attach::{
    self, ClientControl, ClientFrame, DaemonControl, DaemonFrame, Frame as _, MAX_PAYLOAD,
    OutputStream, STDIN_WINDOW,
};
use crate::types::Window;

/// Most signals that wait for a connection: more than anybody presses keys before giving up.
pub const MAX_SIGNALS: usize = 16;

/// Something to be said once on every connection, once it was asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Say {
    #[default]
    Never,
    Due,
    Said,
}

impl Say {
    /// Whether it is due; it is not afterwards.
    fn take(&mut self) -> bool {
        let due = *self == Self::Due;
        if due {
            *self = Self::Said;
        }
        due
    }

    fn again(&mut self) {
        if *self == Self::Said {
            *self = Self::Due;
        }
    }
}

/// How far the session is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Phase {
    /// Never attached: the offsets are not known.
    #[default]
    New,
    Attached,
    Detached,
    Over,
}

/// One output stream.
#[derive(Debug, Default)]
struct Output {
    /// Offset of the next byte that is to come.
    received: u64,
    /// Up to here the owner has dealt with it.
    consumed: u64,
    /// Up to here that was said on this connection.
    acked: u64,
    ended: bool,
    close: Say,
}

/// Stdin. Bytes from `taken` on are kept.
#[derive(Debug, Default)]
struct Stdin {
    kept: VecDeque<u8>,
    /// Up to here nothing need be repeated.
    taken: u64,
    /// How much of what is kept was sent on this connection.
    sent: usize,
    /// How much of what is kept was ever sent: the guest may have as much.
    ever_sent: usize,
    end: Say,
}

/// What a session knows.
#[derive(Debug, Default)]
pub(crate) struct State {
    phase: Phase,
    stdin: Stdin,
    stdout: Output,
    stderr: Output,
    window: Option<Window>,
    resize: Say,
    signals: VecDeque<u8>,
    /// So many of the first signals are being sent.
    signals_sent: usize,
}

/// For the owner.
impl State {
    /// Takes as many bytes of stdin as there is room for, and says how many.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<usize, SessionError> {
        if self.is_over() {
            return Err(SessionError::Closed);
        }
        if self.stdin.end != Say::Never {
            return Err(SessionError::StdinEnded);
        }
        let room = STDIN_WINDOW.saturating_sub(self.stdin.kept.len()).min(bytes.len());
        self.stdin.kept.extend(&bytes[..room]);
        Ok(room)
    }

    pub(crate) fn end_stdin(&mut self) {
        if self.stdin.end == Say::Never {
            self.stdin.end = Say::Due;
        }
    }

    pub(crate) fn signal(&mut self, signal: u8) -> Result<(), SessionError> {
        if self.is_over() {
            return Err(SessionError::Closed);
        }
        if self.signals.len() >= MAX_SIGNALS {
            return Err(SessionError::TooManySignals);
        }
        self.signals.push_back(signal);
        Ok(())
    }

    pub(crate) fn resize(&mut self, window: Window) {
        self.window = Some(window);
        self.resize = Say::Due;
    }

    pub(crate) fn close_output(&mut self, stream: OutputStream) {
        let output = self.output(stream);
        if output.close == Say::Never {
            output.close = Say::Due;
        }
        // What is still to come is dealt with by nobody.
        output.consumed = output.received;
    }

    pub(crate) fn consumed(&mut self, stream: OutputStream, bytes: usize) {
        let output = self.output(stream);
        let to = output.consumed.saturating_add(offset(bytes));
        output.consumed = to.min(output.received);
    }

    pub(crate) fn close(&mut self) {
        self.phase = Phase::Over;
    }
}

/// For the task that has the connection.
impl State {
    pub(crate) fn is_over(&self) -> bool {
        self.phase == Phase::Over
    }

    pub(crate) fn is_attached(&self) -> bool {
        self.phase == Phase::Attached
    }

    /// Where stdout and stderr are to go on.
    pub(crate) fn offsets(&self) -> (u64, u64) {
        (self.stdout.received, self.stderr.received)
    }

    /// The connection is gone.
    pub(crate) fn detached(&mut self) {
        if self.phase == Phase::Attached {
            self.phase = Phase::Detached;
        }
        self.signals_sent = 0;
        self.stdin.end.again();
        self.resize.again();
        for output in [&mut self.stdout, &mut self.stderr] {
            output.acked = 0;
            output.close.again();
        }
    }

    /// Appends what is to be sent now; not more than two frames of data.
    pub(crate) fn fill(&mut self, out: &mut Vec<u8>) {
        if !self.is_attached() {
            return;
        }
        let mut say = |message| ClientFrame::Control(message).encode(out);
        for &signal in &self.signals {
            say(ClientControl::Signal { signal });
        }
        self.signals_sent = self.signals.len();
        if let Some(window) = self.window.filter(|_| self.resize.take()) {
            say(ClientControl::Resize(window));
        }
        let outputs =
            [(OutputStream::Stdout, &mut self.stdout), (OutputStream::Stderr, &mut self.stderr)];
        for (stream, output) in outputs {
            if output.close.take() {
                say(ClientControl::CloseOutput { stream });
            }
            if output.consumed > output.acked {
                output.acked = output.consumed;
                say(ClientControl::Ack { stream, offset: output.consumed });
            }
        }
        self.stdin.fill(out);
    }

    /// What [`Self::fill`] gave last was sent.
    pub(crate) fn flushed(&mut self) {
        self.signals.drain(..self.signals_sent);
        self.signals_sent = 0;
    }

    /// Takes a frame, and says what the owner is to be told.
    ///
    /// # Errors
    /// If the frame makes no sense here.
    pub(crate) fn on_frame(&mut self, frame: DaemonFrame) -> Result<Option<SessionEvent>, String> {
        use DaemonControl as C;
        let control = match frame {
            DaemonFrame::Output(stream, bytes) => return self.on_output(stream, bytes),
            DaemonFrame::Control(control) => control,
        };
        let last = |state: &mut Self, event| {
            state.close();
            Ok(Some(event))
        };
        match control {
            C::Attached { stdin, stdout, stderr } => self.on_attached(stdin, stdout, stderr),
            C::StdinTaken { offset } => self.on_taken(offset),
            C::OutputEnded { stream } => {
                self.must_be_attached()?;
                let output = self.output(stream);
                let news = !std::mem::replace(&mut output.ended, true);
                Ok(news.then_some(SessionEvent::OutputEnded { stream }))
            }
            C::Notice { message } => Ok(Some(SessionEvent::Notice(message))),
            C::Exited { end } => last(self, SessionEvent::Exited(end)),
            C::Lost { message } => last(self, SessionEvent::Lost(message)),
            C::SandboxEnded { reason } => last(self, SessionEvent::SandboxEnded(reason)),
        }
    }

    fn on_attached(
        &mut self,
        stdin: u64,
        stdout: u64,
        stderr: u64,
    ) -> Result<Option<SessionEvent>, String> {
        match self.phase {
            Phase::Attached | Phase::Over => return Err("it attaches twice".to_owned()),
            Phase::New => {
                self.stdin.taken = stdin;
                for (output, from) in [(&mut self.stdout, stdout), (&mut self.stderr, stderr)] {
                    (output.received, output.consumed, output.acked) = (from, from, from);
                }
            }
            Phase::Detached => {
                self.stdin.go_on_at(stdin)?;
                self.stdout.go_on_at(stdout)?;
                self.stderr.go_on_at(stderr)?;
            }
        }
        self.phase = Phase::Attached;
        Ok(None)
    }

    fn on_taken(&mut self, offset: u64) -> Result<Option<SessionEvent>, String> {
        self.must_be_attached()?;
        let more = usize::try_from(offset.saturating_sub(self.stdin.taken)).unwrap_or(usize::MAX);
        if more > self.stdin.sent {
            return Err("it took input that was never sent".to_owned());
        }
        self.stdin.drop_first(more);
        Ok(None)
    }

    fn on_output(
        &mut self,
        stream: OutputStream,
        bytes: Vec<u8>,
    ) -> Result<Option<SessionEvent>, String> {
        self.must_be_attached()?;
        let output = self.output(stream);
        if output.ended && !bytes.is_empty() {
            return Err("output comes after its end".to_owned());
        }
        output.received = output.received.saturating_add(offset(bytes.len()));
        if output.close != Say::Never {
            output.consumed = output.received;
            return Ok(None);
        }
        Ok((!bytes.is_empty()).then_some(SessionEvent::Output { stream, bytes }))
    }

    fn must_be_attached(&self) -> Result<(), String> {
        if self.is_attached() { Ok(()) } else { Err("it does not say where it begins".to_owned()) }
    }

    fn output(&mut self, stream: OutputStream) -> &mut Output {
        match stream {
            OutputStream::Stdout => &mut self.stdout,
            OutputStream::Stderr => &mut self.stderr,
        }
    }
}

impl Output {
    fn go_on_at(&mut self, from: u64) -> Result<(), String> {
        // Of what nobody reads, nobody misses anything.
        if self.ended || self.close != Say::Never {
            self.received = self.received.max(from);
            self.consumed = self.received;
            return Ok(());
        }
        if from == self.received {
            return Ok(());
        }
        Err(format!("output goes on at byte {from}, and byte {} is next", self.received))
    }
}

impl Stdin {
    fn go_on_at(&mut self, from: u64) -> Result<(), String> {
        let arrived = from.checked_sub(self.taken).and_then(|more| usize::try_from(more).ok());
        let Some(arrived) = arrived.filter(|arrived| *arrived <= self.ever_sent) else {
            return Err(format!("input goes on at byte {from}, and byte {} is kept", self.taken));
        };
        self.drop_first(arrived);
        self.sent = 0;
        Ok(())
    }

    fn drop_first(&mut self, count: usize) {
        self.kept.drain(..count.min(self.kept.len()));
        self.sent = self.sent.saturating_sub(count);
        self.ever_sent = self.ever_sent.saturating_sub(count);
        self.taken = self.taken.saturating_add(offset(count));
    }

    fn fill(&mut self, out: &mut Vec<u8>) {
        let (a, b) = self.kept.as_slices();
        let next = match a.get(self.sent..) {
            Some(rest) if !rest.is_empty() => rest,
            _ => &b[self.sent.saturating_sub(a.len())..],
        };
        let next = &next[..next.len().min(MAX_PAYLOAD)];
        attach::put_stdin(out, next);
        self.sent += next.len();
        self.ever_sent = self.ever_sent.max(self.sent);
        if self.sent == self.kept.len() && self.end.take() {
            ClientFrame::Control(ClientControl::StdinEnd).encode(out);
        }
    }
}

fn offset(len: usize) -> u64 {
    u64::try_from(len).unwrap_or(u64::MAX)
}
