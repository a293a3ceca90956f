//! PAX extended headers: `LENGTH KEY=VALUE\n` records (POSIX.1-2017, pax, "pax Header Block").

use super::sparse::{MAX_EXTENTS, Map};

/// What extended headers say of the entry that follows them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Extension {
    pub(super) path: Option<Vec<u8>>,
    pub(super) link: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    pub(super) uid: Option<u64>,
    pub(super) gid: Option<u64>,
    pub(super) mtime: Option<(i64, u32)>,
    pub(super) xattrs: Vec<(String, Vec<u8>)>,
    pub(super) sparse: Option<Sparse>,
}

/// What PAX records say of a file with holes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Sparse {
    /// Its size with its holes.
    pub(super) size: Option<u64>,
    /// Where it has bytes, if the records tell.
    pub(super) map: Map,
    /// Whether the map stands before its bytes instead.
    pub(super) map_is_before_content: bool,
    /// The place of a piece whose length is still to be told.
    begun: Option<u64>,
}

impl Sparse {
    fn set(&mut self, key: &[u8], value: &[u8]) -> Result<(), &'static str> {
        const BAD: &str = "a PAX record of a file with holes makes no sense";
        match key {
            b"size" | b"realsize" => self.size = Some(number(value).ok_or(BAD)?),
            b"major" => self.map_is_before_content = value == b"1",
            b"map" => self.map = Map::of_record(value).ok_or(BAD)?,
            b"offset" => self.begun = Some(number(value).ok_or(BAD)?),
            b"numbytes" if self.map.0.len() < MAX_EXTENTS => {
                let at = self.begun.take().ok_or(BAD)?;
                self.map.0.push((at, number(value).ok_or(BAD)?));
            }
            b"numbytes" => return Err(BAD),
            // How many there are shows, and there is no other minor version.
            _ => {}
        }
        Ok(())
    }
}

/// Key prefix under which archivers keep extended attributes.
const XATTR_PREFIX: &[u8] = b"SCHILY.xattr.";

/// Key prefix under which GNU tar tells of holes.
const SPARSE_PREFIX: &[u8] = b"GNU.sparse.";

/// Most extended attributes of one entry: more than fit on any common file system.
const MAX_XATTRS: usize = 256;

/// Most bytes of the extended attributes of one entry, as Linux has it (`XATTR_SIZE_MAX`).
const MAX_XATTR_LEN: usize = 64 * 1024;

impl Extension {
    /// What of this can be meant for every entry that follows. What is left out would be copied
    /// for each.
    pub(super) fn for_all(self) -> Self {
        Self { path: None, link: None, sparse: None, xattrs: Vec::new(), ..self }
    }

    /// Adds what these records say; `Err` tells what is wrong with them.
    pub(super) fn add(&mut self, mut records: &[u8]) -> Result<(), &'static str> {
        while !records.is_empty() {
            let (record, rest) = split_record(records).ok_or("a PAX record has a wrong length")?;
            let equals =
                record.iter().position(|b| *b == b'=').ok_or("a PAX record has no equals sign")?;
            self.set(&record[..equals], &record[equals + 1..])?;
            records = rest;
        }
        Ok(())
    }

    fn set(&mut self, key: &[u8], value: &[u8]) -> Result<(), &'static str> {
        match key {
            // Whatever a record before it said, the header counts again (POSIX, "pax Header").
            b"path" if value.is_empty() => self.path = None,
            b"linkpath" if value.is_empty() => self.link = None,
            b"size" if value.is_empty() => self.size = None,
            b"uid" if value.is_empty() => self.uid = None,
            b"gid" if value.is_empty() => self.gid = None,
            b"mtime" if value.is_empty() => self.mtime = None,
            b"path" => self.path = Some(value.to_vec()),
            b"linkpath" => self.link = Some(value.to_vec()),
            b"size" => self.size = Some(number(value).ok_or("its PAX size is no number")?),
            b"uid" => self.uid = Some(number(value).ok_or("its PAX uid is no number")?),
            b"gid" => self.gid = Some(number(value).ok_or("its PAX gid is no number")?),
            b"mtime" => self.mtime = Some(time(value).ok_or("its PAX mtime is no time")?),
            _ => {
                if let Some(name) = key.strip_prefix(XATTR_PREFIX) {
                    let name = std::str::from_utf8(name)
                        .map_err(|_| "the name of an extended attribute is not UTF-8")?;
                    self.xattrs.retain(|(known, _)| known != name);
                    if self.xattrs.len() == MAX_XATTRS {
                        return Err("it has more than 256 extended attributes");
                    }
                    let known = self.xattrs.iter().map(|(name, value)| name.len() + value.len());
                    if known.sum::<usize>() + name.len() + value.len() > MAX_XATTR_LEN {
                        return Err("its extended attributes take more than 64 KiB");
                    }
                    self.xattrs.push((name.to_owned(), value.to_vec()));
                }
                match key.strip_prefix(SPARSE_PREFIX) {
                    Some(b"name") => self.path = Some(value.to_vec()),
                    Some(key) => self.sparse.get_or_insert_default().set(key, value)?,
                    None => {}
                }
            }
        }
        Ok(())
    }
}

/// The first record without its length and newline, and what follows it.
fn split_record(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let space = bytes.iter().take(20).position(|b| *b == b' ')?;
    let len = usize::try_from(number(&bytes[..space])?).ok()?;
    if len <= space + 1 || len > bytes.len() || bytes[len - 1] != b'\n' {
        return None;
    }
    Some((&bytes[space + 1..len - 1], &bytes[len..]))
}

fn number(bytes: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(bytes).ok()?;
    if text.starts_with('+') { None } else { text.parse().ok() }
}

/// A decimal number of seconds, which may be negative, with any number of decimal places.
fn time(bytes: &[u8]) -> Option<(i64, u32)> {
    let text = std::str::from_utf8(bytes).ok()?;
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    if !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let seconds: i64 = whole.parse().ok()?;
    let digits: String = fraction.chars().chain("000000000".chars()).take(9).collect();
    let nanos: u32 = digits.parse().ok()?;
    if whole.starts_with('-') && nanos > 0 {
        // Nanoseconds count forward from the second before.
        return Some((seconds.checked_sub(1)?, 1_000_000_000 - nanos));
    }
    Some((seconds, nanos))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(records: &[u8]) -> Extension {
        let mut extension = Extension::default();
        extension.add(records).unwrap();
        extension
    }

    #[test]
    fn records_say_what_headers_cannot() {
        let found = parsed(b"9 path=a\n14 size=12345\n25 mtime=1350244992.0239\n");
        assert_eq!(found.path.as_deref(), Some(&b"a"[..]));
        assert_eq!(found.size, Some(12345));
        assert_eq!(found.mtime, Some((1_350_244_992, 23_900_000)));
    }

    #[test]
    fn an_empty_value_takes_what_was_said_back() {
        let all = b"9 path=a\n14 linkpath=b\n9 size=1\n8 uid=1\n8 gid=1\n11 mtime=1\n";
        let taken_back = b"8 path=\n13 linkpath=\n8 size=\n7 uid=\n7 gid=\n9 mtime=\n";
        assert_eq!(parsed(&[&all[..], taken_back].concat()), Extension::default());
    }

    #[test]
    fn attribute_values_are_any_bytes_and_the_last_one_counts() {
        let found = parsed(b"25 SCHILY.xattr.user.x=a\n25 SCHILY.xattr.user.x=\n\n");
        assert_eq!(found.xattrs, [("user.x".to_owned(), b"\n".to_vec())]);
    }

    #[test]
    fn times_before_1970_count_forward_from_their_second() {
        assert_eq!(time(b"-1.25"), Some((-2, 750_000_000)));
        assert_eq!(time(b"-1"), Some((-1, 0)));
        assert_eq!(time(b"5.1234567891"), Some((5, 123_456_789)));
        assert_eq!(time(b"5.x"), None);
        assert_eq!(time(b""), None);
    }

    #[test]
    fn records_of_wrong_length_are_refused() {
        for bad in [&b"8 path=a\n"[..], b"11 path=a\n", b"path=a\n", b"3 a", b" \n", b"0 \n"] {
            assert!(Extension::default().add(bad).is_err(), "{bad:?}");
        }
    }
}
