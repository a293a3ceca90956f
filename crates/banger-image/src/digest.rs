//! SHA-256 of files and bytes, as lowercase hex.

use std::io::Read as _;
use std::path::Path;

use banger_host::Result;
use banger_host::error::AtPath as _;
use banger_host::fs::open_file;
use sha2::{Digest as _, Sha256};

/// Files are read in pieces of this size: small enough that many readers at once need next to
/// no memory.
const CHUNK: usize = 64 * 1024;

/// The digest of these bytes.
pub(crate) fn sha256(bytes: &[u8]) -> String {
    hex(Sha256::digest(bytes).as_slice())
}

/// The digest of a whole file.
pub(crate) fn sha256_file(path: &Path) -> Result<String> {
    let mut file = open_file(path)?;
    let mut hash = Sha256::new();
    let mut chunk = vec![0; CHUNK];
    loop {
        match file.read(&mut chunk).at("read", path)? {
            0 => return Ok(hex(hash.finalize().as_slice())),
            n => hash.update(&chunk[..n]),
        }
    }
}

fn hex(digest: &[u8]) -> String {
    use std::fmt::Write as _;
    digest.iter().fold(String::with_capacity(64), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_and_files_agree_with_the_standard() {
        // FIPS 180-2, appendix B.1.
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(sha256(b"abc"), abc);
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("abc");
        banger_host::fs::write_atomic(&path, b"abc").unwrap();
        assert_eq!(sha256_file(&path).unwrap(), abc);
    }
}
