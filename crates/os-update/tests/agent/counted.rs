//! An appliance that systemd-boot starts, as far as that program is needed here: entries in its order,
//! without those whose files are not there, and their counters.

use std::cmp::Reverse;
use std::fs;
use std::path::Path;

use banger_update::{KernelArgs, Slot};
use os_update::agent::install;
use os_update::settings::{Key, Loader};

use crate::appliance::Appliance;

/// Where entries lie.
const ENTRIES: &str = "boot/loader/entries";

/// An entry as systemd-boot reads it.
struct Entry {
    name: String,
    /// Boots that are left, and those that were; none without a counter.
    counter: Option<(u32, u32)>,
    version: u64,
    slot: Slot,
    nonce: String,
}

/// One that runs 1.0.0 from slot A.
pub(crate) fn appliance() -> Appliance {
    let mut appliance = Appliance::new();
    appliance.set(Key::BootLoader, "systemd-boot");
    fs::create_dir_all(appliance.path(ENTRIES)).unwrap();
    let args = KernelArgs::parse("").unwrap();
    install(&appliance.path("boot"), Loader::SystemdBoot, &args, Slot::A).unwrap();
    boot(&appliance);
    appliance
}

/// The names of the entries that are there.
pub(crate) fn entries(appliance: &Appliance) -> Vec<String> {
    let found = fs::read_dir(appliance.path(ENTRIES)).unwrap();
    let mut names: Vec<String> =
        found.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn read(appliance: &Appliance, name: String) -> Entry {
    let text = fs::read_to_string(appliance.path(ENTRIES).join(&name)).unwrap();
    let after = |word: &str| {
        let found = text.split_ascii_whitespace().skip_while(|known| *known != word).nth(1);
        found.unwrap().to_owned()
    };
    let option = |name: &str| {
        let word = text.split_ascii_whitespace().find_map(|word| word.strip_prefix(name));
        word.unwrap().to_owned()
    };
    let stem = name.strip_suffix(".conf").unwrap();
    let counter = stem.split_once('+').map(|(_, counter)| {
        let (left, done) = counter.split_once('-').unwrap_or((counter, "0"));
        (left.parse().unwrap(), done.parse().unwrap())
    });
    Entry {
        counter,
        version: after("version").parse().unwrap(),
        slot: option("os_update.slot=").parse().unwrap(),
        nonce: option("os_update.nonce="),
        name,
    }
}

/// The next boot: the slot that comes up. B has 2.0.0.
pub(crate) fn boot(appliance: &Appliance) -> Slot {
    let all = entries(appliance).into_iter().map(|name| read(appliance, name));
    let kernel = |slot: Slot| format!("boot/os/{}/vmlinuz", slot.letter());
    let there = all.filter(|entry| appliance.path(&kernel(entry.slot)).exists());
    let first = there
        .min_by_key(|entry| (matches!(entry.counter, Some((0, _))), Reverse(entry.version)))
        .unwrap();
    if let Some((left @ 1.., done)) = first.counter {
        let counted = format!("os-{}+{}-{}.conf", first.slot.letter(), left - 1, done + 1);
        let at = |name: &str| appliance.path(&Path::new(ENTRIES).join(name).to_string_lossy());
        fs::rename(at(&first.name), at(&counted)).unwrap();
    }
    let version = if first.slot == Slot::A { "1.0.0" } else { "2.0.0" };
    appliance.say_booted(first.slot, &format!("{} os_update.boot=counted", first.nonce), version);
    appliance.forget_boot_id();
    first.slot
}
