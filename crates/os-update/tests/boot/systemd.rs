//! The units that come with `os-update`, run by the systemd of a Debian that lies in an initramfs:
//! a system on trial is committed, the timer waits, and the update service finds nothing newer.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use banger_trust::{SecretKey, Sha256Digest};
use banger_update::{BootLoader as _, BootView, Grub, HostFiles, Layout, Slot, Tries};

use crate::disk::Kit;
use crate::initramfs::Archive;
use crate::machine::Machine;

/// What a running system does without, to be started sooner.
const LEFT_OUT: [&str; 8] = [
    "dev/",
    "usr/share/",
    "usr/lib/x86_64-linux-gnu/gconv/",
    "usr/lib/x86_64-linux-gnu/perl-base/",
    "usr/lib/udev/hwdb",
    "usr/lib/apt/",
    "var/cache/",
    "var/lib/apt/",
];
/// Where units are enabled, as their sections `[Install]` say.
const ENABLED: [(&str, &str); 4] = [
    ("multi-user.target.wants", "os-update-health.service"),
    ("boot-complete.target.requires", "os-update-health.service"),
    ("timers.target.wants", "os-update.timer"),
    ("multi-user.target.wants", "report.service"),
];
const REPORT_UNIT: &str = "[Unit]\nAfter=os-update-health.service\n\n[Service]\nType=oneshot\n\
                           ExecStart=/bin/sh /report\n";
/// What the test looks at; `@` begins it.
const REPORT: &str = r#"exec >/dev/console 2>&1
export PATH=/usr/bin:/usr/sbin
os-update serve --listen 127.0.0.1:8080 /www &
echo "@UNIT health $(systemctl show -P Result os-update-health.service)"
systemctl start os-update.service
echo "@UNIT update $(systemctl show -P Result os-update.service)"
echo "@UNIT timer $(systemctl is-active os-update.timer)"
systemctl start boot-complete.target
echo "@UNIT complete $(systemctl is-active boot-complete.target)"
echo "@BOOT $(cat /etc/version) $(os-update status -o json | tr -d '\n')"
os-update history
systemctl poweroff --force --force
"#;

#[test]
fn systemd_commits_a_trial_and_looks_for_updates_by_our_units() {
    let kit = match Kit::find() {
        Ok(kit) => kit,
        Err(missing) => return banger_testkit::skipped(&missing),
    };
    let Some(tar) = banger_testkit::systemd_root() else {
        return banger_testkit::skipped("there is no Debian with systemd: run `cargo xtask test`");
    };
    let mut archive = Archive::default();
    add_debian(&mut archive, &tar);
    add_appliance(&mut archive, &kit);
    archive.end();
    let initramfs = kit.dir.path().join("debian");
    std::fs::write(&initramfs, &archive.0).unwrap();
    let told = "console=ttyS0 quiet panic=10 os_update.slot=b os_update.nonce=n2 os_update.boot=0";
    let seen = Machine::start_directly(&kit, &initramfs, told).run_to_end();
    seen.assert_ends("2.0.0", "Idle", None);
    for line in ["health success", "update success", "timer active", "complete active"] {
        assert!(seen.text.contains(&format!("@UNIT {line}")), "{line}:\n{}", seen.text);
    }
    assert!(seen.text.contains("2.0.0 in slot B has proved itself"), "{}", seen.text);
}

/// A Debian, without what it can do without.
fn add_debian(archive: &mut Archive, tar: &Path) {
    let mut tar = tar::Archive::new(File::open(tar).unwrap());
    for entry in tar.entries().unwrap() {
        let mut entry = entry.unwrap();
        let name = entry.path().unwrap().to_string_lossy().into_owned();
        let name = name.trim_start_matches("./").trim_end_matches('/').to_owned();
        if name.is_empty() || LEFT_OUT.iter().any(|prefix| name.starts_with(prefix)) {
            continue;
        }
        let mode = entry.header().mode().unwrap() & 0o7777;
        let target = entry.link_name().unwrap().map(|to| to.to_string_lossy().into_owned());
        let mut content = Vec::new();
        match (entry.header().entry_type(), target) {
            (tar::EntryType::Directory, _) => archive.add(&name, 0o040_000 | mode, b""),
            (tar::EntryType::Symlink, Some(to)) => archive.add(&name, 0o120_777, to.as_bytes()),
            (tar::EntryType::Link, Some(to)) => {
                let to = format!("/{}", to.trim_start_matches("./"));
                archive.add(&name, 0o120_777, to.as_bytes());
            }
            (tar::EntryType::Regular, _) => {
                entry.read_to_end(&mut content).unwrap();
                archive.add(&name, 0o100_000 | mode, &content);
            }
            _ => {}
        }
    }
}

/// The units and a system on trial, whose state was lost.
fn add_appliance(archive: &mut Archive, kit: &Kit) {
    archive.add("init", 0o120_777, b"/usr/lib/systemd/systemd");
    archive.add("usr/bin/os-update", 0o100_755, &std::fs::read(&kit.os_update).unwrap());
    for unit in ["os-update.service", "os-update.timer", "os-update-health.service"] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("units").join(unit);
        let text = std::fs::read(path).unwrap();
        archive.add(&format!("etc/systemd/system/{unit}"), 0o100_644, &text);
    }
    archive.add("etc/systemd/system/report.service", 0o100_644, REPORT_UNIT.as_bytes());
    archive.add("report", 0o100_755, REPORT.as_bytes());
    for (target, unit) in ENABLED {
        let dir = format!("etc/systemd/system/{target}");
        archive.add(&dir, 0o040_755, b"");
        archive.add(&format!("{dir}/{unit}"), 0o120_777, format!("../{unit}").as_bytes());
    }
    let secret = SecretKey::from_seed([3; 32]);
    let conf = format!(
        "server=http://127.0.0.1:8080\npubkey={}\nversion_file=/etc/version\n\
         health_units=dbus.socket\nhealth_disk=/boot\n",
        secret.public().to_base64()
    );
    archive.add("etc/kubesolo", 0o040_755, b"");
    archive.add("etc/kubesolo/update.conf", 0o100_644, conf.as_bytes());
    archive.add("etc/version", 0o100_644, b"2.0.0\n");
    archive.add("www", 0o040_755, b"");
    let digest = Sha256Digest::of(b"");
    let manifest = format!(
        r#"{{"version": "2.0.0", "vmlinuz_url": "vmlinuz", "vmlinuz_sha256": "{digest}",
            "initramfs_url": "kubesolo-os.gz", "initramfs_sha256": "{digest}"}}"#
    );
    archive.add("www/latest.json", 0o100_644, manifest.as_bytes());
    let signature = secret.sign(manifest.as_bytes());
    archive.add("www/latest.json.sig", 0o100_644, signature.bytes());
    add_slots(archive, kit);
}

/// Slot B is being tried, and was counted down.
fn add_slots(archive: &mut Archive, kit: &Kit) {
    let boot = kit.dir.path().join("boot");
    for dir in ["boot/os", "boot/os/a", "boot/os/b", "boot/os/env1", "boot/os/env2"] {
        archive.add(dir, 0o040_755, b"");
        std::fs::create_dir_all(kit.dir.path().join(dir)).unwrap();
    }
    let grub = Grub::new(&HostFiles, Layout::under(&boot));
    grub.install(&BootView::starting(Slot::A)).unwrap();
    grub.try_next(Slot::B, Tries::new(1).unwrap(), "n2").unwrap();
    for copy in banger_update::ENV_COPIES {
        let environment = std::fs::read(boot.join(copy)).unwrap();
        archive.add(&format!("boot/{copy}"), 0o100_644, &environment);
    }
}
