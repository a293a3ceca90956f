//! Host keys of an SSH server that an image makes when it comes up, as many do that bring none.
//!
//! What becomes a template comes up as nobody, and its keys would be those of every sandbox that is
//! made from it. So they go before a sandbox runs, with the server that knows them, and systemd is
//! asked to have others made beside whatever the sandbox is for. Keys that an image brings are its
//! own affair.

use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use rustix::process::Signal;

use crate::cgroup;
use crate::console;
use crate::identity::replace;

/// Where they are, and how their names begin (sshd_config(5), "HostKey").
const DIR: &str = "/etc/ssh";
const BEGINS: &[u8] = b"ssh_host_";
/// What makes them.
const KEYGEN: &str = "/usr/bin/ssh-keygen";
/// The server, by the names that distributions give it.
const SERVERS: [&str; 2] = ["ssh.service", "sshd.service"];

/// Asks for new ones by being there; names the servers that ran.
const ASK: &str = "/run/banger/host-keys";
const PATH_UNIT: &str = "banger-host-keys.path";
const SERVICE_UNIT: &str = "banger-host-keys.service";

/// Tells systemd, before it begins, how new keys are made; not where the image brings keys.
///
/// # Errors
/// When the units cannot be written.
pub(crate) fn prepare(units: &Path, wanted_by: &Path) -> io::Result<()> {
    if !Path::new(KEYGEN).exists() || !all(Path::new(DIR)).is_empty() {
        return Ok(());
    }
    let path = format!(
        "[Unit]\nDescription=Waits for this machine to be somebody's\n\n[Path]\nPathExists={ASK}\n"
    );
    let service = format!(
        "[Unit]\nDescription=Makes host keys of this machine's own\n\n\
         [Service]\nType=oneshot\nNice=19\n\
         ExecStart=/bin/sh -c 'servers=\"$$(cat {ASK})\"; rm {ASK}; {KEYGEN} -A; \
         for server in $$servers; do systemctl --no-block restart $$server; done'\n"
    );
    replace(&units.join(PATH_UNIT), path.as_bytes(), 0o644)?;
    replace(&units.join(SERVICE_UNIT), service.as_bytes(), 0o644)?;
    symlink(units.join(PATH_UNIT), wanted_by.join(PATH_UNIT))
}

/// Takes away those that were made when this machine was nobody's, and has others made.
pub(crate) fn renew(units: &Path) {
    let keys = all(Path::new(DIR));
    if keys.is_empty() || !units.join(PATH_UNIT).exists() {
        return;
    }
    let ran = SERVERS.into_iter().filter(|server| {
        let group = format!("system.slice/{server}");
        let runs = cgroup::has_processes(&group);
        // As a service stops: nothing has failed, and systemd does not start it again by itself.
        cgroup::signal_group(&group, Signal::TERM);
        runs
    });
    let ran = ran.collect::<Vec<_>>().join("\n");
    let gone = keys.iter().try_for_each(fs::remove_file);
    if let Err(error) = gone.and_then(|()| replace(Path::new(ASK), ran.as_bytes(), 0o600)) {
        console::say(&format!("the host keys of this machine are another's, too: {error}"));
    }
}

fn all(dir: &Path) -> Vec<PathBuf> {
    let names = fs::read_dir(dir).into_iter().flatten().flatten();
    let keys = names.filter(|entry| entry.file_name().as_encoded_bytes().starts_with(BEGINS));
    keys.map(|entry| entry.path()).collect()
}
