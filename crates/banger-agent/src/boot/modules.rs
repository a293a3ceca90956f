//! The boot modules: the drivers without which there is no disk and no link.
//!
//! The initramfs names them in the order in which they depend on each other. The agent only
//! follows that list; what has to be in it is decided where the initramfs is made.

use std::fs::File;
use std::path::Path;

use rustix::io::Errno;

use super::BootError;
use super::trace::Timeline;
use crate::files::read_bounded;

/// Where the initramfs keeps the boot modules.
const DIR: &str = "/modules";

/// The list of their file names, one in a line.
const ORDER: &str = "/modules/order";

/// Most modules that a boot takes. Debian's cloud kernel needs about ten.
pub(super) const MAX_MODULES: usize = 64;

/// Longest list: every name may have 255 bytes.
const MAX_ORDER_LEN: u64 = (MAX_MODULES as u64) * 256;

/// Inserts every boot module. One that is already there is no error: kernels differ in what
/// they have built in.
///
/// # Errors
/// [`BootError::Read`] for the list, [`BootError::Module`] for the first that the kernel refuses.
pub(super) fn insert_all(timeline: &mut Timeline) -> Result<(), BootError> {
    let order = Path::new(ORDER);
    let list = read_bounded(order, MAX_ORDER_LEN)
        .map_err(|source| BootError::Read { path: order.to_owned(), source })?;
    for name in parse(&String::from_utf8_lossy(&list))? {
        insert(name)?;
        timeline.mark(name);
    }
    Ok(())
}

fn insert(name: &str) -> Result<(), BootError> {
    let failed = |source: std::io::Error| BootError::Module { name: name.to_owned(), source };
    let file = File::open(Path::new(DIR).join(name)).map_err(failed)?;
    match rustix::system::finit_module(&file, c"", 0) {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(source) => Err(failed(source.into())),
    }
}

/// The names in a list.
fn parse(list: &str) -> Result<Vec<&str>, BootError> {
    let names: Vec<&str> = list.lines().filter(|line| !line.is_empty()).collect();
    if names.len() > MAX_MODULES {
        return Err(BootError::TooManyModules(names.len()));
    }
    match names.iter().find(|name| name.contains('/') || name.starts_with('.')) {
        Some(bad) => Err(BootError::ModuleName((*bad).to_owned())),
        None => Ok(names),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_one_plain_name_in_a_line() {
        assert_eq!(
            parse("virtio_ring.ko\nvirtio.ko\n\n").unwrap(),
            ["virtio_ring.ko", "virtio.ko"]
        );
        assert!(matches!(parse("../x.ko"), Err(BootError::ModuleName(_))));
        assert!(matches!(parse("a/b.ko"), Err(BootError::ModuleName(_))));
        let many = "x.ko\n".repeat(MAX_MODULES + 1);
        assert!(matches!(parse(&many), Err(BootError::TooManyModules(65))));
    }
}
