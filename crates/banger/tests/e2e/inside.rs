//! What a sandbox looks like from inside.

use crate::support::TestEnv;

#[test]
fn a_sandbox_has_what_was_asked_for_and_a_quiet_kernel() {
    let Some(env) = TestEnv::with_machines() else { return };
    let script = "uname -r; id -u; nproc; free -m | awk '/Mem:/{print $2}'; hostname; \
                  df -m / | awk 'NR==2{print $2}'; ls /lib/modules; dmesg --level=warn,err,crit";
    let args = ["vm", "run", "--cpus", "2", "--memory", "300M", "--disk", "256M"];
    let text = env.run(args.iter().chain(&["--", "sh", "-c", script])).ok();
    let lines: Vec<_> = text.lines().collect();
    let [release, uid, cpus, memory, hostname, disk, modules, warnings @ ..] = &lines[..] else {
        panic!("{text}");
    };
    assert!(release.ends_with("-cloud-amd64"), "{release}");
    assert_eq!((*uid, *cpus), ("0", "2"));
    let memory: u32 = memory.parse().unwrap();
    assert!((220..300).contains(&memory), "{memory} MiB");
    assert!(hostname.contains('-'), "two words: {hostname}");
    let disk: u32 = disk.parse().unwrap();
    assert!((180..=256).contains(&disk), "{disk} MiB");
    assert_eq!(modules, release);
    // What the kernel itself has to say of a machine without PCI is not ours.
    let ours: Vec<_> = warnings.iter().filter(|line| !line.contains("PCI:")).collect();
    assert!(ours.is_empty(), "{ours:?}");
}

#[test]
fn the_root_is_whole_and_its_mounts_are_there() {
    let Some(env) = TestEnv::with_machines() else { return };
    let script = "cat /proc/mounts; ls -ld /tmp /dev/fd /dev/ptmx; test -w /etc/resolv.conf && echo \
                  writable; for c in bash curl git python3 sudo ps ip less vim.tiny ssh; do \
                  command -v $c >/dev/null || echo \"lacks $c\"; done; locale charmap; cat \
                  /proc/self/cgroup";
    let text = env.sh(script).ok();
    for mount in [
        "overlay / overlay rw",
        "proc /proc proc",
        "sysfs /sys sysfs",
        "devtmpfs /dev devtmpfs",
        "devpts /dev/pts devpts",
        "tmpfs /dev/shm tmpfs",
        "cgroup2 /sys/fs/cgroup cgroup2",
        "tmpfs /run tmpfs",
    ] {
        assert!(text.contains(mount), "{mount} in {text}");
    }
    assert!(text.contains("drwxrwxrwt"), "{text}");
    assert!(text.contains("writable\n") && text.contains("UTF-8\n"), "{text}");
    assert!(!text.contains("lacks"), "{text}");
    assert!(text.contains("0::/banger/"), "each command has a cgroup of its own: {text}");
}

#[test]
fn what_is_written_is_gone_in_the_next_sandbox() {
    let Some(env) = TestEnv::with_machines() else { return };
    let script = "test ! -e /etc/mark && echo mark > /etc/mark && rm /etc/hostname && \
                  mv /usr/bin/less /usr/bin/more-or-less && cat /etc/mark";
    for _ in 0..2 {
        assert_eq!(env.sh(script).ok(), "mark\n");
    }
    env.assert_nothing_left();
}

#[test]
fn a_full_disk_says_so_and_does_not_hang() {
    let Some(env) = TestEnv::with_machines() else { return };
    let script = "dd if=/dev/zero of=/big bs=1M count=300 2>&1; sync; ls -s / | grep big; rm /big; \
                  echo still here > /small && cat /small";
    let ran = env.run(["vm", "run", "--disk", "128M", "--", "sh", "-c", script]);
    let text = ran.ok();
    assert!(text.contains("No space left on device"), "{text}");
    assert!(text.ends_with("still here\n"), "{text}");
}
