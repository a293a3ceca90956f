//! Becoming one sandbox: what a restored guest is told before anything runs in it.
//!
//! The files of `/etc` that say who the machine is are written into the sandbox's own layer over
//! the image, as plain files. Mounts over them would leave the layer as it is, but programs that
//! replace such files (`rename` over `/etc/resolv.conf`) would fail. A file is written aside and
//! renamed into place, which replaces a symbolic link instead of following it: images have
//! `/etc/resolv.conf` point to what a resolver would have made. Only where nothing can be written, since
//! somebody has made the root read-only, a file of ours is mounted over the one that is there.

use std::fmt::Write as _;
use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use banger_link::Identity;
use rustix::mount::mount_bind;
use thiserror::Error;

use crate::clock;
use crate::network::{NetworkError, Nic};
use crate::sys::entropy::Pool;

/// Most name servers: a resolver takes no more (resolv.conf(5), `MAXNS`).
const MAX_NAME_SERVERS: usize = 3;

/// Changes whenever the machine becomes another sandbox.
const GENERATION: &str = "/run/banger/generation";

/// Files that lie over others: where every image lets some be made.
const COVERS: &str = "/dev/.banger/etc";

/// Why a guest is not the sandbox that it should be.
#[derive(Debug, Error)]
pub(crate) enum IdentityError {
    #[error("cannot seed the random pool")]
    Entropy(#[source] io::Error),
    #[error("cannot set the clock")]
    Clock(#[source] io::Error),
    #[error("cannot set the hostname to {name:?}")]
    Hostname {
        name: String,
        #[source]
        source: io::Error,
    },
    #[error("cannot write {}", path.display())]
    File {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(transparent)]
    Network(#[from] NetworkError),
}

/// What a machine needs to become a sandbox. It is opened once, by the machine that is saved: to open
/// and to find is what those that are made from it have not executed yet.
#[derive(Debug, Default)]
pub(crate) struct Means {
    random: Pool,
    nic: Nic,
}

impl Means {
    /// Takes on an identity. The random pool comes first: whatever happens afterwards may draw
    /// from it. Returns what of the network and of the files cannot be made so: who is in the
    /// machine can see to that.
    ///
    /// # Errors
    /// [`IdentityError`] for the first other step that fails.
    pub(crate) fn take_on(
        &mut self,
        identity: &Identity,
    ) -> Result<Vec<IdentityError>, IdentityError> {
        self.random.add(identity.entropy).map_err(IdentityError::Entropy)?;
        clock::set(identity.wall_clock_ns).map_err(IdentityError::Clock)?;
        rustix::system::sethostname(identity.hostname.as_bytes()).map_err(|errno| {
            IdentityError::Hostname { name: identity.hostname.clone(), source: errno.into() }
        })?;
        let configured = self.nic.configure(identity.mac, identity.net.as_ref());
        let mut failed = Vec::from_iter(configured.err().map(IdentityError::from));
        for (path, contents, mode) in files(identity) {
            let written = put(Path::new(path), contents.as_bytes(), mode);
            let file = |source| IdentityError::File { path: path.into(), source };
            failed.extend(written.err().map(file));
        }
        Ok(failed)
    }
}

/// Tells processes that live through a copy of their machine that it is another now: whoever
/// keeps what must not be in two places looks whether the number has changed.
///
/// # Errors
/// [`IdentityError::File`].
pub(crate) fn publish(generation: u64) -> Result<(), IdentityError> {
    match put(Path::new(GENERATION), format!("{generation}\n").as_bytes(), 0o444) {
        // The image has a file in the place of `/run`.
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => Ok(()),
        other => other.map_err(|source| IdentityError::File { path: GENERATION.into(), source }),
    }
}

/// The files that say who the machine is: path, contents, mode.
fn files(identity: &Identity) -> Vec<(&'static str, String, u32)> {
    let name = &identity.hostname;
    let mut hosts = String::from("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost\n");
    let own = match &identity.net {
        Some(net) => net.address.to_string(),
        None => "127.0.1.1".to_owned(),
    };
    let mut id = String::new();
    // Writing to a string cannot fail.
    let _infallible = writeln!(hosts, "{own}\t{name}");
    for byte in identity.machine_id {
        let _infallible = write!(id, "{byte:02x}");
    }
    let mut files = vec![
        ("/etc/hostname", format!("{name}\n"), 0o644),
        ("/etc/hosts", hosts, 0o644),
        ("/etc/machine-id", id + "\n", 0o444),
    ];
    if let Some(net) = identity.net.as_ref().filter(|net| !net.dns.is_empty()) {
        let servers = net.dns.iter().take(MAX_NAME_SERVERS);
        let text = servers.map(|server| format!("nameserver {server}\n")).collect();
        files.push(("/etc/resolv.conf", text, 0o644));
    }
    files
}

/// Writes a file that the agent may have written before, as another sandbox: then in place, which
/// takes a tenth of the time of another file. Whatever else has this path is replaced. Where nothing
/// can be written, what is as it should be is good enough, and what is not is covered.
fn put(path: &Path, contents: &[u8], mode: u32) -> io::Result<()> {
    if let Ok(Overwritten::Yes) = overwrite(path, contents, mode) {
        return Ok(());
    }
    match replace(path, contents, mode) {
        Err(_) if is_so(path, contents, mode) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::ReadOnlyFilesystem => {
            cover(path, contents, mode)
        }
        replaced => replaced,
    }
}

fn cover(path: &Path, contents: &[u8], mode: u32) -> io::Result<()> {
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    let ours = Path::new(COVERS).join(name);
    replace(&ours, contents, mode)?;
    Ok(mount_bind(&ours, path)?)
}

fn is_so(path: &Path, contents: &[u8], mode: u32) -> bool {
    let so = |about: fs::Metadata| about.is_file() && about.mode() & 0o7777 == mode;
    let read = || crate::files::read_bounded(path, contents.len() as u64);
    path.symlink_metadata().is_ok_and(so) && read().is_ok_and(|read| read == contents)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Overwritten {
    Yes,
    NotOurs,
}

fn overwrite(path: &Path, contents: &[u8], mode: u32) -> io::Result<Overwritten> {
    // To open a pipe would wait for whoever reads from it.
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
    let file = OpenOptions::new().write(true).custom_flags(flags).open(path)?;
    let about = file.metadata()?;
    // Of the image's own file this has just made a copy, which is as good as a new one.
    let plain = about.is_file() && about.nlink() == 1 && about.mode() & 0o7777 == mode;
    if !plain || about.uid() != 0 {
        return Ok(Overwritten::NotOurs);
    }
    file.write_all_at(contents, 0)?;
    if about.len() > contents.len() as u64 {
        file.set_len(contents.len() as u64)?;
    }
    Ok(Overwritten::Yes)
}

/// Puts a new file in the place of whatever has this path.
pub(crate) fn replace(path: &Path, contents: &[u8], mode: u32) -> io::Result<()> {
    let mut aside = path.as_os_str().to_owned();
    aside.push(".banger-new");
    let aside = PathBuf::from(aside);
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir)?;
    }
    match fs::remove_file(&aside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&aside)?;
    file.write_all(contents)?;
    drop(file);
    fs::rename(&aside, path)
}

#[cfg(test)]
mod tests {
    use banger_model::{GuestNet, MacAddress};

    use super::*;

    fn identity(net: Option<GuestNet>) -> Identity {
        Identity {
            hostname: "box".to_owned(),
            machine_id: [0xab; 16],
            entropy: [0; 32],
            wall_clock_ns: 0,
            mac: MacAddress([2, 0, 0, 0, 0, 1]),
            net,
        }
    }

    fn text(files: &[(&'static str, String, u32)], path: &str) -> Option<String> {
        files.iter().find(|(known, _, _)| *known == path).map(|(_, text, _)| text.clone())
    }

    #[test]
    fn the_files_say_what_the_identity_says() {
        let dns = (1..=5).map(|n| [10, 0, 0, n].into()).collect();
        let net = GuestNet {
            address: [10, 0, 2, 15].into(),
            prefix_len: 24,
            gateway: [10, 0, 2, 1].into(),
            dns,
        };
        let files = files(&identity(Some(net)));
        assert_eq!(text(&files, "/etc/hostname").unwrap(), "box\n");
        assert_eq!(text(&files, "/etc/machine-id").unwrap(), "ab".repeat(16) + "\n");
        assert!(text(&files, "/etc/hosts").unwrap().ends_with("10.0.2.15\tbox\n"));
        let resolv = text(&files, "/etc/resolv.conf").unwrap();
        assert_eq!(resolv.lines().count(), MAX_NAME_SERVERS);
        assert!(resolv.starts_with("nameserver 10.0.0.1\n"));
    }

    #[test]
    fn without_a_network_the_image_keeps_its_resolver() {
        let files = files(&identity(None));
        assert_eq!(text(&files, "/etc/resolv.conf"), None);
        assert!(text(&files, "/etc/hosts").unwrap().contains("127.0.1.1\tbox"));
    }

    #[test]
    fn what_was_written_before_is_written_again_in_place() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("hostname");
        put(&path, b"a long name\n", 0o644).unwrap();
        let inode = path.metadata().unwrap().ino();
        put(&path, b"short\n", 0o644).unwrap();
        assert_eq!(path.metadata().unwrap().ino(), inode);
        assert_eq!(crate::files::read_line(&path).unwrap(), "short");
        // Another name of it belongs to somebody else.
        fs::hard_link(&path, dir.path().join("other")).unwrap();
        put(&path, b"third\n", 0o644).unwrap();
        assert_eq!(crate::files::read_line(&path).unwrap(), "third");
        assert_eq!(crate::files::read_line(&dir.path().join("other")).unwrap(), "short");
    }

    #[test]
    fn what_cannot_be_written_is_to_be_so_already() {
        // Not even root makes files there.
        let path = Path::new("/proc/sys/kernel/ostype");
        put(path, b"Linux\n", 0o444).unwrap();
        assert!(put(path, b"Linux\n", 0o644).is_err());
        assert!(put(path, b"Linux", 0o444).is_err());
        assert!(put(path, b"Linux\n\n", 0o444).is_err());
    }

    #[test]
    fn nobody_waits_for_the_other_end_of_a_pipe() {
        let dir = tempfile::tempdir().unwrap();
        let mode = rustix::fs::Mode::from_raw_mode(0o644);
        for name in ["unread", "read"] {
            let path = dir.path().join(name);
            let kind = rustix::fs::FileType::Fifo;
            rustix::fs::mknodat(rustix::fs::CWD, &path, kind, mode, 0).unwrap();
            // Open for both, it has a reader.
            let reader = OpenOptions::new().read(true).write(true).open(&path).unwrap();
            let _reader = (name == "read").then_some(reader);
            put(&path, b"x\n", 0o644).unwrap();
            assert!(path.symlink_metadata().unwrap().is_file());
            assert_eq!(crate::files::read_line(&path).unwrap(), "x");
        }
    }

    #[test]
    fn a_link_is_replaced_and_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let (link, target) = (dir.path().join("etc/resolv.conf"), dir.path().join("target"));
        fs::create_dir(dir.path().join("etc")).unwrap();
        fs::File::create(&target).unwrap();
        std::os::unix::fs::symlink(&target, &link).unwrap();
        replace(&link, b"x", 0o644).unwrap();
        assert!(link.symlink_metadata().unwrap().is_file());
        assert_eq!(target.metadata().unwrap().len(), 0);
        replace(&dir.path().join("new/file"), b"y", 0o444).unwrap();
        replace(&dir.path().join("new/file"), b"yy", 0o444).unwrap();
        assert_eq!(dir.path().join("new/file").metadata().unwrap().len(), 2);
    }
}
