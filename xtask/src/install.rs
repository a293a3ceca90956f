//! Putting what was built where it is used: `banger` and `bangerd` into cargo's `bin`, as `cargo install`
//! does, and what belongs to it into `lib/banger` beside that.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::build::GUEST_PROGRAMS;
use crate::place::Place;

/// Installs what was built; where `banger` is now.
pub(crate) fn install(place: &Place) -> Result<PathBuf> {
    let lib = place.cargo_home.join("lib/banger");
    for name in GUEST_PROGRAMS {
        replace(&place.guest_programs().join(name), &lib.join(name))?;
    }
    let bin = place.cargo_home.join("bin");
    for name in ["bangerd", "banger"] {
        replace(&place.target.join("release").join(name), &bin.join(name))?;
    }
    Ok(bin.join("banger"))
}

/// Puts a copy of a program in place of another, in one step: a running one runs on, and nobody
/// ever starts a half. What is the same already is left alone.
pub(crate) fn replace(from: &Path, to: &Path) -> Result<()> {
    let new = std::fs::read(from).with_context(|| format!("cannot read {}", from.display()))?;
    if std::fs::read(to).is_ok_and(|old| old == new) {
        return Ok(());
    }
    let dir = to.parent().context("a program lies in a directory")?;
    let aside = to.with_extension(format!("{}.new", std::process::id()));
    let put = || {
        std::fs::create_dir_all(dir)?;
        std::fs::copy(from, &aside)?;
        std::fs::File::open(&aside)?.sync_all()?;
        std::fs::rename(&aside, to)
    };
    put().with_context(|| format!("cannot install {}", to.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt as _;

    #[test]
    fn a_program_is_replaced_as_a_whole_and_only_when_it_differs() {
        let dir = std::env::temp_dir().join(format!("banger-xtask-{}", std::process::id()));
        let (from, to) = (dir.join("from"), dir.join("lib/to"));
        std::fs::create_dir_all(&dir).unwrap();
        let inode = || std::fs::metadata(&to).unwrap().ino();
        std::fs::write(&from, "one").unwrap();
        replace(&from, &to).unwrap();
        let first = inode();
        replace(&from, &to).unwrap();
        assert_eq!(inode(), first);
        std::fs::write(&from, "two").unwrap();
        replace(&from, &to).unwrap();
        assert_ne!(inode(), first);
        assert_eq!(std::fs::read(&to).unwrap(), b"two");
        assert_eq!(std::fs::read_dir(dir.join("lib")).unwrap().count(), 1, "nothing stays aside");
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
