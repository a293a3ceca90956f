//! POSIX access control lists: from the form in which programs see them to that of ext4.
//!
//! `getxattr(2)` gives version 2: every entry has a 32-bit id. On the disk ext4 keeps version 1,
//! in which only entries for a named user or group have one (Linux, fs/ext4/acl.h). The kernel
//! refuses to read a list in the wrong form.

/// Version number of lists as programs see them.
const SEEN_VERSION: u32 = 2;
/// Version number of lists on the disk.
const DISK_VERSION: u32 = 1;
/// Size of a version 2 entry: tag, permissions, id.
const SEEN_ENTRY: usize = 8;
/// Most entries: what one block of extended attributes could hold at best.
const MAX_ENTRIES: usize = 1024;

/// Tags of entries (acl(5)), as Linux numbers them.
const TAG_USER_OBJ: u16 = 0x01;
const TAG_USER: u16 = 0x02;
const TAG_GROUP_OBJ: u16 = 0x04;
const TAG_GROUP: u16 = 0x08;
const TAG_MASK: u16 = 0x10;
const TAG_OTHER: u16 = 0x20;

/// The same list as ext4 keeps it; `None` when the bytes are no list.
pub fn acl_to_ext4(seen: &[u8]) -> Option<Vec<u8>> {
    let (version, entries) = seen.split_first_chunk::<4>()?;
    let whole = entries.len().is_multiple_of(SEEN_ENTRY);
    if u32::from_le_bytes(*version) != SEEN_VERSION || !whole {
        return None;
    }
    if entries.len() / SEEN_ENTRY > MAX_ENTRIES {
        return None;
    }
    let mut disk = DISK_VERSION.to_le_bytes().to_vec();
    for entry in entries.chunks_exact(SEEN_ENTRY) {
        let tag = u16::from_le_bytes([entry[0], entry[1]]);
        match tag {
            TAG_USER | TAG_GROUP => disk.extend_from_slice(entry),
            TAG_USER_OBJ | TAG_GROUP_OBJ | TAG_MASK | TAG_OTHER => {
                disk.extend_from_slice(&entry[..4]);
            }
            _ => return None,
        }
    }
    Some(disk)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_named_entries_keep_their_id() {
        let mut seen = 2u32.to_le_bytes().to_vec();
        for (tag, perm, id) in [(1u16, 7u16, u32::MAX), (2, 6, 1000), (4, 5, u32::MAX), (8, 4, 7)] {
            seen.extend(tag.to_le_bytes());
            seen.extend(perm.to_le_bytes());
            seen.extend(id.to_le_bytes());
        }
        let disk =
            [1, 0, 0, 0, 1, 0, 7, 0, 2, 0, 6, 0, 0xe8, 3, 0, 0, 4, 0, 5, 0, 8, 0, 4, 0, 7, 0, 0, 0];
        assert_eq!(acl_to_ext4(&seen).unwrap(), disk);
    }

    #[test]
    fn other_bytes_are_no_list() {
        for bad in
            [&b""[..], b"\x01\0\0\0", b"\x02\0\0\0\x01", b"\x02\0\0\0\x03\0\x07\0\xff\xff\xff\xff"]
        {
            assert_eq!(acl_to_ext4(bad), None, "{bad:?}");
        }
    }
}
