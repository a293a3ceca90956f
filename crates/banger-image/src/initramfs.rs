//! The initramfs: a cpio archive in the "newc" format, as the kernel unpacks it at boot.
//!
//! It is not compressed: under TCG a guest takes longer to unpack it than to read it. Archives
//! may stand one behind the other, so the part with a kernel's boot modules is made once, and
//! the part with the init program when that is known (Linux,
//! Documentation/driver-api/early-userspace/buffer-format.rst).

/// Name of the entry that ends an archive.
const TRAILER: &str = "TRAILER!!!";
/// Names, contents and archives are padded to multiples of this.
const ALIGN: usize = 4;

/// File types, the upper bits of the mode (inode(7)).
const DIRECTORY: u32 = 0o040_000;
const REGULAR: u32 = 0o100_000;
const CHARACTER: u32 = 0o020_000;

/// An archive in the making. Everything in it belongs to root and has no time.
#[derive(Debug, Default)]
pub(crate) struct Cpio {
    bytes: Vec<u8>,
    entries: u32,
}

impl Cpio {
    /// Adds a directory; its parent must be there.
    pub(crate) fn directory(&mut self, path: &str, permissions: u32) {
        self.entry(path, DIRECTORY | permissions, (0, 0), &[]);
    }

    /// Adds a file of at most 4 GiB less one byte; the rest would be cut off.
    pub(crate) fn file(&mut self, path: &str, permissions: u32, content: &[u8]) {
        self.entry(path, REGULAR | permissions, (0, 0), content);
    }

    /// Adds a character device.
    pub(crate) fn character_device(&mut self, path: &str, permissions: u32, number: (u32, u32)) {
        self.entry(path, CHARACTER | permissions, number, &[]);
    }

    /// The archive.
    pub(crate) fn finish(mut self) -> Vec<u8> {
        self.entry(TRAILER, 0, (0, 0), &[]);
        self.bytes
    }

    fn entry(&mut self, path: &str, mode: u32, device: (u32, u32), content: &[u8]) {
        let size = u32::try_from(content.len()).unwrap_or(u32::MAX);
        let name_len = u32::try_from(path.len() + 1).unwrap_or(u32::MAX);
        self.entries += 1;
        // inode, mode, uid, gid, links, time, size, device, number, name length, check sum.
        let fields = [self.entries, mode, 0, 0, 1, 0, size, 0, 0, device.0, device.1, name_len, 0];
        self.bytes.extend(b"070701");
        for field in fields {
            self.bytes.extend(format!("{field:08X}").bytes());
        }
        self.bytes.extend(path.bytes());
        self.bytes.push(0);
        self.align();
        self.bytes.extend(content);
        self.align();
    }

    fn align(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(ALIGN), 0);
    }
}

/// The part of an initramfs that a kernel brings: a console to write to, and its boot modules
/// in the order in which to load them, as file name and content.
pub(crate) fn boot_part(modules: &[(String, Vec<u8>)]) -> Vec<u8> {
    let mut cpio = Cpio::default();
    cpio.directory("dev", 0o755);
    cpio.character_device("dev/console", 0o600, (5, 1));
    cpio.directory("modules", 0o755);
    let mut order = String::new();
    for (name, content) in modules {
        cpio.file(&format!("modules/{name}"), 0o644, content);
        order.push_str(name);
        order.push('\n');
    }
    cpio.file("modules/order", 0o644, order.as_bytes());
    cpio.finish()
}

/// The part of an initramfs that starts the given program as the first process.
pub(crate) fn init_part(program: &[u8]) -> Vec<u8> {
    let mut cpio = Cpio::default();
    cpio.file("init", 0o755, program);
    cpio.finish()
}

/// How long that part is for a program of so many bytes.
pub(crate) fn init_part_len(program: u64) -> u64 {
    init_part(&[]).len() as u64 + program.next_multiple_of(ALIGN as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use banger_host::command::Tool;
    use std::time::Duration;

    /// Reads names, modes and contents back from one archive after the other.
    fn read(mut bytes: &[u8]) -> Vec<(String, u32, Vec<u8>)> {
        let mut found = Vec::new();
        while !bytes.is_empty() {
            assert_eq!(&bytes[..6], b"070701");
            let field = |n: usize| {
                let hex = std::str::from_utf8(&bytes[6 + 8 * n..14 + 8 * n]).unwrap();
                u32::from_str_radix(hex, 16).unwrap()
            };
            let (mode, size, name_len) = (field(1), field(6) as usize, field(11) as usize);
            let name = String::from_utf8(bytes[110..110 + name_len - 1].to_vec()).unwrap();
            let content = (110 + name_len).next_multiple_of(4);
            found.push((name, mode, bytes[content..content + size].to_vec()));
            bytes = &bytes[(content + size).next_multiple_of(4)..];
        }
        found
    }

    #[test]
    fn two_parts_make_one_initramfs() {
        let modules = [("00-a.ko".to_owned(), b"AAAAA".to_vec()), ("01-b.ko".to_owned(), vec![])];
        let mut archive = boot_part(&modules);
        archive.extend(init_part(b"#!agent"));
        let found = read(&archive);
        let names: Vec<_> = found.iter().map(|(name, ..)| name.as_str()).collect();
        let expected = [
            "dev",
            "dev/console",
            "modules",
            "modules/00-a.ko",
            "modules/01-b.ko",
            "modules/order",
            TRAILER,
            "init",
            TRAILER,
        ];
        assert_eq!(names, expected);
        assert_eq!(found[1].1, 0o020_600);
        assert_eq!(found[3].2, b"AAAAA");
        assert_eq!(found[5].2, b"00-a.ko\n01-b.ko\n");
        assert_eq!((found[7].1, &found[7].2[..]), (0o100_755, &b"#!agent"[..]));
    }

    #[test]
    fn cpio_itself_lists_it() {
        let listed = Tool::new("cpio").args(["-tv", "--quiet"]).input(boot_part(&[]));
        match listed.capture(Duration::from_secs(10)) {
            Ok(out) => {
                let text = String::from_utf8_lossy(&out).into_owned();
                assert!(text.contains("crw-------"), "{text}");
                assert!(text.contains("modules/order"), "{text}");
            }
            Err(banger_host::HostError::NoProgram { .. }) => {
                banger_testkit::skipped("cpio is not installed");
            }
            Err(error) => panic!("{error}"),
        }
    }

    #[test]
    fn the_length_of_the_part_with_the_program_is_known_without_it() {
        for len in [0_usize, 1, 3, 4, 1001] {
            assert_eq!(init_part_len(len as u64), init_part(&vec![7; len]).len() as u64);
        }
    }
}
