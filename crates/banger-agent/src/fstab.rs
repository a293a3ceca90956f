//! What of an image's table of file systems (fstab(5)) a sandbox can follow. Pure.

/// Types of file systems that need no disk.
const WITHOUT_DISK: [&[u8]; 9] =
    [b"tmpfs", b"ramfs", b"overlay", b"9p", b"nfs", b"nfs4", b"cifs", b"mqueue", b"hugetlbfs"];
/// Options of a line that shows a directory in another place.
const BIND: [&[u8]; 2] = [b"bind", b"rbind"];
/// What says why a line is not followed.
const LEFT_OUT: &[u8] = b"# left out, for this machine has no such disk: ";

/// The table with every line left out that speaks of a disk or of the root; none if there is no
/// such line, and the table can stay as it is.
pub(crate) fn without_disks(table: &[u8]) -> Option<Vec<u8>> {
    let mut changed = Vec::with_capacity(table.len());
    let mut any = false;
    for line in table.split_inclusive(|byte| *byte == b'\n') {
        if needs_disk(line) {
            any = true;
            changed.extend(LEFT_OUT);
        }
        changed.extend(line);
    }
    any.then_some(changed)
}

fn needs_disk(line: &[u8]) -> bool {
    let mut fields =
        line.split(|byte| byte.is_ascii_whitespace()).filter(|field| !field.is_empty());
    let Some(source) = fields.next().filter(|field| !field.starts_with(b"#")) else { return false };
    let (target, kind) = (fields.next().unwrap_or_default(), fields.next().unwrap_or_default());
    let mut options = fields.next().unwrap_or_default().split(|byte| *byte == b',');
    let elsewhere = WITHOUT_DISK.contains(&kind)
        || kind.starts_with(b"fuse")
        || options.any(|option| BIND.contains(&option))
        || source == b"proc"
        || source == b"sysfs"
        || source == b"devpts";
    target == b"/" || !elsewhere
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_disks_are_left_out_and_others_stay() {
        let stay = "# a comment\n\ntmpfs /data tmpfs size=1m 0 0\n/a /b none defaults,bind 0 0\n\
            host:/x /y nfs ro\nproc /proc proc defaults 0 0\nsshfs#u@h:/ /z fuse.sshfs defaults\n";
        assert_eq!(without_disks(stay.as_bytes()), None);
        let go = [
            "UUID=1-2 / ext4 errors=remount-ro 0 1\n",
            "/dev/vda2\t/home\text4\tdefaults 0 2\n",
            "LABEL=x none swap sw 0 0\n",
            "/swapfile none swap sw 0 0\n",
            "overlay / overlay defaults\n",
            "/dev/sr0 /media/cdrom0 udf,iso9660 user,noauto",
            "nonsense",
        ];
        for line in go {
            let table = format!("{stay}{line}");
            let ours = without_disks(table.as_bytes()).unwrap();
            let left_out = String::from_utf8_lossy(LEFT_OUT);
            assert_eq!(String::from_utf8(ours).unwrap(), format!("{stay}{left_out}{line}"));
        }
    }
}
