//! The first process of a sandbox.

fn main() {
    banger_agent::live();
}
