//! What there really is below a home: processes and files.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use anyhow::Result;
use banger_host::fs::list_dir;
use banger_host::home::Home;
use banger_host::owned;

/// Files of a machine that only a running one has.
const OF_A_MACHINE: [&str; 3] = ["vmm.json", "qmp.sock", "link.sock"];
/// The file that is a sandbox's disk.
pub(crate) const DISK: &str = "disk.ext4";
/// How the names of files end that are made aside.
const ASIDE: &str = ".new";
/// How the names of locks end.
const LOCK: &str = ".lock";

/// A sandbox's memory on the disk, and the mark that says that a machine has gone on with it.
pub(crate) const SAVED: &str = "saved";
pub(crate) const USED: &str = "saved/used";
/// The same while it is made.
pub(crate) const HALF_SAVED: &str = "saved.new";

/// What there is of a sandbox's memory on the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Saved {
    Nothing,
    /// A machine can be made of it.
    Whole,
    /// A machine has gone on with it.
    Used,
}

/// What there is.
#[derive(Debug, Default)]
pub(crate) struct World {
    /// Processes that carry the mark of a sandbox, by its id.
    pub(crate) marked: BTreeMap<String, Vec<i32>>,
    /// Other processes that have to do with the home, with their command lines.
    pub(crate) strangers: BTreeMap<i32, String>,
    /// Directories of sandboxes, with the files in them that only a running one has.
    pub(crate) dirs: BTreeMap<String, BTreeSet<String>>,
    /// The disks of sandboxes, by their inodes.
    pub(crate) disks: BTreeMap<String, u64>,
    /// What is saved of the memory of sandboxes.
    pub(crate) saved: BTreeMap<String, Saved>,
    /// Snapshots, by their ids.
    pub(crate) snapshots: BTreeSet<String>,
    /// Leases.
    pub(crate) leases: BTreeSet<String>,
    /// What lies where nothing of its kind should.
    pub(crate) out_of_place: Vec<String>,
    /// Files in the directories of sandboxes that somebody began to write and never finished.
    pub(crate) litter: u64,
}

impl World {
    /// Looks.
    pub(crate) fn look(root: &Path, home: &Home) -> Result<Self> {
        let mut world = Self::default();
        let sandboxes = home.sandboxes();
        if let Ok(real) = sandboxes.canonicalize() {
            for name in owned::directories_below(&real)? {
                let found = owned::find(&real.join(&name))?;
                let pids = found.iter().map(|process| process.identity().pid).collect();
                world.marked.insert(name.to_string_lossy().into_owned(), pids);
            }
        }
        world.look_at_processes(root)?;
        for name in list_dir(&sandboxes)? {
            let dir = sandboxes.join(&name);
            let files = names(&dir)?;
            let saved = match (dir.join(SAVED).exists(), dir.join(USED).exists()) {
                (false, _) => Saved::Nothing,
                (true, false) => Saved::Whole,
                (true, true) => Saved::Used,
            };
            world.saved.insert(name.to_string_lossy().into_owned(), saved);
            // Memory is large: half of one is no file that may wait for somebody.
            if dir.join(HALF_SAVED).exists() {
                world.out_of_place.push(dir.join(HALF_SAVED).display().to_string());
            }
            if let Ok(disk) = fs::metadata(sandboxes.join(&name).join(DISK)) {
                world.disks.insert(name.to_string_lossy().into_owned(), disk.ino());
            }
            world.litter += files.iter().filter(|file| file.ends_with(ASIDE)).count() as u64;
            let of_a_machine =
                files.into_iter().filter(|file| OF_A_MACHINE.contains(&file.as_str())).collect();
            world.dirs.insert(name.to_string_lossy().into_owned(), of_a_machine);
        }
        world.leases = names(&home.leases())?;
        world.look_at_staged(home)?;
        world.look_for_litter(home)?;
        Ok(world)
    }

    /// Whatever names something below `root` or works there, and carries no mark.
    fn look_at_processes(&mut self, root: &Path) -> Result<()> {
        let marked: BTreeSet<i32> = self.marked.values().flatten().copied().collect();
        self.strangers = processes_of(root)?;
        self.strangers.retain(|pid, _| !marked.contains(pid));
        Ok(())
    }

    /// Snapshots and templates are directories that are whole; what is made aside is gone when
    /// nobody makes it. An empty lock stays until the next start of a daemon.
    fn look_at_staged(&mut self, home: &Home) -> Result<()> {
        self.snapshots = snapshots(home)?;
        for dir in [home.snapshots(), home.templates()] {
            for name in names(&dir)?.into_iter().filter(|name| name.starts_with('.')) {
                if !name.ends_with(LOCK) {
                    self.out_of_place.push(dir.join(name).display().to_string());
                }
            }
        }
        Ok(())
    }

    fn look_for_litter(&mut self, home: &Home) -> Result<()> {
        let state = home.sandboxes();
        let state = state.parent().unwrap_or(&state);
        let usual = ["banger.db", "banger.db-wal", "banger.db-shm", "bangerd.lock", "sandboxes"];
        let usual = usual.into_iter().chain(["banger.reserve"]);
        let usual = usual.chain(["leases", "host", "templates", "snapshots"]).collect();
        let host = ["kvm.json", "kvm.lock", "tsc.json", "tsc.lock"].into();
        let runtime = ["bangerd.sock", "start.lock"].into();
        let places: [(&Path, BTreeSet<&str>); 3] =
            [(state, usual), (&home.host_facts(), host), (home.runtime(), runtime)];
        for (dir, usual) in places {
            for name in names(dir)? {
                if !usual.contains(name.as_str()) {
                    self.out_of_place.push(dir.join(name).display().to_string());
                }
            }
        }
        Ok(())
    }
}

/// Whatever names something below `root` or works there, with its command line.
pub(crate) fn processes_of(root: &Path) -> Result<BTreeMap<i32, String>> {
    let below = root.to_string_lossy().into_owned();
    let mut found = BTreeMap::new();
    for name in list_dir(Path::new("/proc"))? {
        let Some(pid) = name.to_str().and_then(|name| name.parse().ok()) else { continue };
        let dir = Path::new("/proc").join(&name);
        let line = fs::read(dir.join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        let works_there = fs::read_link(dir.join("cwd")).is_ok_and(|cwd| cwd.starts_with(root));
        if works_there || line.contains(&below) {
            found.insert(pid, line);
        }
    }
    Ok(found)
}

/// Whether there is something in the directory of a sandbox that only one with a machine has, or one
/// with memory.
pub(crate) fn has_traces(dir: &Path) -> bool {
    OF_A_MACHINE.into_iter().chain([SAVED, HALF_SAVED]).any(|name| dir.join(name).exists())
}

/// The ids of all snapshots that are there, hidden ones as well.
pub(crate) fn snapshots(home: &Home) -> Result<BTreeSet<String>> {
    let all = names(&home.snapshots())?;
    Ok(all.into_iter().filter(|name| !name.starts_with('.')).collect())
}

fn names(dir: &Path) -> Result<BTreeSet<String>> {
    let names = list_dir(dir)?;
    Ok(names.into_iter().map(|name| name.to_string_lossy().into_owned()).collect())
}
