//! Images with an init of their own: systemd brings them up, and they are restored, copied and
//! stopped as any other.

use banger_testkit::oci::images::TestLayer;
use serde_json::json;

use crate::images::{Place, Put, gives, image, layer, shown};
use crate::support::TestEnv;

/// What the machine's user adds: a service with a last word, and a table of disks that are not
/// there.
fn additions() -> TestLayer {
    let service = "[Service]\nType=oneshot\nRemainAfterExit=yes\n\
        ExecStart=/bin/sh -c 'echo up >> /srv/ups'\n\
        ExecStop=/bin/sh -c 'echo goodbye >> /var/last-words'\n\
        [Install]\nWantedBy=multi-user.target\n";
    // A server that makes a key when it comes up without one, and knows it from then on.
    let server = "[Service]\nExecStartPre=/usr/bin/ssh-keygen -A\n\
        ExecStart=/bin/sh -c 'cat /etc/ssh/ssh_host_x_key > /run/served; exec sleep infinity'\n\
        [Install]\nWantedBy=multi-user.target\n";
    let keygen = "#!/bin/sh\nmkdir -p /etc/ssh; key=/etc/ssh/ssh_host_x_key\n\
        [ -e $key ] || head -c 16 /dev/urandom | od -An -tx1 > $key\n";
    layer(&[
        Put::Program("usr/bin/ssh-keygen", keygen.into()),
        Put::File("etc/systemd/system/ssh.service", server),
        Put::Link(
            "etc/systemd/system/multi-user.target.wants/ssh.service",
            "/etc/systemd/system/ssh.service",
        ),
        Put::File("etc/systemd/system/witness.service", service),
        Put::Link(
            "etc/systemd/system/multi-user.target.wants/witness.service",
            "/etc/systemd/system/witness.service",
        ),
        Put::File(
            "etc/fstab",
            "UUID=0-0 / ext4 errors=remount-ro 0 1\n/dev/sdz9 none swap sw 0 0\n\
             tmpfs /scratch tmpfs mode=755 0 0\n",
        ),
    ])
}

fn sh(env: &TestEnv, name: &str, script: &str) -> String {
    env.run(["vm", "exec", name, "--", "sh", "-c", script]).text()
}

#[test]
fn an_image_with_systemd_comes_up_with_it_and_is_restored_copied_and_stopped_in_order() {
    let Some(place) = Place::new() else { return };
    let Some(root) = banger_testkit::systemd_root() else {
        return banger_testkit::skipped("there is no Debian with systemd among the tests' files");
    };
    let root = TestLayer::plain(std::fs::read(root).unwrap());
    let config = json!({"Cmd": ["/sbin/init"], "StopSignal": "SIGRTMIN+3"});
    let Some(reference) = place.push("debian", &image(vec![root, additions()], &config)) else {
        return;
    };
    let env = &place.env;
    gives(env, &format!("image pull --name sysd {reference}"), "sysd\n");
    assert_eq!(shown(env, "sysd")["config"]["init"], "systemd");
    // Everything that was to come up has.
    let run = |script: &str| env.run(["vm", "run", "--image", "sysd", "--", "sh", "-c", script]);
    let state = "systemctl is-system-running; systemctl is-active witness; cat /proc/1/comm; \
        findmnt -no FSTYPE /scratch; cat /etc/hostname | wc -w; systemctl --failed --no-legend";
    assert_eq!(run(state).text(), "running\nactive\nsystemd\ntmpfs\n1\n");
    // Two made from one template are two machines, and both know which.
    gives(env, "vm create two --image sysd", "two\n");
    assert_eq!(sh(env, "two", "hostname; cat /etc/hostname"), "two\ntwo\n");
    let ids = "cat /etc/machine-id /proc/sys/kernel/random/boot_id";
    assert_ne!(run(ids).text(), sh(env, "two", ids));
    let journal = "logger -t us hello; n=0; \
        until journalctl -q -t us | grep -q hello; do n=$((n+1)); [ $n -lt 100 ] || exit 1; sleep 0.1; done; \
        echo heard";
    assert_eq!(sh(env, "two", journal), "heard\n");
    // The template had a key, and a server that knew it.
    let key = "n=0; until cmp -s /run/served /etc/ssh/ssh_host_x_key; do n=$((n+1)); \
        [ $n -lt 600 ] || exit 1; sleep 0.1; done; cat /run/served; systemctl is-active ssh";
    let (keys, others) = (sh(env, "two", key), run(key).text());
    assert!(keys.ends_with("\nactive\n") && others.ends_with("\nactive\n"), "{keys}{others}");
    assert_ne!(keys, others);
    gives(env, "vm fork -q two", "two-1\n");
    assert_eq!(sh(env, "two-1", "systemctl is-system-running; hostname"), "running\ntwo-1\n");
    assert_ne!(sh(env, "two-1", ids), sh(env, "two", ids));
    // Services have their last word, and what they wrote is there when it starts again.
    gives(env, "vm create one --image sysd --volume d:/srv", "one\n");
    let before = sh(env, "one", "cat /etc/machine-id");
    gives(env, "vm restart one", "one\n");
    assert_eq!(
        sh(env, "one", "cat /var/last-words; systemctl is-system-running; cat /etc/machine-id"),
        format!("goodbye\nrunning\n{before}")
    );
    // Its volume was there before its services, both times.
    assert_eq!(sh(env, "one", "cat /srv/ups; findmnt -no SOURCE /srv | wc -l"), "up\nup\n1\n");
    // It need not.
    let agent = ["vm", "run", "--init", "agent", "--image", "sysd", "--", "cat", "/proc/1/comm"];
    assert_eq!(env.run(agent).text(), "init\n", "that of the initramfs");
    env.run(["vm", "delete", "--force", "one", "two", "two-1"]).ok();
    drop(place.registry);
    place.env.assert_nothing_left();
}
