//! Asking the host. A question that cannot be asked has no answer, and that is an answer.

use std::ffi::OsStr;
use std::fs::File;
use std::path::Path;
use std::time::Duration;

use banger_host::command::{Tool, find_program};
use banger_host::facts::Processors;
use banger_host::fs::{
    Cloned, clone_file, create_private_dir, ensure_private_dir, free_space, read_text, remove_all,
};
use banger_host::home::Home;
use banger_host::{facts, random};
use banger_image::{Image, Kernel, OpenError, TOOLS_PATH, require_tools};
use banger_model::Bytes;
use banger_vmm::Vmm as _;
use banger_vmm::probe::{KvmVerdict, ProbeGuest, kvm_verdict};
use banger_vmm::qemu::Qemu;
use tokio::task::spawn_blocking;

use crate::assets::Sources;

/// How long a program may take to tell its version or to try a namespace.
const ASK: Duration = Duration::from_secs(20);
/// Longest file under /proc or /etc that is read here.
const MAX_LEN: u64 = 1024 * 1024;

/// The program of a sandbox's network, and the Debian package of the same name.
const PASST: &str = "passt";

/// An answer, or why there is none.
pub type Found<T> = Result<T, String>;

/// Whether files of the state directory can share blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reflinks {
    /// They can.
    Supported,
    /// A copy costs its data.
    Unsupported,
}

/// Everything the doctor looks at.
#[derive(Clone, Debug)]
pub struct Observed {
    /// The processors.
    pub processor: Found<Processors>,
    /// Memory in all and available.
    pub memory: Found<(Bytes, Bytes)>,
    /// The running kernel's release.
    pub kernel_release: String,
    /// Whether KVM runs guests; none when there is no kernel to try it with yet.
    pub kvm: Option<Found<KvmVerdict>>,
    /// QEMU's name and version.
    pub qemu: Found<String>,
    /// Packages that are missing.
    pub missing_packages: Vec<&'static str>,
    /// Whether this user is root.
    pub root: Root,
    /// Whether this user may make user namespaces.
    pub user_namespaces: Found<()>,
    /// Whether this user has subordinate ids for them.
    pub subordinate_ids: Found<()>,
    /// Whether the directories of banger can be written to.
    pub writable: Found<()>,
    /// Space left for banger's files.
    pub free_space: Found<Bytes>,
    /// Whether copies of files can share their blocks.
    pub reflinks: Found<Reflinks>,
    /// Whether the host has a way out.
    pub default_route: bool,
    /// Whether the guest agent is where it should be.
    pub agent: Found<()>,
    /// Images and kernels that are here.
    pub made: Found<Made>,
}

/// What lies in the home to boot from.
#[derive(Clone, Debug, Default)]
pub struct Made {
    /// Names of the images that are whole.
    pub images: Vec<String>,
    /// Names of the kernels that are whole.
    pub kernels: Vec<String>,
    /// Those of both that cannot be used.
    pub unusable: Vec<Unusable>,
}

/// An image or a kernel that cannot be used.
#[derive(Clone, Debug)]
pub struct Unusable {
    /// Which one, and why.
    pub why: String,
    /// The command that removes it, where that is the remedy.
    pub removal: Option<String>,
}

/// Whether this process may do everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Root {
    /// It may.
    Yes,
    /// It may not.
    No,
}

/// Looks at this host. KVM is tried for up to ten seconds if that is not known yet.
pub async fn observe(sources: &Sources) -> Observed {
    let asked = {
        let sources = sources.clone();
        spawn_blocking(move || ask(&sources)).await
    };
    let mut observed = match asked {
        Ok(observed) => observed,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    };
    observed.kvm = kvm(sources).await;
    observed
}

fn ask(sources: &Sources) -> Observed {
    let found = |error: banger_host::HostError| format!("{:#}", anyhow::Error::from(error));
    let state = sources.home.sandboxes();
    let writable = writable(&sources.home);
    Observed {
        processor: facts::processors().map_err(found),
        memory: facts::memory()
            .map(|(total, available)| (Bytes::new(total), Bytes::new(available)))
            .map_err(found),
        kernel_release: facts::kernel_release(),
        kvm: None,
        qemu: Qemu::discover(&sources.path)
            .map(|qemu| qemu.name().to_owned())
            .map_err(|error| error.to_string()),
        missing_packages: missing_packages(&sources.path),
        root: if rustix::process::geteuid().is_root() { Root::Yes } else { Root::No },
        user_namespaces: user_namespaces(),
        subordinate_ids: subordinate_ids(),
        free_space: free_space(existing(&state)).map_err(found),
        reflinks: writable.clone().and_then(|()| reflinks(&state)),
        writable,
        default_route: banger_net::user::ways_out().is_ok_and(|ways| !ways.is_empty()),
        agent: match File::open(&sources.agent) {
            Ok(_) => Ok(()),
            Err(error) => Err(format!("{}: {error}", sources.agent.display())),
        },
        made: made(&sources.home),
    }
}

async fn kvm(sources: &Sources) -> Option<Found<KvmVerdict>> {
    let name = "debian-cloud".parse().ok()?;
    let kernel = Kernel::open(&sources.home, &name).ok()?;
    let initramfs = kernel.initramfs(&sources.home, &sources.agent).ok()?;
    let qemu = Qemu::discover(&sources.path).ok()?;
    let identity = kernel.identity().to_owned();
    let guest = ProbeGuest { kernel: kernel.vmlinux(), initramfs, identity };
    let found = kvm_verdict(&sources.home, &qemu, &guest).await;
    Some(found.map(|found| found.verdict().clone()).map_err(|error| error.to_string()))
}

/// Each program is looked for where it is run from: what makes images in the directories of the
/// system, passt on the user's own path.
fn missing_packages(path: &OsStr) -> Vec<&'static str> {
    let mut missing = require_tools().err().map(|error| error.packages).unwrap_or_default();
    if find_program(PASST, path).is_none() {
        missing.push(PASST);
    }
    missing
}

fn user_namespaces() -> Found<()> {
    let unshare = find_program("unshare", OsStr::new(TOOLS_PATH)).ok_or("unshare is missing")?;
    let tool = Tool::new(unshare).env("PATH", TOOLS_PATH);
    let tried = tool.args(["--user", "--map-root-user", "true"]).capture(ASK);
    tried.map(drop).map_err(|error| error.to_string())
}

/// `/etc/subuid` and `/etc/subgid` name users by name or number (subuid(5)).
fn subordinate_ids() -> Found<()> {
    let uid = rustix::process::geteuid().as_raw();
    let passwd = read_text(Path::new("/etc/passwd"), MAX_LEN).map_err(|e| e.to_string())?;
    let name = passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid)).then(|| name.to_owned())
    });
    let owners = [name, Some(uid.to_string())];
    for file in ["/etc/subuid", "/etc/subgid"] {
        let text = read_text(Path::new(file), MAX_LEN).map_err(|e| e.to_string())?;
        let has = |line: &str| owners.iter().flatten().any(|o| line.split(':').next() == Some(o));
        if !text.lines().any(has) {
            return Err(format!("{file} has no line for this user"));
        }
    }
    Ok(())
}

fn writable(home: &Home) -> Found<()> {
    let said = |error: banger_host::HostError| format!("{:#}", anyhow::Error::from(error));
    for root in home.roots() {
        create_private_dir(root).map_err(said)?;
        let access = rustix::fs::access(root, rustix::fs::Access::WRITE_OK);
        access.map_err(|error| format!("{}: {error}", root.display()))?;
        let stat = rustix::fs::statvfs(root).map_err(|error| error.to_string())?;
        if stat.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY) {
            return Err(format!("{} is on a read-only file system", root.display()));
        }
    }
    // No sandbox starts in a directory that others may write to.
    ensure_private_dir(&home.sandboxes()).map_err(said)
}

/// Tries it with a small file, for no list of file systems is complete.
fn reflinks(state: &Path) -> Found<Reflinks> {
    let said = |error: banger_host::HostError| format!("{:#}", anyhow::Error::from(error));
    let tag = u32::from_ne_bytes(random::bytes().map_err(said)?);
    let dir = state.join(format!(".doctor-{tag:08x}"));
    create_private_dir(&dir).map_err(said)?;
    let (from, to) = (dir.join("from"), dir.join("to"));
    let tried =
        banger_host::fs::write_atomic(&from, &[1; 4096]).and_then(|()| clone_file(&from, &to));
    let removed = remove_all(&dir);
    let reflinks = match tried.map_err(said)? {
        Cloned::Reflink => Reflinks::Supported,
        Cloned::Copied => Reflinks::Unsupported,
    };
    removed.map_err(said)?;
    Ok(reflinks)
}

/// The path itself or the nearest directory above that is there.
fn existing(path: &Path) -> &Path {
    path.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"))
}

/// Opens each one as a start does, which finds what is damaged.
fn made(home: &Home) -> Found<Made> {
    let images = Image::list(home).map_err(|error| error.to_string())?;
    let kernels = Kernel::list(home).map_err(|error| error.to_string())?;
    let mut made = Made::default();
    for name in images {
        match Image::open(home, &name) {
            Ok(_) => made.images.push(name.to_string()),
            Err(error) => made.unusable.extend(unusable(error)),
        }
    }
    for name in kernels {
        match Kernel::open(home, &name) {
            Ok(_) => made.kernels.push(name.to_string()),
            Err(error) => made.unusable.extend(unusable(error)),
        }
    }
    Ok(made)
}

/// One that has been removed since it was listed is no matter.
fn unusable(error: OpenError) -> Option<Unusable> {
    if error.is_missing() {
        return None;
    }
    let removal = error.remedy();
    let why = match error {
        OpenError::Damaged { kind, name, problem, .. } => {
            format!("the {kind} {name} is damaged: {problem}")
        }
        other => format!("{:#}", anyhow::Error::from(other)),
    };
    Some(Unusable { why, removal })
}

#[cfg(test)]
mod tests {
    use super::*;
    use banger_host::fs::write_atomic;
    use rustix::fs::Mode;

    #[test]
    fn a_damaged_kernel_and_image_are_seen_with_their_remedies() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::under(dir.path());
        assert!(made(&home).unwrap().unusable.is_empty());
        let kernel = home.kernel(&"debian-cloud".parse().unwrap());
        create_private_dir(&kernel).unwrap();
        let image = home.image(&"debian-bookworm".parse().unwrap());
        create_private_dir(&home.images()).unwrap();
        write_atomic(&image, b"a file").unwrap();
        let seen = made(&home).unwrap();
        assert!(seen.images.is_empty() && seen.kernels.is_empty(), "{seen:?}");
        let expected = [
            ("the image debian-bookworm is damaged: ", "banger image delete debian-bookworm"),
            (
                "the kernel debian-cloud is damaged: meta.json is missing",
                "banger kernel rm debian-cloud",
            ),
        ];
        for (unusable, (why, removal)) in seen.unusable.iter().zip(&expected) {
            assert!(unusable.why.starts_with(why), "{unusable:?}");
            assert_eq!(unusable.removal, Some((*removal).to_owned()));
        }
        assert_eq!(seen.unusable.len(), expected.len());
    }

    #[test]
    fn sandboxes_in_a_directory_open_to_others_are_told_of() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::under(dir.path());
        writable(&home).unwrap();
        rustix::fs::chmod(home.sandboxes(), Mode::from_raw_mode(0o777)).unwrap();
        let why = writable(&home).unwrap_err();
        assert!(why.starts_with("others may write to /") && why.contains("chmod go-w /"), "{why}");
    }

    #[test]
    fn only_what_runs_from_the_users_path_is_missed_there() {
        let elsewhere = missing_packages(OsStr::new("/nonexistent"));
        let mut expected = require_tools().err().map(|e| e.packages).unwrap_or_default();
        expected.push(PASST);
        assert_eq!(elsewhere, expected);
    }
}
