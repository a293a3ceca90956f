//! What a made up guest puts on its disk when it first boots, as an installation does: pages that
//! can be told from each other and from a hole. So a copy that lacks some shows.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

/// The length of a mark, and how far apart they are.
const MARK: usize = 4096;
const STEP: u64 = 64 * 1024;
/// How many there are. The first is put there last, and says that the others are there.
const MARKS: u64 = 16;
/// Where the file system says that it is one, and what it says.
const MAGIC_AT: u64 = 1080;
const MAGIC: [u8; 2] = [0x53, 0xef];

/// What there is on a disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Marks {
    /// A file system on which nobody has put anything yet.
    Blank,
    /// Every mark.
    Whole,
    /// Not everything that has to be there.
    Torn(String),
}

/// Looks.
///
/// # Errors
/// When the disk cannot be read.
pub(crate) fn look(disk: &File) -> io::Result<Marks> {
    let mut magic = [0; MAGIC.len()];
    disk.read_exact_at(&mut magic, MAGIC_AT)?;
    if magic != MAGIC {
        return Ok(Marks::Torn("the disk has no file system".to_owned()));
    }
    let mut lack = Vec::new();
    for number in 0..MARKS {
        let mut page = [0; MARK];
        disk.read_exact_at(&mut page, place(disk, number)?)?;
        if page != mark(number) {
            lack.push(number);
        }
    }
    Ok(match lack.as_slice() {
        [] => Marks::Whole,
        // It was written to when the others were on the disk.
        [0, ..] => Marks::Blank,
        lack => Marks::Torn(format!("the disk lacks {} of {MARKS} pages", lack.len())),
    })
}

/// Puts them on a blank disk, and waits until they are there.
///
/// # Errors
/// When the disk cannot be written.
pub(super) fn put(disk: &File) -> io::Result<()> {
    for number in (0..MARKS).rev() {
        if number == 0 {
            disk.sync_data()?;
        }
        disk.write_all_at(&mark(number), place(disk, number)?)?;
    }
    disk.sync_data()
}

/// From the last page on towards the beginning, which is used for something else.
fn place(disk: &File, number: u64) -> io::Result<u64> {
    let end = disk.metadata()?.len();
    let at = end.checked_sub((number + 1) * STEP);
    at.ok_or_else(|| io::Error::other(format!("a disk of {end} bytes is too small")))
}

fn mark(number: u64) -> [u8; MARK] {
    let mut page = [0; MARK];
    for (at, word) in (0_u64..).zip(page.chunks_mut(8)) {
        word.copy_from_slice(&(((number + 1) << 32) | (at + 1)).to_le_bytes());
    }
    page
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// An empty disk as a guest gets it.
    pub(crate) fn blank(path: &std::path::Path) -> File {
        let disk = File::options().create_new(true).read(true).write(true).open(path).unwrap();
        disk.set_len((MARKS + 1) * STEP).unwrap();
        disk.write_all_at(&MAGIC, MAGIC_AT).unwrap();
        disk
    }

    #[test]
    fn a_disk_is_blank_or_whole_and_whatever_lacks_something_is_torn() {
        let dir = tempfile::tempdir().unwrap();
        let disk = blank(&dir.path().join("disk"));
        assert_eq!(look(&disk).unwrap(), Marks::Blank);
        put(&disk).unwrap();
        assert_eq!(look(&disk).unwrap(), Marks::Whole);
        disk.write_all_at(&[0; MARK], place(&disk, 3).unwrap()).unwrap();
        assert_eq!(look(&disk).unwrap(), Marks::Torn("the disk lacks 1 of 16 pages".into()));
        disk.write_all_at(&[0; MARK], 0).unwrap();
        assert!(matches!(look(&disk).unwrap(), Marks::Torn(_)));
        assert!(look(&File::create_new(dir.path().join("none")).unwrap()).is_err());
    }
}
