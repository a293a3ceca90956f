//! Many requests at once, each on a connection of its own, from one thread.
//!
//! Whoever measures runs on the same CPUs as the daemon, so this does as little as there is to
//! do: it writes bytes that were made before, waits for all answers together, and looks at
//! nothing of them but their length and their status.

use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// How long nothing may come.
const PATIENCE: Timespec = Timespec { tv_sec: 60, tv_nsec: 0 };
/// Bytes that are read at once.
const CHUNK: usize = 64 * 1024;

/// An answer.
#[derive(Debug)]
pub(super) struct Answer {
    /// From before the connection was made until the last byte was here.
    pub(super) took: Duration,
    pub(super) status: u16,
    pub(super) body: Vec<u8>,
}

/// One request as it goes over a connection.
pub(super) fn request(method: &str, target: &str, body: &[u8]) -> Vec<u8> {
    let head = format!(
        "{method} {target} HTTP/1.1\r\nhost: banger\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat()
}

/// Sends all of them at once; their answers in the same order.
pub(super) fn all(socket: &Path, requests: &[Vec<u8>]) -> Result<Vec<Answer>> {
    let mut open = Vec::with_capacity(requests.len());
    for request in requests {
        let begun = Instant::now();
        let mut stream = UnixStream::connect(socket).context("nobody listens")?;
        stream.write_all(request)?;
        stream.set_nonblocking(true)?;
        open.push(Open { stream, begun, read: Vec::new(), answer: None });
    }
    let mut buffer = vec![0; CHUNK];
    while open.iter().any(|one| one.answer.is_none()) {
        let mut waiting: Vec<_> = open.iter_mut().filter(|one| one.answer.is_none()).collect();
        let mut fds: Vec<_> =
            waiting.iter().map(|one| PollFd::new(&one.stream, PollFlags::IN)).collect();
        ensure!(poll(&mut fds, Some(&PATIENCE))? > 0, "no answer comes");
        let ready: Vec<_> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
        for (one, _) in waiting.iter_mut().zip(ready).filter(|(_, is_ready)| *is_ready) {
            one.read_on(&mut buffer)?;
        }
    }
    Ok(open.into_iter().filter_map(|one| one.answer).collect())
}

struct Open {
    stream: UnixStream,
    begun: Instant,
    read: Vec<u8>,
    answer: Option<Answer>,
}

impl Open {
    /// Takes what is there.
    fn read_on(&mut self, buffer: &mut [u8]) -> Result<()> {
        match self.stream.read(buffer) {
            Ok(0) => bail!("the daemon hung up"),
            Ok(count) => self.read.extend_from_slice(&buffer[..count]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error.into()),
        }
        if let Some((status, body)) = whole(&self.read)? {
            let (took, body) = (self.begun.elapsed(), body.to_vec());
            self.answer = Some(Answer { took, status, body });
        }
        Ok(())
    }
}

/// Status and body of an answer, once all of it is there.
fn whole(read: &[u8]) -> Result<Option<(u16, &[u8])>> {
    let Some(end) = read.windows(4).position(|four| four == b"\r\n\r\n") else { return Ok(None) };
    let head = std::str::from_utf8(&read[..end])?;
    let mut lines = head.split("\r\n");
    let status = lines.next().and_then(|line| line.split(' ').nth(1)?.parse().ok());
    let status = status.context("an answer without a status")?;
    let len = lines.find_map(|line| {
        let (name, value) = line.split_once(':')?;
        let is_len = name.eq_ignore_ascii_case("content-length");
        value.trim().parse::<usize>().ok().filter(|_| is_len)
    });
    let len = len.context("an answer without a length")?;
    let body = &read[end + 4..];
    Ok((body.len() >= len).then(|| (status, &body[..len])))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_whole_with_its_last_byte() {
        let answer = b"HTTP/1.1 201 Created\r\ndate: x\r\nContent-Length: 3\r\n\r\nabc";
        for end in 0..answer.len() {
            assert_eq!(whole(&answer[..end]).unwrap(), None, "{end}");
        }
        assert_eq!(whole(answer).unwrap(), Some((201, &b"abc"[..])));
        assert!(whole(b"HTTP/1.1 200 OK\r\n\r\n").is_err());
    }

    #[test]
    fn answers_come_in_the_order_of_their_requests() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let server = std::thread::spawn(move || {
            let mut streams: Vec<_> = (0..3).map(|_| listener.accept().unwrap().0).collect();
            for stream in streams.iter_mut().rev() {
                let mut target = [0; 6];
                stream.read_exact(&mut target).unwrap();
                let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\n";
                stream.write_all(answer).unwrap();
                stream.write_all(&target[5..]).unwrap();
            }
            streams
        });
        let requests: Vec<_> =
            ["/a", "/b", "/c"].iter().map(|target| request("GET", target, b"")).collect();
        let answers = all(&path, &requests).unwrap();
        drop(server.join().unwrap());
        let bodies: Vec<_> = answers.iter().map(|answer| &answer.body[..]).collect();
        assert_eq!(bodies, [b"a", b"b", b"c"]);
    }
}
