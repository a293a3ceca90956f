//! The doctor's opinion: a pure function of what was observed.

use banger_host::facts::Processors;
use banger_model::Bytes;
use banger_vmm::probe::KvmVerdict;

use super::observe::{Found, Made, Observed, Reflinks, Root, Unusable};
use super::{Check, Level};

/// Below this an image cannot be made: its parts and itself are on the disk at once for a moment.
const LITTLE_SPACE: Bytes = Bytes::gib(2);
/// Below this a few sandboxes may fill the disk.
const LOW_SPACE: Bytes = Bytes::gib(10);
/// Below this a default sandbox and what the host needs beside it do not fit.
const LOW_MEMORY: Bytes = Bytes::gib(1);

/// What to think of each thing observed, in the order in which to read it.
pub fn judge(seen: &Observed) -> Vec<Check> {
    let mut checks = vec![
        processor(seen),
        memory(seen),
        ok("host kernel", seen.kernel_release.clone()),
        kvm(seen.kvm.as_ref()),
        qemu(&seen.qemu),
        packages(&seen.missing_packages, seen.root),
        directories(&seen.writable),
        space(&seen.free_space),
        reflinks(&seen.reflinks),
        network(seen.default_route),
        agent(&seen.agent),
        made(&seen.made),
    ];
    // Root needs no namespace to make an image in.
    if seen.root == Root::No {
        checks.insert(6, namespaces(&seen.user_namespaces, &seen.subordinate_ids));
    }
    checks
}

fn ok(name: &'static str, found: impl Into<String>) -> Check {
    Check { name, level: Level::Ok, found: found.into(), advice: None }
}

fn bad(
    name: &'static str,
    level: Level,
    found: impl Into<String>,
    advice: impl Into<String>,
) -> Check {
    Check { name, level, found: found.into(), advice: Some(advice.into()) }
}

fn processor(seen: &Observed) -> Check {
    match &seen.processor {
        Ok(Processors { model, count, .. }) => ok("processor", format!("{count} × {model}")),
        Err(why) => bad("processor", Level::Warn, why, "mount /proc"),
    }
}

fn memory(seen: &Observed) -> Check {
    match &seen.memory {
        Ok((total, available)) if *available < LOW_MEMORY => bad(
            "memory",
            Level::Warn,
            format!("{available} of {total} available"),
            "end something, or give sandboxes less with --memory",
        ),
        Ok((total, available)) => ok("memory", format!("{available} of {total} available")),
        Err(why) => bad("memory", Level::Warn, why, "mount /proc"),
    }
}

fn kvm(verdict: Option<&Found<KvmVerdict>>) -> Check {
    let slower = "sandboxes are emulated: they work, but several times slower";
    match verdict {
        None => ok("KVM", "not tried yet: the first `banger vm run` tries it"),
        Some(Err(why)) => bad("KVM", Level::Warn, why, slower),
        Some(Ok(KvmVerdict::Usable)) => ok("KVM", "runs guests"),
        Some(Ok(KvmVerdict::NotUsable { reason })) => bad(
            "KVM",
            Level::Warn,
            format!("/dev/kvm is there but does not run guests ({reason})"),
            format!("{slower}; if this host is itself virtual, ask for nested virtualisation"),
        ),
        Some(Ok(KvmVerdict::Absent)) => bad(
            "KVM",
            Level::Warn,
            "this host has no /dev/kvm",
            format!(
                "{slower}; switch virtualisation on in the firmware, load kvm_intel or kvm_amd"
            ),
        ),
        Some(Ok(KvmVerdict::NoPermission)) => bad(
            "KVM",
            Level::Warn,
            "you may not open /dev/kvm",
            "join its group: `sudo usermod -aG kvm $USER`, then log in again",
        ),
    }
}

fn qemu(found: &Found<String>) -> Check {
    match found {
        Ok(name) => ok("QEMU", name),
        Err(why) => bad("QEMU", Level::Fail, why, "apt-get install qemu-system-x86"),
    }
}

fn packages(missing: &[&str], root: Root) -> Check {
    // Only who is not root needs newuidmap.
    let needed: Vec<_> =
        missing.iter().copied().filter(|p| root == Root::No || *p != "uidmap").collect();
    if needed.is_empty() {
        return ok("packages", "all there");
    }
    let list = needed.join(" ");
    bad("packages", Level::Fail, format!("missing: {list}"), format!("apt-get install {list}"))
}

fn namespaces(user: &Found<()>, ids: &Found<()>) -> Check {
    let name = "user namespaces";
    match (user, ids) {
        (Ok(()), Ok(())) => ok(name, "can be made, with subordinate ids"),
        (Err(why), _) => bad(
            name,
            Level::Fail,
            format!("cannot be made: {why}"),
            "allow them: sysctl kernel.unprivileged_userns_clone=1 and \
             kernel.apparmor_restrict_unprivileged_userns=0; or make images as root",
        ),
        (_, Err(why)) => bad(
            name,
            Level::Fail,
            why,
            "usermod --add-subuids 100000-165535 --add-subgids 100000-165535 $USER",
        ),
    }
}

fn directories(writable: &Found<()>) -> Check {
    match writable {
        Ok(()) => ok("directories", "writable"),
        Err(why) => bad(
            "directories",
            Level::Fail,
            why,
            "make them writable, or set BANGER_HOME to a directory that is",
        ),
    }
}

fn space(free: &Found<Bytes>) -> Check {
    let name = "disk space";
    let advice = "remove something, or set BANGER_HOME to a larger file system";
    match free {
        Ok(free) if *free < LITTLE_SPACE => {
            bad(name, Level::Fail, format!("{free} free, less than {LITTLE_SPACE}"), advice)
        }
        Ok(free) if *free < LOW_SPACE => bad(name, Level::Warn, format!("{free} free"), advice),
        Ok(free) => ok(name, format!("{free} free")),
        Err(why) => bad(name, Level::Warn, why, advice),
    }
}

fn reflinks(found: &Found<Reflinks>) -> Check {
    let name = "file system";
    match found {
        Ok(Reflinks::Supported) => ok(name, "copies share their blocks"),
        Ok(Reflinks::Unsupported) => {
            ok(name, "copies cost their data; XFS or btrfs under BANGER_HOME would share it")
        }
        Err(why) => bad(name, Level::Warn, why, "make the directories writable"),
    }
}

fn network(default_route: bool) -> Check {
    if default_route {
        return ok("network", "the host has a default route");
    }
    bad(
        "network",
        Level::Warn,
        "the host has no default route",
        "sandboxes run without a network until it has one",
    )
}

fn agent(found: &Found<()>) -> Check {
    match found {
        Ok(()) => ok("guest agent", "there"),
        Err(why) => bad("guest agent", Level::Fail, why, "install banger anew"),
    }
}

fn made(found: &Found<Made>) -> Check {
    let name = "images";
    let made = match found {
        Ok(made) => made,
        Err(why) => return bad(name, Level::Warn, why, "make the directories readable"),
    };
    if !made.unusable.is_empty() {
        return unusable(name, &made.unusable);
    }
    let list = |names: &[String]| if names.is_empty() { "none".into() } else { names.join(", ") };
    let found = format!("images: {}; kernels: {}", list(&made.images), list(&made.kernels));
    if made.images.is_empty() || made.kernels.is_empty() {
        return ok(name, format!("{found}; the first `banger vm run` makes what it needs"));
    }
    ok(name, found)
}

fn unusable(name: &'static str, unusable: &[Unusable]) -> Check {
    let found: Vec<_> = unusable.iter().map(|one| one.why.as_str()).collect();
    let removals: Vec<_> = unusable.iter().filter_map(|one| one.removal.as_deref()).collect();
    let advice = if removals.is_empty() {
        "make the files readable".to_owned()
    } else {
        format!("remove what is damaged, and it is made anew: `{}`", removals.join("; "))
    };
    bad(name, Level::Fail, found.join("; "), advice)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn healthy() -> Observed {
        Observed {
            processor: Ok(Processors {
                model: "A processor".into(),
                flags: String::new(),
                count: 8,
            }),
            memory: Ok((Bytes::gib(16), Bytes::gib(8))),
            kernel_release: "6.1.0".into(),
            kvm: Some(Ok(KvmVerdict::Usable)),
            qemu: Ok("qemu 7.2.0".into()),
            missing_packages: Vec::new(),
            root: Root::No,
            user_namespaces: Ok(()),
            subordinate_ids: Ok(()),
            writable: Ok(()),
            free_space: Ok(Bytes::gib(100)),
            reflinks: Ok(Reflinks::Supported),
            default_route: true,
            agent: Ok(()),
            made: Ok(Made::default()),
        }
    }

    fn worst(seen: &Observed) -> Option<Level> {
        judge(seen).iter().map(|check| check.level).max()
    }

    #[test]
    fn a_healthy_host_has_only_good_lines() {
        assert_eq!(worst(&healthy()), Some(Level::Ok));
        assert!(judge(&healthy()).iter().all(|check| check.advice.is_none()));
    }

    #[test]
    fn what_sandboxes_cannot_do_without_fails_with_advice() {
        let with = |change: fn(&mut Observed)| {
            let mut seen = healthy();
            change(&mut seen);
            seen
        };
        for seen in [
            with(|s| s.qemu = Err("gone".into())),
            with(|s| s.missing_packages = vec!["passt"]),
            with(|s| s.user_namespaces = Err("denied".into())),
            with(|s| s.writable = Err("read-only".into())),
            with(|s| s.free_space = Ok(Bytes::mib(100))),
            with(|s| s.agent = Err("gone".into())),
            with(|s| s.made = damaged("rm -r /k")),
        ] {
            let failed: Vec<_> =
                judge(&seen).into_iter().filter(|check| check.level == Level::Fail).collect();
            assert_eq!(failed.len(), 1, "{failed:?}");
            assert!(failed[0].advice.is_some());
        }
    }

    fn damaged(removal: &str) -> Found<Made> {
        let why = "the kernel k is damaged: vmlinux is missing".to_owned();
        let unusable = vec![Unusable { why, removal: Some(removal.to_owned()) }];
        Ok(Made { images: vec!["i".into()], kernels: Vec::new(), unusable })
    }

    #[test]
    fn what_is_damaged_fails_with_the_command_that_removes_it() {
        let check = made(&damaged("rm -r '/a b/k'"));
        assert_eq!(check.level, Level::Fail);
        assert_eq!(check.found, "the kernel k is damaged: vmlinux is missing");
        assert!(check.advice.unwrap().ends_with(": `rm -r '/a b/k'`"));
    }

    #[test]
    fn without_kvm_or_a_network_sandboxes_still_run() {
        for verdict in [
            KvmVerdict::Absent,
            KvmVerdict::NoPermission,
            KvmVerdict::NotUsable { reason: "it died".into() },
        ] {
            assert_eq!(worst(&Observed { kvm: Some(Ok(verdict)), ..healthy() }), Some(Level::Warn));
        }
        assert_eq!(worst(&Observed { default_route: false, ..healthy() }), Some(Level::Warn));
    }

    #[test]
    fn root_needs_no_namespaces() {
        let seen = Observed {
            root: Root::Yes,
            user_namespaces: Err("denied".into()),
            missing_packages: vec!["uidmap"],
            ..healthy()
        };
        assert_eq!(worst(&seen), Some(Level::Ok));
    }
}
