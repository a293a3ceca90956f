//! How much one image is made from, in however many archives.
//!
//! Entries are counted as they are read, so that what is too much is never in memory.

use super::{ArchiveError, Entry, Kind};
use crate::budget::Budget;
use crate::until::Until;

/// Most entries: several times what the largest distributions unpack to.
pub const MAX_ENTRIES: u64 = 2_000_000;
/// Most bytes of file content.
pub const MAX_CONTENT: u64 = 1 << 40;
/// Most bytes that are zeros because an archive says nothing of them: they cost no space, but the
/// time to pass over them.
pub const MAX_HOLES: u64 = 64 << 30;
/// Most bytes of memory that the entries take, with names, targets and extended attributes.
pub const MAX_METADATA: u64 = 512 << 20;

/// What is still taken. Archives that are read at once share it.
#[derive(Debug)]
pub struct Quota<'a> {
    content: Budget,
    holes: Budget,
    metadata: Budget,
    entries: Budget,
    exceeded: fn(&'static str) -> ArchiveError,
    until: Until<'a>,
}

impl<'a> Quota<'a> {
    /// That of an archive which stands for itself.
    pub fn of_archive() -> Self {
        Self::new(ArchiveError::TooMuch)
    }

    /// That of all layers of an image together.
    pub fn of_image() -> Self {
        Self::new(ArchiveError::TooMuchInAll)
    }

    fn new(exceeded: fn(&'static str) -> ArchiveError) -> Self {
        Self {
            content: Budget::of(MAX_CONTENT),
            holes: Budget::of(MAX_HOLES),
            metadata: Budget::of(MAX_METADATA),
            entries: Budget::of(MAX_ENTRIES),
            exceeded,
            until: Until::default(),
        }
    }

    /// The same, of which nothing is left when nobody wants what is made any more.
    #[must_use]
    pub fn until(self, until: Until<'a>) -> Self {
        Self { until, ..self }
    }

    /// Takes what one entry needs.
    pub(super) fn take(&self, entry: &Entry) -> Result<(), ArchiveError> {
        if self.until.is_over() {
            return Err(ArchiveError::CalledOff);
        }
        let (content, holes) = match &entry.kind {
            Kind::File(file) => (file.len(), file.holes()),
            _ => (0, 0),
        };
        let wanted = [
            (&self.content, content, "1 TiB of content"),
            (&self.holes, holes, "64 GiB of holes"),
            (&self.metadata, entry.metadata_len() as u64, "512 MiB of names and attributes"),
            (&self.entries, 1, "2,000,000 entries"),
        ];
        for (left, amount, what) in wanted {
            left.take(amount).map_err(|_| (self.exceeded)(what))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::{Content, Extent};

    fn with(kind: Kind) -> Entry {
        Entry { kind, ..Entry::file("f", Vec::new(), (0, 0)) }
    }

    /// A file of so many bytes, of which the last `stored` are in the archive.
    fn sparse(len: u64, stored: u64) -> Entry {
        let extents = vec![Extent { at: len - stored, len: stored, offset: 512 }];
        with(Kind::File(Content::Sparse { extents, len }))
    }

    /// How often this is taken before it is too much, and what is said then.
    fn until_full(quota: &Quota<'_>, entry: &Entry) -> (u64, String) {
        let mut taken = 0;
        loop {
            match quota.take(entry) {
                Ok(()) => taken += 1,
                Err(error) => return (taken, error.to_string()),
            }
        }
    }

    #[test]
    fn each_bound_is_of_all_archives_together_and_is_named() {
        let (quota, quarter) = (Quota::of_image(), 16 << 30);
        let (taken, said) = until_full(&quota, &sparse(quarter, 0));
        assert_eq!(
            (taken, said.as_str()),
            (4, "the image has more than 64 GiB of holes in all its layers")
        );
        let (taken, said) = until_full(&quota, &sparse(1 << 37, 1 << 37));
        assert_eq!(taken, 7, "what the holes took is content, too");
        assert!(said.contains("1 TiB of content"), "{said}");
        let (quota, long) = (Quota::of_archive(), with(Kind::Symlink(vec![b'x'; 1 << 20].into())));
        let (taken, said) = until_full(&quota, &long);
        assert_eq!(
            (taken, said.as_str()),
            (511, "the archive has more than 512 MiB of names and attributes")
        );
        let quota = Quota::of_archive();
        let (taken, said) = until_full(&quota, &with(Kind::Fifo));
        assert_eq!(taken, 2_000_000, "{said}");
    }
}
