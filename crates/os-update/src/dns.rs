//! Names to addresses, by our own means: a static program in an initramfs has no C library beside
//! it that could ask.
//!
//! `/etc/hosts` first, then the name servers of `/etc/resolv.conf`, over UDP from a socket that is
//! connected to the server, with a random id, and over TCP when an answer does not fit. The
//! functions that read bytes are pure.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use banger_host::fs::read_text;
use thiserror::Error;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

/// Most name servers that are asked, as in the C library.
const MAX_SERVERS: usize = 3;
/// Most suffixes that are tried behind a name without a dot.
const MAX_SEARCH: usize = 6;
/// Longest file that is read.
const MAX_FILE: u64 = 1024 * 1024;
/// How long a server may take, and how often all are asked.
const PATIENCE: Duration = Duration::from_secs(3);
const ROUNDS: usize = 2;
/// Longest answer over UDP that is taken; ours fit into 512.
const MAX_UDP: usize = 4096;
/// Most records of an answer that are looked at.
const MAX_RECORDS: u16 = 64;
/// Most aliases from a name to its address.
const MAX_ALIASES: usize = 8;
/// Most addresses that are used.
const MAX_ADDRESSES: usize = 16;
/// Most bytes of a name: RFC 1035.
const MAX_NAME: usize = 253;

/// Why a name has no address.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum DnsError {
    /// It is no name.
    #[error("{0:?} is no name of a host")]
    Name(String),
    /// Nobody to ask.
    #[error("there is no name server in /etc/resolv.conf")]
    NoServer,
    /// Nobody answered.
    #[error("no name server has answered about {0}")]
    Silence(String),
    /// They say that there is none.
    #[error("there is no host {0}")]
    NotFound(String),
}

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// IPv4.
    A,
    /// IPv6.
    Aaaa,
}

impl Kind {
    fn number(self) -> u16 {
        match self {
            Self::A => 1,
            Self::Aaaa => 28,
        }
    }
}

/// What a server answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// These; none if the name has no such record.
    Addresses(Vec<IpAddr>),
    /// It does not fit: ask over TCP.
    Truncated,
    /// There is no such name.
    NoSuchName,
    /// The server cannot tell.
    Failed,
}

/// Asks for names.
#[derive(Clone, Debug)]
pub struct Resolver {
    hosts: PathBuf,
    config: PathBuf,
    port: u16,
}

impl Default for Resolver {
    fn default() -> Self {
        Self { hosts: "/etc/hosts".into(), config: "/etc/resolv.conf".into(), port: 53 }
    }
}

impl Resolver {
    /// One with its own files, whose servers listen on this port.
    pub fn with(hosts: &Path, config: &Path, port: u16) -> Self {
        Self { hosts: hosts.to_owned(), config: config.to_owned(), port }
    }

    /// The addresses of a host, IPv4 first.
    ///
    /// # Errors
    /// When there is none, or nobody can tell.
    pub async fn resolve(&self, host: &str) -> Result<Vec<IpAddr>, DnsError> {
        if let Ok(address) = host.parse() {
            return Ok(vec![address]);
        }
        let known = in_hosts(&read_text(&self.hosts, MAX_FILE).unwrap_or_default(), host);
        if !known.is_empty() {
            return Ok(known);
        }
        let config = parse_config(&read_text(&self.config, MAX_FILE).unwrap_or_default());
        if config.servers.is_empty() {
            return Err(DnsError::NoServer);
        }
        let mut outcome = Err(DnsError::NotFound(host.to_owned()));
        for name in candidates(host, &config.search) {
            outcome = self.ask_all(&config.servers, &name).await;
            if outcome.is_ok() {
                break;
            }
        }
        outcome
    }

    async fn ask_all(&self, servers: &[IpAddr], name: &str) -> Result<Vec<IpAddr>, DnsError> {
        let not_found = || DnsError::NotFound(name.to_owned());
        for _ in 0..ROUNDS {
            for server in servers {
                let server = SocketAddr::new(*server, self.port);
                let four = ask(server, name, Kind::A).await;
                if four == Some(Answer::NoSuchName) {
                    return Err(not_found());
                }
                let six = ask(server, name, Kind::Aaaa).await;
                let mut addresses = Vec::new();
                let mut answered = false;
                for answer in [four, six].into_iter().flatten() {
                    if let Answer::Addresses(found) = answer {
                        answered = true;
                        addresses.extend(found);
                    }
                }
                addresses.truncate(MAX_ADDRESSES);
                if !addresses.is_empty() {
                    return Ok(addresses);
                }
                if answered {
                    return Err(not_found());
                }
            }
        }
        Err(DnsError::Silence(name.to_owned()))
    }
}

async fn ask(server: SocketAddr, name: &str, kind: Kind) -> Option<Answer> {
    let id = u16::from_ne_bytes(banger_host::random::bytes().ok()?);
    let query = encode_query(id, name, kind).ok()?;
    match timeout(PATIENCE, over_udp(server, &query, id, kind)).await.ok()?? {
        Answer::Truncated => timeout(PATIENCE, over_tcp(server, &query, id, kind)).await.ok()?,
        answer => Some(answer),
    }
}

async fn over_udp(server: SocketAddr, query: &[u8], id: u16, kind: Kind) -> Option<Answer> {
    let any: IpAddr = match server {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).await.ok()?;
    socket.connect(server).await.ok()?;
    socket.send(query).await.ok()?;
    let mut buffer = vec![0; MAX_UDP];
    loop {
        let len = socket.recv(&mut buffer).await.ok()?;
        // What does not answer this question is somebody's guess.
        if let Some(answer) = decode_answer(&buffer[..len], query, id, kind) {
            return Some(answer);
        }
    }
}

async fn over_tcp(server: SocketAddr, query: &[u8], id: u16, kind: Kind) -> Option<Answer> {
    let mut stream = TcpStream::connect(server).await.ok()?;
    let len = u16::try_from(query.len()).ok()?;
    stream.write_all(&[&len.to_be_bytes()[..], query].concat()).await.ok()?;
    let mut len = [0; 2];
    stream.read_exact(&mut len).await.ok()?;
    let mut answer = vec![0; usize::from(u16::from_be_bytes(len))];
    stream.read_exact(&mut answer).await.ok()?;
    decode_answer(&answer, query, id, kind).filter(|answer| *answer != Answer::Truncated)
}

/// What `/etc/resolv.conf` says, as far as it matters here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// Who is asked, in this order.
    pub servers: Vec<IpAddr>,
    /// What is tried behind names without a dot.
    pub search: Vec<String>,
}

/// Reads `/etc/resolv.conf`: resolv.conf(5).
pub fn parse_config(text: &str) -> Config {
    let mut config = Config::default();
    for line in text.lines() {
        let mut words = line.split_ascii_whitespace();
        match words.next() {
            Some("nameserver") if config.servers.len() < MAX_SERVERS => {
                config.servers.extend(words.next().and_then(|word| word.parse::<IpAddr>().ok()));
            }
            Some("search" | "domain") => {
                config.search = words.take(MAX_SEARCH).map(str::to_owned).collect();
            }
            _ => {}
        }
    }
    config
}

/// The addresses of a host in the text of a hosts(5).
pub fn in_hosts(text: &str, host: &str) -> Vec<IpAddr> {
    let mut found: Vec<IpAddr> = Vec::new();
    for line in text.lines() {
        let line = line.split('#').next().unwrap_or_default();
        let mut words = line.split_ascii_whitespace();
        let address = words.next().and_then(|word| word.parse().ok());
        if let Some(address) = address
            && words.any(|name| name.eq_ignore_ascii_case(host))
            && found.len() < MAX_ADDRESSES
        {
            found.push(address);
        }
    }
    found.sort_by_key(IpAddr::is_ipv6);
    found
}

fn candidates(host: &str, search: &[String]) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    if !host.contains('.') {
        names.extend(search.iter().map(|suffix| format!("{host}.{}", suffix.trim_matches('.'))));
    }
    names.push(host.trim_end_matches('.').to_owned());
    names
}

/// A question: RFC 1035, section 4.
///
/// # Errors
/// When the name is none.
pub fn encode_query(id: u16, name: &str, kind: Kind) -> Result<Vec<u8>, DnsError> {
    let bad = || DnsError::Name(name.chars().take(MAX_NAME).collect());
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_".contains(&b);
    if name.is_empty() || name.len() > MAX_NAME {
        return Err(bad());
    }
    // Recursion desired; one question.
    let mut query = [&id.to_be_bytes()[..], &[1, 0, 0, 1, 0, 0, 0, 0, 0, 0]].concat();
    for label in name.split('.') {
        let len = u8::try_from(label.len()).ok().filter(|len| (1..=63).contains(len));
        query.push(len.filter(|_| label.bytes().all(plain)).ok_or_else(bad)?);
        query.extend_from_slice(label.as_bytes());
    }
    query.push(0);
    query.extend_from_slice(&kind.number().to_be_bytes());
    query.extend_from_slice(&1_u16.to_be_bytes());
    Ok(query)
}

/// Reads the answer to a question; `None` when it is not one to it.
pub fn decode_answer(bytes: &[u8], query: &[u8], id: u16, kind: Kind) -> Option<Answer> {
    let word = |at: usize| Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?));
    let question = query.get(12..)?;
    let flags = word(2)?;
    let is_answer = word(0)? == id && flags & 0x8000 != 0 && word(4)? == 1;
    let asked = bytes.get(12..12 + question.len())?;
    if !is_answer || !asked.eq_ignore_ascii_case(question) {
        return None;
    }
    match flags & 0x000f {
        _ if flags & 0x0200 != 0 => return Some(Answer::Truncated),
        0 => {}
        3 => return Some(Answer::NoSuchName),
        _ => return Some(Answer::Failed),
    }
    let mut wanted = read_name(bytes, 12)?.0;
    let records = read_records(bytes, 12 + question.len(), word(6)?.min(MAX_RECORDS))?;
    let mut found = Vec::new();
    for _ in 0..=MAX_ALIASES {
        for record in records.iter().filter(|r| r.name == wanted && r.kind == kind.number()) {
            found.extend(address(record.data));
        }
        let alias = records.iter().find(|r| r.name == wanted && r.kind == CNAME);
        match alias.filter(|_| found.is_empty()) {
            Some(alias) => wanted = read_name(bytes, alias.at)?.0,
            None => break,
        }
    }
    found.truncate(MAX_ADDRESSES);
    Some(Answer::Addresses(found))
}

/// An alias.
const CNAME: u16 = 5;

struct Record<'a> {
    name: String,
    kind: u16,
    at: usize,
    data: &'a [u8],
}

fn address(data: &[u8]) -> Option<IpAddr> {
    if let Ok(four) = <[u8; 4]>::try_from(data) {
        return Some(four.into());
    }
    <[u8; 16]>::try_from(data).ok().map(IpAddr::from)
}

fn read_records(bytes: &[u8], mut at: usize, count: u16) -> Option<Vec<Record<'_>>> {
    let mut records = Vec::new();
    for _ in 0..count {
        let (name, end) = read_name(bytes, at)?;
        let fixed = bytes.get(end..end + 10)?;
        let kind = u16::from_be_bytes([fixed[0], fixed[1]]);
        let class = u16::from_be_bytes([fixed[2], fixed[3]]);
        let len = usize::from(u16::from_be_bytes([fixed[8], fixed[9]]));
        let data = bytes.get(end + 10..end + 10 + len)?;
        if class == 1 {
            records.push(Record { name, kind, at: end + 10, data });
        }
        at = end + 10 + len;
    }
    Some(records)
}

/// A name in lower case, and where it ends. Pointers lead back only, so there is an end to them.
fn read_name(bytes: &[u8], start: usize) -> Option<(String, usize)> {
    let (mut at, mut end) = (start, None);
    let mut lowest = start;
    let mut name = String::new();
    loop {
        let len = usize::from(*bytes.get(at)?);
        match len {
            0 => return Some((name, end.unwrap_or(at + 1))),
            1..=63 => {
                let label = bytes.get(at + 1..at + 1 + len)?;
                if name.len() + len + 1 > MAX_NAME + 1 {
                    return None;
                }
                if !name.is_empty() {
                    name.push('.');
                }
                name.extend(label.iter().map(|b| char::from(b.to_ascii_lowercase())));
                at += 1 + len;
            }
            192.. => {
                let to = usize::from(*bytes.get(at + 1)?) | (len & 0x3f) << 8;
                if to >= lowest {
                    return None;
                }
                end = end.or(Some(at + 2));
                (at, lowest) = (to, to);
            }
            _ => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(query: &[u8], flags: u16, records: &[(&[u8], u16, &[u8])]) -> Vec<u8> {
        let mut bytes = query.to_vec();
        bytes[2..4].copy_from_slice(&flags.to_be_bytes());
        bytes[6..8].copy_from_slice(&u16::try_from(records.len()).unwrap().to_be_bytes());
        for (name, kind, data) in records {
            bytes.extend_from_slice(name);
            bytes.extend_from_slice(&kind.to_be_bytes());
            bytes.extend_from_slice(&[0, 1, 0, 0, 0, 60]);
            bytes.extend_from_slice(&u16::try_from(data.len()).unwrap().to_be_bytes());
            bytes.extend_from_slice(data);
        }
        bytes
    }

    /// A pointer to the name in the question.
    const ASKED: &[u8] = &[0xc0, 12];

    #[test]
    fn addresses_are_found_through_aliases() {
        let query = encode_query(7, "a.example.com", Kind::A).unwrap();
        let decode = |bytes: &[u8]| decode_answer(bytes, &query, 7, Kind::A);
        let direct = answer(&query, 0x8180, &[(ASKED, 1, &[192, 0, 2, 1])]);
        let expected = Answer::Addresses(vec![[192, 0, 2, 1].into()]);
        assert_eq!(decode(&direct), Some(expected.clone()));
        let target = b"\x01b\xc0\x0e";
        let aliased = [(ASKED, 5, &target[..]), (&b"\x01B\xc0\x0e"[..], 1, &[192, 0, 2, 1])];
        assert_eq!(decode(&answer(&query, 0x8180, &aliased)), Some(expected));
        let other = [(&b"\x01c\xc0\x0e"[..], 1, &[192, 0, 2, 9][..])];
        assert_eq!(decode(&answer(&query, 0x8180, &other)), Some(Answer::Addresses(vec![])));
        assert_eq!(decode(&answer(&query, 0x8183, &[])), Some(Answer::NoSuchName));
        assert_eq!(decode(&answer(&query, 0x8182, &[])), Some(Answer::Failed));
        assert_eq!(decode(&answer(&query, 0x8380, &[])), Some(Answer::Truncated));
    }

    #[test]
    fn what_does_not_answer_the_question_is_nothing() {
        let query = encode_query(7, "a.example.com", Kind::A).unwrap();
        let good = answer(&query, 0x8180, &[(ASKED, 1, &[192, 0, 2, 1])]);
        assert_eq!(decode_answer(&good, &query, 8, Kind::A), None, "another id");
        assert_eq!(decode_answer(&query, &query, 7, Kind::A), None, "a question");
        let other = encode_query(7, "b.example.com", Kind::A).unwrap();
        assert_eq!(decode_answer(&good, &other, 7, Kind::A), None, "another question");
        for len in 0..good.len() {
            assert_eq!(decode_answer(&good[..len], &query, 7, Kind::A), None, "{len} bytes");
        }
        let looping = [(&[0xc0, 31][..], 1, &[192, 0, 2, 1][..])];
        assert_eq!(decode_answer(&answer(&query, 0x8180, &looping), &query, 7, Kind::A), None);
    }

    #[test]
    fn names_are_plain() {
        let long = "a".repeat(64);
        for bad in ["", ".", "a..b", "a b", "é", "a/b", &long, &"a.".repeat(130)] {
            assert!(encode_query(0, bad, Kind::A).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_files_of_the_system_are_read() {
        let text = "127.0.0.1 localhost\n::1 h\n192.0.2.1 H x # h2\nx h\n";
        assert_eq!(
            in_hosts(text, "h"),
            ["192.0.2.1".parse::<IpAddr>().unwrap(), "::1".parse().unwrap()]
        );
        assert!(in_hosts(text, "h2").is_empty());
        let config =
            parse_config("# x\nnameserver 192.0.2.1\nnameserver fe80::1%eth0\nsearch a b\n");
        assert_eq!((config.servers.len(), config.search.len()), (1, 2));
        assert_eq!(candidates("h", &config.search), ["h.a", "h.b", "h"]);
        assert_eq!(candidates("h.example.com.", &config.search), ["h.example.com"]);
    }

    proptest::proptest! {
        #[test]
        fn no_answer_panics(tail in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
            let query = encode_query(7, "a.example.com", Kind::Aaaa).unwrap();
            let mut bytes = answer(&query, 0x8180, &[]);
            bytes[7] = 9;
            bytes.extend(tail);
            let _ = decode_answer(&bytes, &query, 7, Kind::Aaaa);
        }
    }
}
