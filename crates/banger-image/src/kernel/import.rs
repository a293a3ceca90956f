//! A kernel of the user's own, from files on this host.

use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use banger_host::command::Tool;
use banger_host::staged::Staged;
use banger_host::{HostError, fs};
use banger_model::Progress;
use bstr::ByteSlice as _;

use super::bzimage::extract_vmlinux;
use super::contents::{ModulesOf, keep, keep_none};
use super::make::{MakeKernelError, Result};
use super::{CONFIG, KernelInfo, VMLINUX};
use crate::archive::Archive;
use crate::artifact::{Address, Artifact};
use crate::digest::sha256;
use crate::hosttools::TAR;
use crate::until::Until;

/// Largest kernel that is taken, unpacked; Debian's have 60 MB.
const MAX_KERNEL_LEN: u64 = 512 << 20;
/// How an executable begins (ELF specification, `e_ident`).
const ELF: &[u8] = b"\x7fELF";
/// What stands before the release in every kernel (Linux, `init/version.c`).
const BANNER: &[u8] = b"Linux version ";
/// Longest release that makes sense, in bytes: what `uname` has room for.
const MAX_RELEASE_LEN: usize = 64;
/// How long packing the modules may go on without anything that comes of it.
const PACK_SILENCE: Duration = Duration::from_secs(5 * 60);
/// Most bytes of modules.
const MAX_MODULES: u64 = 4 << 30;

/// What a kernel is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelFiles {
    /// The kernel: an ELF executable, or a bzImage with one in it.
    pub vmlinux: PathBuf,
    /// Its modules: a directory with `lib/modules/RELEASE` in it, or that itself. Without it the
    /// kernel has everything built in.
    pub modules: Option<PathBuf>,
    /// Where they come from, for people to read.
    pub source: String,
}

/// Makes the kernel in the staging directory and puts it in place.
pub(super) fn import(
    address: Address,
    staged: Staged,
    files: &KernelFiles,
    (progress, until): (&dyn Progress, Until<'_>),
) -> Result<Artifact<KernelInfo>> {
    let path = &files.vmlinux;
    let read = |source| MakeKernelError::Read { path: path.clone(), source };
    let bytes = fs::read_bounded(path, MAX_KERNEL_LEN).map_err(read)?;
    let vmlinux = match bytes.starts_with(ELF) {
        true => bytes,
        false => extract_vmlinux(&bytes)
            .map_err(|source| MakeKernelError::NoKernel { path: path.clone(), source })?,
    };
    let release = release_of(&vmlinux)
        .ok_or_else(|| MakeKernelError::NoRelease { path: path.clone() })?
        .to_owned();
    keep(staged.path(), VMLINUX, &vmlinux)?;
    keep(staged.path(), CONFIG, b"")?;
    let boot_modules = match &files.modules {
        None => keep_none(staged.path(), progress).map(|()| Vec::new())?,
        Some(dir) => {
            progress.stage("indexing the kernel's modules");
            let dir = modules_dir(dir, &release)?;
            let archive = pack((&dir, tar_of(&dir)?), staged.path(), (PACK_SILENCE, until))?;
            let source = dir.display().to_string();
            ModulesOf { release: &release, source, archive, dir: staged.path() }.keep(progress)?
        }
    };
    let info = KernelInfo {
        release,
        package: files.source.clone(),
        version: String::new(),
        package_sha256: sha256(&vmlinux),
        boot_modules,
    };
    match until.is_over() {
        true => Err(MakeKernelError::CalledOff),
        false => Artifact::seal(address, staged, info).map_err(MakeKernelError::Keep),
    }
}

/// The release that a kernel says it is.
fn release_of(vmlinux: &[u8]) -> Option<&str> {
    // The first is a format string in some kernels: one that is a release begins with a digit.
    vmlinux.find_iter(BANNER).find_map(|at| {
        let rest = &vmlinux[at + BANNER.len()..];
        let rest = &rest[..rest.len().min(MAX_RELEASE_LEN + 1)];
        let release = rest[..rest.find_byte(b' ')?].to_str().ok()?;
        let plain = |c: char| c.is_ascii_alphanumeric() || "-._+~".contains(c);
        let begins = release.starts_with(|c: char| c.is_ascii_digit());
        (begins && release.chars().all(plain)).then_some(release)
    })
}

/// Where the modules of this release are below a directory, or the directory itself.
fn modules_dir(dir: &Path, release: &str) -> Result<PathBuf> {
    let below = [dir.join("lib/modules").join(release), dir.join(release), dir.to_owned()];
    let found = below.into_iter().find(|dir| fs::is_there(&dir.join("modules.builtin")));
    found.ok_or_else(|| MakeKernelError::NoModules {
        dir: dir.to_owned(),
        release: release.to_owned(),
    })
}

/// Writes a tar of a directory. Whoever owns the files here, in a guest they are root's.
fn tar_of(dir: &Path) -> Result<Tool> {
    // Links lead to where the kernel was built.
    let tool = TAR.tool()?.args(["--create", "--owner=0", "--group=0", "--numeric-owner"]);
    // Two names of one file are two files: each is unpacked, and has another name then.
    let tool = tool.args(["--hard-dereference", "--exclude=./build", "--exclude=./source"]);
    Ok(tool.arg("--directory").arg(dir).arg("."))
}

/// What `tar` makes of the directory, as an archive on the disk. Given up, it is ended.
fn pack(
    (dir, tar): (&Path, Tool),
    work: &Path,
    (silence, until): (Duration, Until<'_>),
) -> Result<Archive> {
    let read = |source| MakeKernelError::Read { path: dir.to_owned(), source };
    let mut running = tar.stream(silence).map_err(read)?;
    let mut file = fs::nameless(work).map_err(MakeKernelError::Keep)?;
    let is_over = || until.is_over();
    let copied = io::copy(&mut running.output(&is_over).take(MAX_MODULES), &mut file);
    copied.map_err(|error| match until.is_over() {
        true => MakeKernelError::CalledOff,
        false => read(HostError::system("pack it", error)),
    })?;
    running.finish().map_err(read)?;
    Ok(Archive::open(file)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_says_which_it_is() {
        let of = |text: &[u8]| release_of(text).map(str::to_owned);
        assert_eq!(
            of(b"..Linux version 6.1.0-56-cloud-amd64 (debian)").unwrap(),
            "6.1.0-56-cloud-amd64"
        );
        let format = b"Linux version %s (%s)\0..Linux version 6.12.1+ (me@host) #1";
        assert_eq!(of(format).unwrap(), "6.12.1+");
        for none in [&b""[..], b"Linux version ", b"Linux version 6", b"Linux version 6/../x y"] {
            assert_eq!(of(none), None);
        }
        assert_eq!(of(&[b"Linux version 6".as_slice(), &[b'1'; 99], b" "].concat()), None);
    }

    #[test]
    fn modules_on_a_disk_that_stops_answering_are_given_up() {
        let work = tempfile::tempdir().unwrap();
        let hanging = || Tool::new("sh").args(["-c", "echo begun; exec sleep 1000"]);
        let dir = Path::new("/modules");
        let short = Duration::from_millis(200);
        let error = pack((dir, hanging()), work.path(), (short, Until::default())).unwrap_err();
        let MakeKernelError::Read { path, source } = &error else { panic!("{error:?}") };
        let HostError::System { source, .. } = source else { panic!("{source:?}") };
        assert!(path == dir && source.to_string().contains("nothing came of it"), "{source}");

        let called_off = std::sync::atomic::AtomicBool::new(true);
        let until = (PACK_SILENCE, Until::set(&called_off));
        let error = pack((dir, hanging()), work.path(), until).unwrap_err();
        assert!(matches!(error, MakeKernelError::CalledOff), "{error:?}");
    }
}
