//! The first process of the machine that a cold start is measured against: it loads the same
//! modules, mounts the same disks and powers off.

fn main() {
    banger_agent::live_as_floor();
}
