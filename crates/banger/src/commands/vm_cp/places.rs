//! What the arguments of a copy mean, and under which name it is to be made where. Pure.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};

use anyhow::{Result, anyhow, bail};
use banger_api::types::PathKind;

use crate::output::shown;

/// One side of a copy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Side {
    /// A path in a sandbox, absolute.
    Sandbox { name: String, path: Vec<u8> },
    /// A path here.
    Host(Vec<u8>),
    /// Standard input or output.
    Stream,
}

impl Side {
    /// What an argument means: `NAME:/path`, `-`, or else a path here. A path here that has a
    /// colon is written with `./` before it.
    ///
    /// # Errors
    /// When it is empty, or names a sandbox and no path.
    pub(super) fn parse(text: &OsStr) -> Result<Self> {
        let bytes = text.as_bytes();
        let host = || Ok(Self::Host(bytes.to_vec()));
        match bytes {
            b"" => bail!("a path is empty"),
            b"-" => return Ok(Self::Stream),
            [b'/' | b'.', ..] => return host(),
            _ => {}
        }
        let Some(colon) = bytes.iter().position(|byte| *byte == b':') else { return host() };
        let (name, path) = (&bytes[..colon], &bytes[colon + 1..]);
        let name = match std::str::from_utf8(name) {
            Ok(name) if !name.is_empty() && !name.contains('/') => name.to_owned(),
            _ => return host(),
        };
        match path {
            b"" => Err(anyhow!("{name}: names no path in the sandbox: write {name}:/PATH")),
            [b'/', ..] => Ok(Self::Sandbox { name, path: path.to_vec() }),
            _ => Ok(Self::Sandbox { name, path: [&b"/"[..], path].concat() }),
        }
    }
}

/// Where a copy is to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// A directory that is there.
    pub(super) dir: Vec<u8>,
    /// What it is called there; its own name where there is none.
    pub(super) name: Option<Vec<u8>>,
}

/// What a copy begins with in its stream: the last component of its path; `.` for what has none,
/// such as the contents of a directory.
pub(super) fn top(path: &[u8]) -> &[u8] {
    match split(path).1 {
        b"" | b".." => b".",
        name => name,
    }
}

/// The directory and the last component of a path.
fn split(path: &[u8]) -> (&[u8], &[u8]) {
    let end = path.iter().rposition(|byte| *byte != b'/').map_or(0, |at| at + 1);
    let begin = path[..end].iter().rposition(|byte| *byte == b'/').map_or(0, |at| at + 1);
    match &path[..begin] {
        b"" if path.first() == Some(&b'/') => (b"/", &path[begin..end]),
        b"" => (b".", &path[begin..end]),
        dir => (dir, &path[begin..end]),
    }
}

/// Where a source is copied to, as `docker cp` has it: into a directory that is there under its
/// own name, else under the name that is given. The caller has seen that the source is there.
///
/// # Errors
/// When a directory would take the place of a file, or a file that of a directory.
pub(super) fn place(source: PathKind, target: &[u8], found: PathKind) -> Result<Place> {
    let (dir, name) = split(target);
    let named = || Place { dir: dir.to_vec(), name: Some(name.to_vec()) };
    let wants_dir = target.ends_with(b"/") || matches!(name, b"" | b"." | b"..");
    match (source, found) {
        (_, PathKind::Directory) => Ok(Place { dir: target.to_vec(), name: None }),
        // To put a file in its place would be the end of /dev/null.
        (_, PathKind::Other) => bail!(
            "{} is a device, a pipe or a socket, which no copy takes the place of",
            shown(target)
        ),
        (PathKind::Directory, PathKind::File) => {
            bail!("{} is a file, and cannot become a directory", shown(target))
        }
        (_, PathKind::File) if wants_dir => {
            bail!("{} is no directory", shown(target))
        }
        (PathKind::Directory, PathKind::Missing) if !matches!(name, b"" | b"." | b"..") => {
            Ok(named())
        }
        (_, PathKind::Missing) if wants_dir => {
            bail!("there is no directory {}", shown(target))
        }
        _ => Ok(named()),
    }
}

/// A path for the system.
pub(super) fn os(path: &[u8]) -> OsString {
    OsString::from_vec(path.to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;
    use PathKind::{Directory, File, Missing, Other};

    #[test]
    fn an_argument_is_a_sandbox_and_a_path_or_a_path_here_or_a_stream() {
        let side = |text: &str| Side::parse(OsStr::new(text)).unwrap();
        let guest = |name: &str, path: &str| Side::Sandbox { name: name.into(), path: path.into() };
        let host = |path: &str| Side::Host(path.into());
        assert_eq!(side("web:/etc/hosts"), guest("web", "/etc/hosts"));
        assert_eq!(side("web:tmp/a:b"), guest("web", "/tmp/a:b"));
        assert_eq!(side("web:/"), guest("web", "/"));
        assert_eq!(side("-"), Side::Stream);
        for path in ["a", "./web:/x", "/web:/x", "../a:b", "dir/a:b", ":x", "."] {
            assert_eq!(side(path), host(path), "{path}");
        }
        for bad in ["", "web:"] {
            assert!(Side::parse(OsStr::new(bad)).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_copy_is_made_where_docker_would_make_it() {
        type Expected<'a> = Option<(&'a str, Option<&'a str>)>;
        let cases: [(PathKind, &str, PathKind, Expected<'_>); 21] = [
            // A file.
            (File, "/d", Directory, Some(("/d", None))),
            (File, "/d/", Directory, Some(("/d/", None))),
            (File, "/d/f", Missing, Some(("/d/", Some("f")))),
            (File, "/f", Missing, Some(("/", Some("f")))),
            (File, "f", Missing, Some((".", Some("f")))),
            (File, "d/f", File, Some(("d/", Some("f")))),
            (File, "/d/f/", Missing, None),
            (File, "/d/f/", File, None),
            (File, "/d/.", Missing, None),
            (File, "/d/..", Missing, None),
            // A directory, or what is in it.
            (Directory, "/d", Directory, Some(("/d", None))),
            (Directory, ".", Directory, Some((".", None))),
            (Directory, "/d/new", Missing, Some(("/d/", Some("new")))),
            (Directory, "/d/new/", Missing, Some(("/d/", Some("new")))),
            (Directory, "/d/new//", Missing, Some(("/d/", Some("new")))),
            (Directory, "/d/.", Missing, None),
            (Directory, "/d/f", File, None),
            (Directory, "/dev/null", Other, None),
            (File, "/dev/null", Other, None),
            // A link.
            (Other, "/d/l", Missing, Some(("/d/", Some("l")))),
            (Other, "/d", Directory, Some(("/d", None))),
        ];
        for (source, target, found, expected) in cases {
            let expected = expected.map(|(dir, name)| Place {
                dir: dir.into(),
                name: name.map(|name| name.as_bytes().to_vec()),
            });
            let place = place(source, target.as_bytes(), found).ok();
            assert_eq!(place, expected, "{source:?} to {target} ({found:?})");
        }
    }

    #[test]
    fn a_stream_begins_with_the_last_component() {
        for (path, name) in [
            ("/a/b", "b"),
            ("/a/b/", "b"),
            ("a", "a"),
            ("/a/.", "."),
            (".", "."),
            ("..", "."),
            ("a/..", "."),
            ("/", "."),
        ] {
            assert_eq!(top(path.as_bytes()), name.as_bytes(), "{path}");
        }
    }
}
