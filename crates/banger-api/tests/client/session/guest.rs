//! A guest with one process, and connections to it that break where a test wants.

use banger_api::attach::{
    ClientControl, ClientFrame, DaemonControl, DaemonFrame, Decoder, Frame as _, OutputStream,
};
use banger_model::ProcessEnd;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;

use crate::fake::{Asked, Fake, soon};

/// Most bytes of one stream that are sent beyond what was acknowledged.
const WINDOW: usize = 20_000;

/// How a connection ends.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Break {
    /// Before it is one.
    Refused,
    /// After so many bytes in either direction. The last of those that were heard are lost, as
    /// with a daemon that dies before it has passed them on.
    After { sent: usize, heard: usize, lost: usize },
    /// Only when the process has ended.
    Never,
}

/// A part of a stream whose every byte tells its place.
pub(crate) fn stream(seed: usize, from: usize, to: usize) -> Vec<u8> {
    let byte = |n: usize| (n.wrapping_mul(31) ^ (n >> 8) ^ (n >> 16) ^ seed) & 0xff;
    (from..to).map(|n| u8::try_from(byte(n)).unwrap()).collect()
}

/// A process that outlives every connection.
pub(crate) struct Guest {
    pub(crate) stdin: Vec<u8>,
    ended: bool,
    /// How much it writes to stdout and stderr.
    writes: [usize; 2],
    /// Up to here nothing is kept.
    acked: [usize; 2],
}

impl Guest {
    pub(crate) fn new(writes: [usize; 2]) -> Self {
        Self { stdin: Vec::new(), ended: false, writes, acked: [0, 0] }
    }
}

/// One attached connection, as the daemon has it.
pub(crate) struct Line {
    asked: Asked,
    pub(crate) stdout: usize,
    pub(crate) stderr: usize,
    decoder: Decoder<ClientFrame>,
    heard: Vec<u8>,
}

const HEAD: &str =
    "HTTP/1.1 101 Switching\r\nConnection: upgrade\r\nUpgrade: banger-streams/1\r\n\r\n";

impl Line {
    pub(crate) async fn accept(fake: &mut Fake) -> Self {
        let mut line = Self::waiting(fake).await;
        line.send(HEAD.as_bytes()).await;
        line
    }

    /// Before it is answered.
    pub(crate) async fn waiting(fake: &mut Fake) -> Self {
        let asked = fake.request().await;
        assert_eq!(asked.header("upgrade"), Some("banger-streams/1"));
        let path = "GET /v1/sandboxes/web/processes/0000000000000007/attach?stdout=";
        let offsets = asked.line.strip_prefix(path).unwrap().split_once("&stderr=").unwrap();
        let (stdout, stderr) = (offsets.0.parse().unwrap(), offsets.1.parse().unwrap());
        Self { asked, stdout, stderr, decoder: Decoder::default(), heard: Vec::new() }
    }

    pub(crate) async fn send(&mut self, bytes: &[u8]) {
        self.asked.send(bytes).await;
    }

    pub(crate) async fn say(&mut self, frame: &DaemonFrame) {
        let mut out = Vec::new();
        frame.encode(&mut out);
        self.send(&out).await;
    }

    /// The next frame of the client.
    pub(crate) async fn hear(&mut self) -> ClientFrame {
        loop {
            let mut rest = &self.heard[..];
            let frame = self.decoder.next(&mut rest).unwrap();
            self.heard = rest.to_vec();
            if let Some(frame) = frame {
                return frame;
            }
            let len = soon(self.asked.stream.read_buf(&mut self.heard)).await.unwrap();
            assert!(len > 0, "the client is gone");
        }
    }

    /// Serves the process until the connection breaks or the process has ended.
    pub(crate) async fn serve(mut self, guest: &mut Guest, end: Break) {
        let (mut to_send, mut to_hear, lost) = match end {
            Break::After { sent, heard, lost } => (sent, heard, lost),
            Break::Refused | Break::Never => (usize::MAX, usize::MAX, 0),
        };
        let mut sent = [self.stdout, self.stderr];
        for (sent, acked) in sent.iter().zip(guest.acked) {
            assert!(*sent >= acked, "what was acknowledged is asked for again");
        }
        let (mut out, mut buffer) = (HEAD.as_bytes().to_vec(), vec![0; 5000]);
        put(
            &mut out,
            DaemonControl::Attached {
                stdin: guest.stdin.len() as u64,
                stdout: sent[0] as u64,
                stderr: sent[1] as u64,
            },
        );
        // What the daemon has, and has not passed on to the guest.
        let mut passing = Vec::new();
        let mut said_end = false;
        loop {
            if out.is_empty() {
                put_outputs(&mut out, guest, &mut sent);
            }
            let done = guest.ended && passing.is_empty() && sent == guest.writes;
            if done && !said_end && out.is_empty() {
                said_end = true;
                put(&mut out, DaemonControl::Exited { end: ProcessEnd::Exited(3) });
            }
            if said_end && out.is_empty() {
                return;
            }
            let stream: &mut UnixStream = &mut self.asked.stream;
            let (mut read, mut write) = stream.split();
            let next = out.len().min(to_send).min(3000);
            tokio::select! {
                len = write.write(&out[..next]), if next > 0 => {
                    let Ok(len) = len else { return };
                    out.drain(..len);
                    to_send -= len;
                }
                len = read.read(&mut buffer) => {
                    let len = len.unwrap_or(0).min(to_hear);
                    to_hear -= len;
                    if len == 0 {
                        return;
                    }
                    self.take(&buffer[..len], &mut passing, guest);
                    if passing.len() > lost {
                        guest.stdin.extend(passing.drain(..passing.len() - lost));
                        let offset = guest.stdin.len() as u64;
                        put(&mut out, DaemonControl::StdinTaken { offset });
                    }
                }
            }
            if guest.ended && lost > 0 {
                // Whoever keeps back the last bytes never comes to an end.
                guest.stdin.append(&mut passing);
            }
            if to_send == 0 || to_hear == 0 {
                return;
            }
        }
    }

    fn take(&mut self, mut bytes: &[u8], passing: &mut Vec<u8>, guest: &mut Guest) {
        while let Some(frame) = self.decoder.next(&mut bytes).unwrap() {
            match frame {
                ClientFrame::Stdin(bytes) => {
                    assert!(!guest.ended, "input comes after its end");
                    passing.extend(bytes);
                }
                ClientFrame::Control(ClientControl::StdinEnd) => guest.ended = true,
                ClientFrame::Control(ClientControl::Ack { stream, offset }) => {
                    let offset = usize::try_from(offset).unwrap();
                    let acked = &mut guest.acked[stream as usize];
                    assert!(offset <= guest.writes[stream as usize]);
                    *acked = offset.max(*acked);
                }
                ClientFrame::Control(other) => panic!("{other:?}"),
            }
        }
    }
}

fn put(out: &mut Vec<u8>, message: DaemonControl) {
    DaemonFrame::Control(message).encode(out);
}

fn put_outputs(out: &mut Vec<u8>, guest: &Guest, sent: &mut [usize; 2]) {
    for (index, stream) in [OutputStream::Stdout, OutputStream::Stderr].into_iter().enumerate() {
        let most = guest.writes[index].min(guest.acked[index] + WINDOW);
        let to = most.min(sent[index] + 7000);
        if to > sent[index] {
            let bytes = self::stream(index, sent[index], to);
            DaemonFrame::Output(stream, bytes).encode(out);
            sent[index] = to;
        }
    }
}
