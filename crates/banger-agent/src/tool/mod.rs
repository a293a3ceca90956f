//! The agent's own tools: what it does as a process of its own, started by itself.
//!
//! A tool may wait for files and pipes, which the first process must not. It is this same program
//! with arguments that nobody else gives it, and sees the sandbox's root as any process does: no
//! program of the image is needed, and none is trusted.

mod destination;
mod header;
mod inside;
mod pack;
mod pax;
mod reader;
mod unpack;
mod volume;

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Write as _};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::ffi::OsStringExt as _;
use std::process::ExitCode;

use banger_link::Tool;
use pack::Scope;
pub(crate) use volume::VolumeError;

/// What a tool's first argument is.
const MARK: &[u8] = b"tool";

/// Bytes that go through a pipe at once: what it holds.
const BUFFER: usize = 64 * 1024;

/// Most lines that a tool says: a tree of a million unreadable files needs no more.
const MAX_LINES: u64 = 100;

/// Everything is done.
const DONE: u8 = 0;
/// Something was left out.
const PARTLY: u8 = 1;
/// It could not go on.
const FAILED: u8 = 2;

/// The arguments with which this program is that tool, its own name among them.
pub(crate) fn arguments(tool: &Tool) -> Vec<Vec<u8>> {
    let mut arguments = vec![b"banger-agent".to_vec(), MARK.to_vec()];
    match tool {
        Tool::Pack { path } => arguments.extend([b"pack".to_vec(), path.clone()]),
        Tool::Unpack { path, name } => {
            arguments.extend([b"unpack".to_vec(), path.clone()]);
            arguments.extend(name.clone());
        }
        Tool::MountVolume { slot, path } => {
            arguments.extend([b"volume".to_vec(), slot.to_string().into_bytes(), path.clone()]);
        }
        Tool::PackRoot => arguments.push(b"pack-root".to_vec()),
    }
    arguments
}

/// The tool that these arguments ask for, if they do.
fn asked_for(arguments: &[Vec<u8>]) -> Option<Tool> {
    let [_, mark, rest @ ..] = arguments else { return None };
    let parts: Vec<&[u8]> = rest.iter().map(|part| &part[..]).collect();
    match parts[..] {
        _ if mark != MARK => None,
        [b"pack-root"] => Some(Tool::PackRoot),
        [b"pack", path] => Some(Tool::Pack { path: path.to_vec() }),
        [b"unpack", path] => Some(Tool::Unpack { path: path.to_vec(), name: None }),
        [b"unpack", path, name] => {
            Some(Tool::Unpack { path: path.to_vec(), name: Some(name.to_vec()) })
        }
        [b"volume", slot, path] => {
            let slot = std::str::from_utf8(slot).ok()?.parse().ok()?;
            Some(Tool::MountVolume { slot, path: path.to_vec() })
        }
        _ => None,
    }
}

/// Runs the tool that these arguments of the program ask for; none when they ask for none.
pub fn run_tool(arguments: impl IntoIterator<Item = OsString>) -> Option<ExitCode> {
    let arguments: Vec<Vec<u8>> = arguments.into_iter().map(OsString::into_vec).collect();
    let tool = asked_for(&arguments)?;
    let mut log = Log::default();
    let status = match run(tool, &mut log) {
        Ok(()) if log.faults == 0 => DONE,
        Ok(()) => PARTLY,
        Err(message) => {
            log.say(&message);
            FAILED
        }
    };
    Some(ExitCode::from(status))
}

fn run(tool: Tool, log: &mut Log) -> Result<(), String> {
    let file = |stream: BorrowedFd<'_>| stream.try_clone_to_owned().map(File::from);
    let stream = |error: io::Error| format!("cannot use the standard streams: {error}");
    match tool {
        Tool::Pack { path } => pack_to_stdout(&path, Scope::Everything, log),
        Tool::PackRoot => pack_to_stdout(b"/", Scope::OneFileSystem, log),
        Tool::Unpack { path, name } => {
            let input = file(io::stdin().as_fd()).map_err(stream)?;
            let input = BufReader::with_capacity(BUFFER, input);
            unpack::unpack(input, &path, name).map_err(|error| error.to_string())
        }
        Tool::MountVolume { slot, path } => {
            volume::mount_volume(slot, &path, log).map_err(|error| error.to_string())
        }
    }
}

/// Mounts a volume in this very process, before anything else runs.
///
/// # Errors
/// [`VolumeError`].
pub(crate) fn mount_volume(slot: u8, path: &[u8]) -> Result<(), VolumeError> {
    volume::mount_volume(slot, path, &mut Log::default())
}

fn pack_to_stdout(path: &[u8], scope: Scope, log: &mut Log) -> Result<(), String> {
    let output = io::stdout().as_fd().try_clone_to_owned();
    let output = output.map_err(|error| format!("cannot use the standard streams: {error}"))?;
    let output = BufWriter::with_capacity(BUFFER, File::from(output));
    pack::pack(output, path, scope, log)
        .map_err(|error| format!("cannot write the archive: {error}"))
}

/// What a tool has to say, a line at a time on standard error.
#[derive(Debug, Default)]
struct Log {
    faults: u64,
    lines: u64,
}

impl Log {
    /// Something is left out that could not be had.
    fn fault(&mut self, name: &[u8], what: &str) {
        self.faults += 1;
        self.note(name, what);
    }

    /// Something is left out that is not wanted.
    fn note(&mut self, name: &[u8], what: &str) {
        self.lines += 1;
        match self.lines {
            ..MAX_LINES => self.say(&format!("{}: {what}", shown(name))),
            MAX_LINES => self.say("there is more to say, which is left out here"),
            _ => {}
        }
    }

    fn say(&self, line: &str) {
        // If nobody listens, nobody can be told.
        let _ = writeln!(io::stderr(), "{line}");
    }
}

/// A name as it can be shown on a terminal, in one line.
fn shown(name: &[u8]) -> String {
    let text = String::from_utf8_lossy(name);
    text.chars()
        .flat_map(|c| if c.is_control() { c.escape_default().collect() } else { vec![c] })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tool_is_what_its_arguments_say() {
        let unpack = |name| Tool::Unpack { path: b"/\xff".to_vec(), name };
        let tools = [
            Tool::Pack { path: b"tool".to_vec() },
            unpack(None),
            unpack(Some(b"n".to_vec())),
            Tool::MountVolume { slot: 3, path: b"/v".to_vec() },
            Tool::PackRoot,
        ];
        for tool in tools {
            assert_eq!(asked_for(&arguments(&tool)), Some(tool));
        }
        let others: [&[&[u8]]; 6] = [
            &[],
            &[b"init"],
            &[b"a", b"tool"],
            &[b"a", b"pack", b"/"],
            &[b"a", b"tool", b"x"],
            &[b"a", b"tool", b"volume", b"256", b"/"],
        ];
        for other in others {
            let other: Vec<_> = other.iter().map(|part| part.to_vec()).collect();
            assert_eq!(asked_for(&other), None);
        }
    }

    #[test]
    fn a_name_is_shown_in_one_line() {
        assert_eq!(shown(b"a\n\x1b[1m\xffz"), "a\\n\\u{1b}[1m\u{fffd}z");
    }
}
