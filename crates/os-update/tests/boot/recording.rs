//! Every write of a machine to its disk, in order and with every flush, as QEMU's `blklogwrites`
//! logs them: from that, the disk can be made again as it was at any instant, without what the
//! machine had not flushed.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use crate::disk::Disk;

/// The log begins with this; flags of requests follow (dm-log-writes of the kernel).
const MAGIC: u64 = 0x006a_7366_7773_6872;
const FLUSH: u64 = 1;
const DISCARD: u64 = 4;
const SECTOR: usize = 512;

/// One request to the disk.
#[derive(Debug)]
struct Request {
    at: u64,
    bytes: Vec<u8>,
    is_flush: bool,
}

/// What a machine did to its disk.
#[derive(Debug)]
pub(crate) struct Recording {
    before: Disk,
    requests: Vec<Request>,
}

/// An instant at which the power goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Cut {
    /// What was the last to be told of, for people.
    pub(crate) step: String,
    /// Requests that were made by then.
    pub(crate) requests: usize,
    /// What of that is lost: requests that were not flushed.
    pub(crate) lost: Vec<usize>,
}

impl Recording {
    /// Of a machine that began with the disk `before`.
    pub(crate) fn read(before: Disk, log: &Path) -> Self {
        let log = fs::read(log).unwrap();
        let number = |at: usize| u64::from_le_bytes(log[at..at + 8].try_into().unwrap());
        assert_eq!(number(0), MAGIC, "QEMU writes another kind of log");
        let mut requests = Vec::new();
        let mut at = SECTOR;
        while at + SECTOR <= log.len() {
            let [sector, sectors, flags] = [number(at), number(at + 8), number(at + 16)];
            at += SECTOR;
            let len = usize::try_from(sectors).unwrap() * SECTOR;
            if flags & DISCARD == 0 {
                let bytes = log[at..at + len].to_vec();
                let is_flush = flags & FLUSH != 0;
                requests.push(Request { at: sector * SECTOR as u64, bytes, is_flush });
                at += len;
            }
        }
        Self { before, requests }
    }

    /// How many requests there were.
    pub(crate) fn len(&self) -> usize {
        self.requests.len()
    }

    /// An instant behind each request that changed the state or the boot loader's environment.
    pub(crate) fn steps(&self) -> Vec<Cut> {
        let behind = |(at, request): (usize, &Request)| {
            let name = request.bytes.chunks(SECTOR).find_map(name)?;
            Some(Cut { step: format!("{at}: {name}"), requests: at + 1, lost: vec![] })
        };
        self.requests.iter().enumerate().filter_map(behind).collect()
    }

    /// An instant, drawn from a number, and a part of what was not flushed by then.
    pub(crate) fn any(&self, number: u64) -> Cut {
        let mut random = Random(number.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let requests = random.below(self.requests.len()) + 1;
        let flushed =
            self.requests[..requests].iter().rposition(|request| request.is_flush).unwrap_or(0);
        let lost: Vec<usize> = (flushed + 1..requests).filter(|_| random.below(2) == 0).collect();
        let step = format!("{requests}: number {number}");
        Cut { step, requests, lost }
    }

    /// The disk that the next boot finds.
    pub(crate) fn disk_after(&self, cut: &Cut, name: &str) -> Disk {
        let disk = self.before.copy(name);
        let file = File::options().write(true).open(&disk.path).unwrap();
        for (at, request) in self.requests[..cut.requests].iter().enumerate() {
            if !cut.lost.contains(&at) {
                file.write_all_at(&request.bytes, request.at).unwrap();
            }
        }
        disk
    }
}

/// What a sector says that is written to the disk, if it is one of those that an update hangs on.
fn name(sector: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(sector);
    if let Some(variables) = text.strip_prefix("# GRUB Environment Block\n") {
        let value = |name: &str| {
            let mut lines = variables.lines();
            lines.find_map(|line| line.strip_prefix(name)?.strip_prefix('=')).unwrap_or_default()
        };
        let [order, a, b] = ["order", "slot_a", "slot_b"].map(value);
        return Some(format!("environment {order}, a {a}, b {b}"));
    }
    let rest = text.strip_prefix("{\n  \"schema\": 1,\n  \"state\": {\n    \"name\": \"")?;
    rest.split('"').next().map(|state| format!("state {state}"))
}

/// xorshift64 of Marsaglia: the same numbers in each run.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % bound as u64).unwrap()
    }
}

/// Where QEMU logs what it does to a disk.
pub(crate) fn log_of(disk: &Disk) -> PathBuf {
    disk.path.with_extension("log")
}
