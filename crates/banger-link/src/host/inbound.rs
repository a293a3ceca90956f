//! What a host makes of what the agent says. Nothing of it is trusted.

use super::HostLink;
use super::event::HostEvent;
use super::process::{News, Phase, Process};
use crate::frame::Payload;
use crate::message::{AgentMessage, HostMessage, ProcessId, Reply, Request, Stream};
use crate::stream::{Receipt, Violation};

impl HostLink {
    pub(super) fn frame(&mut self, payload: Payload<'_>) -> Result<(), Violation> {
        match payload {
            Payload::ControlPart(bytes) => self.assembly.part(bytes),
            Payload::ControlLast(bytes) => match self.assembly.last(bytes)? {
                Some(message) => self.message(message),
                None => Err(Violation("sent an unknown message")),
            },
            Payload::Data { process, stream, offset, bytes } => {
                self.data(process, stream, offset, bytes)
            }
        }
    }

    /// The process of this name, if its streams flow. What comes for another is late: of a
    /// process that was closed, or of an older attachment. It is no fault of the agent.
    fn attached(&mut self, process: ProcessId) -> Option<&mut Process> {
        self.processes.get_mut(&process).filter(|process| process.phase == Phase::Attached)
    }

    fn data(
        &mut self,
        process: ProcessId,
        stream: Stream,
        offset: u64,
        bytes: &[u8],
    ) -> Result<(), Violation> {
        let Some(known) = self.attached(process) else { return Ok(()) };
        let Some(receipt) = known.output(stream) else {
            return Err(Violation("sent output as input"));
        };
        let new = receipt.accept(offset, bytes)?;
        if !new.is_empty() {
            self.events.push_back(HostEvent::Output { process, stream, bytes: new.to_vec() });
        }
        Ok(())
    }

    fn message(&mut self, message: AgentMessage) -> Result<(), Violation> {
        match message {
            AgentMessage::Reply { id, reply } => self.replied(id, reply),
            AgentMessage::Ack { process, offset } => {
                let Some(known) = self.attached(process) else { return Ok(()) };
                known.stdin_acked(offset)?;
                self.events.push_back(HostEvent::StdinRoom { process });
                Ok(())
            }
            AgentMessage::End { process, stream, offset } => {
                let Some(known) = self.attached(process) else { return Ok(()) };
                let Some(receipt) = known.output(stream) else {
                    return Err(Violation("ended its input"));
                };
                if receipt.accept_end(offset)? {
                    self.events.push_back(HostEvent::OutputEnded { process, stream });
                }
                Ok(())
            }
            AgentMessage::Exited { process, end } => {
                let Some(known) = self.attached(process) else { return Ok(()) };
                if known.ended(end)? {
                    self.events.push_back(HostEvent::Exited { process, end });
                }
                Ok(())
            }
        }
    }

    fn replied(&mut self, id: u64, reply: Reply) -> Result<(), Violation> {
        // A reply may come twice when it crossed a reconnect.
        let Some(waiting) = self.requests.remove_if_answered_by(id, &reply)? else {
            return Ok(());
        };
        if let Request::Attach { process, .. } = waiting.request {
            return self.attach_replied(process, reply);
        }
        if let Some(process) = waiting.request.starts() {
            let here = waiting.sent_on == Some(self.connection);
            self.start_replied(process, &reply, here.then_some(0));
        }
        self.events.push_back(HostEvent::Reply { request: id, reply });
        Ok(())
    }

    /// A start was answered. With an offset of its stdin, the process is attached by it; without,
    /// it was started for an older connection, or may have been.
    fn start_replied(&mut self, process: ProcessId, reply: &Reply, stdin: Option<u64>) {
        let Some(known) = self.processes.get_mut(&process) else { return };
        if known.phase != Phase::Starting {
            // Somebody attached it meanwhile, and hears about it by that.
            return;
        }
        match (reply, stdin) {
            (Reply::Refused(_), _) => drop(self.processes.remove(&process)),
            (_, Some(stdin)) => self.flow(process, stdin),
            (_, None) => self.request_attach(process),
        }
    }

    fn attach_replied(&mut self, process: ProcessId, reply: Reply) -> Result<(), Violation> {
        let Some(known) = self.processes.get_mut(&process) else { return Ok(()) };
        match (known.phase, reply) {
            (Phase::Queued, _) => self.request_attach(process),
            (Phase::Asked, Reply::Attached { stdin, stdin_taken, stdout, stderr }) => {
                known.go_on((stdin, stdin_taken), (stdout, stderr))?;
                self.ack_outputs(process);
                self.flow(process, stdin);
            }
            (Phase::Asked, Reply::Refused(refusal)) => {
                self.processes.remove(&process);
                self.events.push_back(HostEvent::Lost { process, refusal });
            }
            // To a question of an attachment that is no more.
            _ => {}
        }
        Ok(())
    }

    fn ack_outputs(&mut self, process: ProcessId) {
        for stream in [Stream::Stdout, Stream::Stderr] {
            let Some(known) = self.processes.get_mut(&process) else { return };
            if let Some(offset) = known.output(stream).map(Receipt::ack_again) {
                self.say(&HostMessage::Ack { process, stream, offset });
            }
        }
    }

    fn flow(&mut self, process: ProcessId, stdin: u64) {
        let Some(known) = self.processes.get_mut(&process) else { return };
        self.events.push_back(match known.attached() {
            News::First => HostEvent::Attached { process, stdin },
            News::GoesOn => HostEvent::StdinRoom { process },
        });
    }
}
