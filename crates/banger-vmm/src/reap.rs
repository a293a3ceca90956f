//! Ending everything that belongs to a machine's directory, whoever started it and however far
//! that one got.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use banger_host::clock::Deadline;
use banger_host::fs::remove_all;
use banger_host::owned;
use banger_host::process::{Process, ProcessIdentity};

use crate::error::ReapError;
use crate::machine::LINK_SOCKET;
use crate::record::{RECORD_FILE, Record};

/// How long a killed process may take to be gone: writing back a core's worth of memory on a
/// busy disk takes seconds.
const KILL_PATIENCE: Duration = Duration::from_secs(30);
/// How long the network may take to notice that its machine is gone, before it is killed.
const NETWORK_PATIENCE: Duration = Duration::from_secs(2);

/// What [`reap`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reaped {
    /// Nothing ran.
    Nothing,
    /// This many processes did, and are gone.
    Processes(usize),
}

/// Ends every process that belongs to the machine in `dir`: those in its record, and those whose
/// command line carries the directory's tag, which are found even if their starter died before
/// it wrote the record. Nothing is ended by a bare pid. Afterwards the record is gone.
///
/// Call it with the directory's lock held: a process between fork and exec is seen by nobody,
/// but holds on to the lock of its starter. It blocks for as long as the processes take to end.
///
/// # Errors
/// When /proc cannot be read, or a process does not end.
pub fn reap(dir: &Path) -> Result<Reaped, ReapError> {
    let find = |source| ReapError::Find { dir: dir.to_owned(), source };
    // An unreadable record hides nothing but the helpers, which end with the machine.
    let record = Record::read(dir).unwrap_or_default();
    let mut machine = BTreeMap::new();
    for process in owned::find(dir).map_err(find)? {
        machine.insert(process.identity().pid, process);
    }
    let mut network = Vec::new();
    if let Some(record) = record {
        if let Some(process) = live(&record.process).map_err(find)? {
            machine.insert(process.identity().pid, process);
        }
        for identity in &record.network {
            let found = live(identity).map_err(find)?;
            network.extend(found.filter(|process| !machine.contains_key(&process.identity().pid)));
        }
    }
    let end = |process: &Process, source| ReapError::End {
        dir: dir.to_owned(),
        pid: process.identity().pid,
        source,
    };
    for process in machine.values() {
        process.kill(KILL_PATIENCE).map_err(|source| end(process, source))?;
    }
    let noticed = Deadline::after(NETWORK_PATIENCE);
    for process in &network {
        if !process.wait(noticed).map_err(|source| end(process, source))? {
            process.kill(KILL_PATIENCE).map_err(|source| end(process, source))?;
        }
    }
    remove_all(&dir.join(RECORD_FILE)).map_err(find)?;
    match machine.len() + network.len() {
        0 => Ok(Reaped::Nothing),
        count => Ok(Reaped::Processes(count)),
    }
}

/// Removes the sockets of a machine that is no more from its directory.
///
/// # Errors
/// When one cannot be removed.
pub fn clear_sockets(dir: &Path) -> banger_host::Result<()> {
    for name in [LINK_SOCKET, crate::qemu::QMP_SOCKET] {
        remove_all(&dir.join(name))?;
    }
    Ok(())
}

/// The process of this identity; `None` when it is gone or has ended, in which case it is laid to
/// rest if it was a child of this process.
fn live(identity: &ProcessIdentity) -> banger_host::Result<Option<Process>> {
    let Some(process) = Process::find(identity)? else { return Ok(None) };
    Ok(if process.wait(Deadline::after(Duration::ZERO))? { None } else { Some(process) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use banger_host::fs::write_atomic;
    use banger_host::process::Launch;

    fn sleeper(tag: Option<&Path>) -> Process {
        let args = ["-c", "read line </dev/zero", "sh"];
        let tag = tag.map(owned::tag);
        Launch::new("sh", Path::new("/")).args(args).args(tag).start().unwrap()
    }

    fn gone(process: &Process) -> bool {
        process.wait(Deadline::after(Duration::ZERO)).unwrap()
    }

    #[test]
    fn a_machine_whose_starter_died_before_the_record_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let machine = sleeper(Some(dir.path()));
        assert_eq!(reap(dir.path()).unwrap(), Reaped::Processes(1));
        assert!(gone(&machine));
        assert_eq!(reap(dir.path()).unwrap(), Reaped::Nothing);
    }

    #[test]
    fn recorded_processes_end_and_a_reused_pid_does_not() {
        let dir = tempfile::tempdir().unwrap();
        let (machine, network, stranger) =
            (sleeper(Some(dir.path())), sleeper(None), sleeper(None));
        let mut reused = stranger.identity().clone();
        reused.start_time += 1;
        let record = Record {
            vmm: "test".into(),
            process: machine.identity().clone(),
            network: vec![network.identity().clone(), reused],
            memory: None,
        };
        record.write(dir.path()).unwrap();
        assert_eq!(reap(dir.path()).unwrap(), Reaped::Processes(2));
        assert!(gone(&machine) && gone(&network));
        assert!(!gone(&stranger), "a process that only has a recorded pid was ended");
        assert!(!dir.path().join(RECORD_FILE).exists());
        stranger.kill(KILL_PATIENCE).unwrap();
    }

    #[test]
    fn a_garbled_record_does_not_keep_the_machine_alive() {
        let dir = tempfile::tempdir().unwrap();
        write_atomic(&dir.path().join(RECORD_FILE), b"{").unwrap();
        let machine = sleeper(Some(dir.path()));
        assert_eq!(reap(dir.path()).unwrap(), Reaped::Processes(1));
        assert!(gone(&machine));
    }
}
