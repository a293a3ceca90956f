//! Digests of content that comes in pieces.

use std::io::{self, Read};

use banger_model::{Digest, DigestAlgorithm};
use sha2::{Digest as _, Sha256, Sha512};

/// Content is read in pieces of this size.
const CHUNK: usize = 128 * 1024;

/// A digest in the making.
#[derive(Clone, Debug)]
pub(super) enum Hasher {
    Sha256(Sha256),
    Sha512(Sha512),
}

impl Hasher {
    pub(super) fn new(algorithm: DigestAlgorithm) -> Self {
        match algorithm {
            DigestAlgorithm::Sha256 => Self::Sha256(Sha256::new()),
            DigestAlgorithm::Sha512 => Self::Sha512(Sha512::new()),
        }
    }

    pub(super) fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha256(hash) => hash.update(bytes),
            Self::Sha512(hash) => hash.update(bytes),
        }
    }

    pub(super) fn finish(self) -> Digest {
        match self {
            Self::Sha256(hash) => Digest::sha256(hash.finalize().into()),
            Self::Sha512(hash) => Digest::sha512(hash.finalize().into()),
        }
    }
}

/// The digest of these bytes.
pub(super) fn digest_of(algorithm: DigestAlgorithm, bytes: &[u8]) -> Digest {
    let mut hash = Hasher::new(algorithm);
    hash.update(bytes);
    hash.finish()
}

/// Reads to the end, and returns how many bytes that were.
pub(super) fn read_into(hash: &mut Hasher, source: &mut impl Read) -> io::Result<u64> {
    let mut chunk = vec![0; CHUNK];
    let mut len = 0;
    loop {
        match source.read(&mut chunk) {
            Ok(0) => return Ok(len),
            Ok(n) => {
                hash.update(&chunk[..n]);
                len += n as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_and_the_whole_have_one_digest() {
        for algorithm in [DigestAlgorithm::Sha256, DigestAlgorithm::Sha512] {
            let mut hash = Hasher::new(algorithm);
            hash.update(b"ab");
            assert_eq!(read_into(&mut hash, &mut b"c".as_slice()).unwrap(), 1);
            assert_eq!(hash.finish(), digest_of(algorithm, b"abc"));
        }
        // FIPS 180-2, appendix B.1.
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(digest_of(DigestAlgorithm::Sha256, b"abc").hex(), abc);
    }
}
