//! What must hold about every decoder of foreign bytes, whatever the bytes.
//!
//! Each target is a function of some bytes that panics when something does not hold. There are
//! two ways to run one: libFuzzer makes up bytes without end (`fuzz/`, needs a nightly
//! compiler), and on the stable compiler `cargo test` replays the bytes kept in `fuzz/corpus`.
//! That a decoder does not panic, loop or exhaust memory is only the least of it: wherever a
//! promise can be checked without knowing the input, the target checks it.
//!
//! Decoders that are nobody else's business stay private to their crates. They are included here
//! as source files, so that production crates need no doors that only fuzzing goes through.
#![forbid(unsafe_code)]

mod account_files;
mod blocks;
mod catalog;
mod guest;
mod image;
mod link;
mod model;
mod net;
mod oci;
mod ops;
mod output;
mod qmp;
mod streams;
mod tool;
mod update;
mod user;
mod vm_cp;

/// The fake of the agent's door to the files of an image, under the name the agent has for it.
use account_files as files;

#[expect(unreachable_pub, reason = "public where it is at home")]
#[cfg_attr(not(test), expect(dead_code, reason = "encoding is not fuzzed"))]
#[path = "../../banger-vmm/src/qemu/qmp/codec.rs"]
mod codec;

#[path = "../../banger-agent/src/boot/cmdline.rs"]
mod cmdline;

#[path = "../../banger-agent/src/users.rs"]
mod users;

/// Checks what must hold for these bytes.
///
/// # Panics
/// When it does not.
pub type Target = fn(&[u8]);

/// Every target by its name: the one of its corpus and of its binary in `fuzz/`.
pub const TARGETS: [(&str, Target); 29] = [
    ("accounts", guest::accounts),
    ("apt", image::apt),
    ("attach", streams::attach),
    ("bundle", catalog::bundle),
    ("bzimage", image::bzimage),
    ("catalog", catalog::catalog),
    ("cmdline", guest::cmdline),
    ("cp_from_guest", vm_cp::cp_from_guest),
    ("cp_into_guest", tool::cp_into_guest),
    ("events", streams::events),
    ("link_agent", link::agent),
    ("link_frame", link::frame),
    ("link_host", link::host),
    ("lz4", image::lz4),
    ("model", model::model),
    ("modinfo", image::modinfo),
    ("net_frame", net::frame),
    ("oci_archive", oci::oci_archive),
    ("oci_challenge", oci::oci_challenge),
    ("oci_document", oci::oci_document),
    ("oci_reference", oci::oci_reference),
    ("qmp", qmp::qmp),
    ("tar", image::tar),
    ("update_cloud_init", update::cloud_init),
    ("update_conf", update::conf),
    ("update_dns", update::dns),
    ("update_env", update::env),
    ("update_manifest", update::manifest),
    ("update_record", update::record),
];

/// Runs the target of this name.
///
/// # Panics
/// When there is none, or when something does not hold.
pub fn run(name: &str, bytes: &[u8]) {
    let target = TARGETS.iter().find(|(known, _)| *known == name);
    let Some((_, check)) = target else { panic!("there is no fuzz target {name}") };
    check(bytes);
}
