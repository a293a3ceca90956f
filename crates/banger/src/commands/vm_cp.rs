//! `banger vm cp`: files and directories into a sandbox, or out of one.

mod carry;
mod pack;
mod places;
mod stream;
mod unpack;

use std::ffi::OsString;
use std::io::{self, BufWriter, Write as _};
use std::os::unix::ffi::OsStringExt as _;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use banger_api::client::Client;
use banger_api::types::{PathKind, StartProcess, Text};
use banger_host::terminal::is_terminal;
use banger_model::ExitCode;
use clap_complete::ArgValueCompleter;

use crate::commands::completion;
use crate::context::{self, Context};
use crate::error::{CommandError, Kind};
use crate::output::shown;
use places::{Place, Side, place, top};

/// Copy files into a sandbox or out of one
///
/// One side is a path in a sandbox, NAME:/PATH, the other a path here, or - for a tar stream on
/// standard input or output. A directory that is there is copied into; else the copy gets the
/// name that is given. DIR/. means what is in DIR. Links stay links, and holes in files stay
/// holes. In a sandbox all is root's; here all is yours.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  banger vm cp app.py web:/srv/\n  \
                        banger vm cp web:/var/log/nginx .\n  \
                        banger vm cp ./src/. web:/work\n  \
                        banger vm cp web:/etc - | tar t\n  \
                        banger vm cp a:/data - | banger vm cp - b:/srv")]
pub(crate) struct Args {
    /// What is copied
    #[arg(value_name = "SRC", add = ArgValueCompleter::new(completion::sandboxes_and_paths))]
    source: OsString,
    /// Where to
    #[arg(value_name = "DST", add = ArgValueCompleter::new(completion::sandboxes_and_paths))]
    target: OsString,
}

/// Bytes that are gathered before they are handed on.
const BUFFER: usize = 64 * 1024;
/// How long what is half made may take to be removed when a copy fails.
const FAREWELL: Duration = Duration::from_secs(1);

pub(crate) fn run(args: &Args, verbosity: u8) -> Result<ExitCode, CommandError> {
    let usage = |error| CommandError::new(Kind::Usage, error);
    let source = Side::parse(&args.source).map_err(usage)?;
    let target = Side::parse(&args.target).map_err(usage)?;
    let context = Context::from_process()?;
    let runtime = context::runtime()?;
    let copied = runtime.block_on(async {
        match (source, target) {
            (Side::Sandbox { name, path }, Side::Host(to)) => {
                out(&context.client(verbosity), &name, path, to).await
            }
            (Side::Sandbox { name, path }, Side::Stream) => {
                out_as_stream(&context.client(verbosity), &name, path).await
            }
            (Side::Host(from), Side::Sandbox { name, path }) => {
                into(&context.client(verbosity), &name, from, path).await
            }
            (Side::Stream, Side::Sandbox { name, path }) => {
                into_from_stream(&context.client(verbosity), &name, path).await
            }
            (Side::Sandbox { .. }, Side::Sandbox { .. }) => {
                let error = anyhow!("a copy goes between a sandbox and this host, not between two");
                Err(usage(error).hint("join two: `banger vm cp A:/x - | banger vm cp - B:/y`"))
            }
            (Side::Host(_) | Side::Stream, Side::Host(_) | Side::Stream) => {
                let error = anyhow!("neither side of the copy is in a sandbox");
                Err(usage(error).hint("write NAME:/PATH for a path in a sandbox"))
            }
        }
    });
    runtime.shutdown_timeout(FAREWELL);
    copied.map(|()| ExitCode::SUCCESS)
}

/// Copies out of a sandbox.
pub(crate) async fn out(
    client: &Client,
    sandbox: &str,
    path: Vec<u8>,
    to: Vec<u8>,
) -> Result<(), CommandError> {
    let kind = source_kind(client, sandbox, &path).await?;
    let found = kind_here(&to)?;
    let mut place = place(kind, &to, found)?;
    if found == PathKind::File {
        // A link that was named stays, and what it leads to is replaced.
        place = places::place(kind, &resolved(&to)?, found)?;
    }
    if found == PathKind::Missing && kind_here(&place.dir)? != PathKind::Directory {
        return Err(no_directory(&place.dir, "here"));
    }
    let top = top(&path).to_vec();
    let pack = StartProcess::Pack { path: Text(path) };
    carry::pull(client, sandbox, pack, move |stream| unpack::unpack(stream, &top, place)).await
}

async fn out_as_stream(client: &Client, sandbox: &str, path: Vec<u8>) -> Result<(), CommandError> {
    if is_terminal(io::stdout()) {
        let error = anyhow!("a tar stream is nothing for a terminal");
        return Err(CommandError::new(Kind::Usage, error).hint("redirect it, or name a path here"));
    }
    source_kind(client, sandbox, &path).await?;
    let pack = StartProcess::Pack { path: Text(path) };
    carry::pull(client, sandbox, pack, |mut stream| {
        let mut stdout = io::stdout().lock();
        io::copy(&mut stream, &mut stdout).and_then(|_| stdout.flush())?;
        Ok(())
    })
    .await
}

/// Copies into a sandbox.
pub(crate) async fn into(
    client: &Client,
    sandbox: &str,
    from: Vec<u8>,
    path: Vec<u8>,
) -> Result<(), CommandError> {
    let source = PathBuf::from(places::os(&from));
    let meta = std::fs::symlink_metadata(&source)
        .with_context(|| format!("cannot read {}", shown(&from)))?;
    let kind = match meta.file_type() {
        kind if kind.is_dir() => PathKind::Directory,
        kind if kind.is_file() => PathKind::File,
        _ => PathKind::Other,
    };
    let found = client.look(sandbox, &path).await?;
    let place = place(kind, &path, found)?;
    if found == PathKind::Missing && client.look(sandbox, &place.dir).await? != PathKind::Directory
    {
        return Err(no_directory(&place.dir, sandbox));
    }
    let Place { dir, name } = place;
    let unpack = StartProcess::Unpack { path: Text(dir), name: name.map(Text) };
    carry::push(client, sandbox, unpack, move |stream| {
        let stream = BufWriter::with_capacity(BUFFER, stream);
        pack::pack(stream, &source, top(&from))
    })
    .await
}

async fn into_from_stream(
    client: &Client,
    sandbox: &str,
    path: Vec<u8>,
) -> Result<(), CommandError> {
    if is_terminal(io::stdin()) {
        let error = anyhow!("a tar stream cannot be typed");
        let hint = "redirect it: `tar c . | banger vm cp - NAME:/PATH`";
        return Err(CommandError::new(Kind::Usage, error).hint(hint));
    }
    if client.look(sandbox, &path).await? != PathKind::Directory {
        return Err(no_directory(&path, sandbox));
    }
    let unpack = StartProcess::Unpack { path: Text(path), name: None };
    carry::push(client, sandbox, unpack, |mut stream| {
        io::copy(&mut io::stdin().lock(), &mut stream)?;
        Ok(())
    })
    .await
}

/// What a path in a sandbox is, if it is anything.
async fn source_kind(
    client: &Client,
    sandbox: &str,
    path: &[u8],
) -> Result<PathKind, CommandError> {
    match client.look(sandbox, path).await? {
        PathKind::Missing => {
            let error = anyhow!("there is no {} in {sandbox}", shown(path));
            Err(CommandError::new(Kind::Failed, error))
        }
        kind => Ok(kind),
    }
}

/// What a path here is; a link is what it leads to.
fn kind_here(path: &[u8]) -> Result<PathKind, CommandError> {
    match std::fs::metadata(places::os(path)) {
        Ok(meta) if meta.is_dir() => Ok(PathKind::Directory),
        Ok(meta) if meta.is_file() => Ok(PathKind::File),
        Ok(_) => Ok(PathKind::Other),
        Err(error)
            if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) =>
        {
            Ok(PathKind::Missing)
        }
        Err(error) => {
            let context = format!("cannot look at {}", shown(path));
            Err(anyhow::Error::from(error).context(context).into())
        }
    }
}

/// A path here without links.
fn resolved(path: &[u8]) -> Result<Vec<u8>, CommandError> {
    let real = std::fs::canonicalize(places::os(path))
        .with_context(|| format!("cannot resolve {}", shown(path)))?;
    Ok(real.into_os_string().into_vec())
}

fn no_directory(path: &[u8], place: &str) -> CommandError {
    let place = if place == "here" { String::new() } else { format!(" in {place}") };
    let error = anyhow!("there is no directory {}{place}", shown(path));
    CommandError::new(Kind::Failed, error).hint("make it first")
}
