//! Makes the default kernel and image in a home, for work on the parts that boot them, and for
//! tests that kill it while it does.
//!
//! Usage: `cargo run -p banger-image --example prepare -- HOME [image|kernel]`
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "this is a command line tool")]

use std::path::Path;

use banger_host::home::Home;
use banger_image::{Image, Kernel};
use banger_model::Progress;

struct Lines;

impl Progress for Lines {
    fn stage(&self, what: &str) {
        eprintln!("{what}");
    }

    fn advance(&self, _done: u64, _whole: Option<u64>) {}
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args_os().skip(1);
    let root = args.next().ok_or("usage: prepare HOME [image|kernel]")?;
    let home = Home::under(&std::path::absolute(Path::new(&root))?);
    let only = args.next();
    let wanted = |part: &str| only.as_ref().is_none_or(|only| only == part);
    if wanted("kernel") {
        let kernel = Kernel::ensure(&home, &"debian-cloud".parse()?, &Lines)?;
        println!("{}", kernel.vmlinux().display());
    }
    if wanted("image") {
        let image = Image::ensure(&home, &"debian-bookworm".parse()?, &Lines)?;
        println!("{}", image.root().display());
    }
    Ok(())
}
