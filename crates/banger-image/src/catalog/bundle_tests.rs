//! Bundles that are good, and those that mean harm.

use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;

use banger_model::Silent;
use banger_testkit::bundle::bundle_of;
use serde_json::json;

use super::super::manifest::{BundleContent, ImageContent};
use super::*;
use crate::image::{ImageConfig, ROOT};

/// A root file system with a hole in it.
fn root() -> Vec<u8> {
    let mut bytes = b"begin".to_vec();
    bytes.resize(1 << 20, 0);
    bytes.extend(b"end");
    bytes.resize((1 << 20) + 100_000, 0);
    bytes
}

fn manifest_of(root: &[u8]) -> BundleManifest {
    let content =
        ImageContent { source: "a test".to_owned(), config: ImageConfig::default(), kernel: None };
    let sha256 = Sha256Digest::of(root);
    BundleManifest {
        architecture: "amd64".to_owned(),
        content: BundleContent::Image(Box::new(content)),
        members: vec![Member { name: ROOT, size: root.len() as u64, sha256 }],
    }
}

fn packed(root: &[u8]) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    fs::write_atomic(&dir.path().join(ROOT), root).unwrap();
    let target = dir.path().join("bundle");
    let file = fs::create_new(&target).unwrap();
    let packed = pack(&manifest_of(root), dir.path(), &file, &Silent).unwrap();
    let bytes = fs::read_bounded(&target, 1 << 30).unwrap();
    assert_eq!((packed.size, packed.sha256), (bytes.len() as u64, Sha256Digest::of(&bytes)));
    bytes
}

struct Unpacked {
    dir: tempfile::TempDir,
    result: Result<BundleManifest, BundleError>,
}

impl Unpacked {
    fn of(bundle: &[u8]) -> Self {
        Self::within(bundle, &Limits::default())
    }

    fn within(bundle: &[u8], limits: &Limits) -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_private_dir(&dir.path().join("in")).unwrap();
        let into = Place::Dir(&dir.path().join("in"));
        let compressed = bundle.len() as u64;
        let called_off = &AtomicBool::new(false);
        let result = Unpack { limits, compressed, into, called_off, progress: &Silent }
            .run(io::Cursor::new(bundle.to_vec()));
        let unpacked = Self { dir, result };
        assert_eq!(fs::list_dir(unpacked.dir.path()).unwrap(), ["in"], "something beside it");
        for name in fs::list_dir(&unpacked.place()).unwrap() {
            assert_eq!(name, ROOT, "another file than a known one");
        }
        unpacked
    }

    fn place(&self) -> PathBuf {
        self.dir.path().join("in")
    }

    fn said(&self) -> String {
        let error = self.result.as_ref().unwrap_err();
        let mut text = error.to_string();
        let mut cause = std::error::Error::source(error);
        while let Some(inner) = cause {
            text += &format!(": {inner}");
            cause = inner.source();
        }
        text
    }
}

#[test]
fn what_was_packed_comes_out_with_its_holes_and_is_always_the_same_bytes() {
    let root = root();
    let bundle = packed(&root);
    assert!(bundle == packed(&root), "two bundles of the same differ");
    let unpacked = Unpacked::of(&bundle);
    assert_eq!(*unpacked.result.as_ref().unwrap(), manifest_of(&root));
    let file = unpacked.place().join(ROOT);
    assert!(fs::read_bounded(&file, 1 << 30).unwrap() == root);
    let real = std::fs::metadata(&file).unwrap().blocks() * 512;
    assert!(real < 256 * 1024, "{real} bytes where most are holes");
}

#[test]
fn a_bundle_that_is_cut_off_or_damaged_is_refused() {
    let bundle = packed(&root());
    for len in [0, 1, 4, bundle.len() / 2, bundle.len() - 1] {
        assert!(Unpacked::of(&bundle[..len]).result.is_err(), "{len}");
    }
    for at in (0..bundle.len()).step_by(7) {
        let mut damaged = bundle.clone();
        damaged[at] ^= 0x10;
        // The frame's header has bits that change nothing.
        let unpacked = Unpacked::of(&damaged);
        if unpacked.result.is_ok() {
            let same = fs::read_bounded(&unpacked.place().join(ROOT), 1 << 30).unwrap();
            assert!(same == root(), "another content after a change at {at}");
        }
    }
}

#[test]
fn only_the_members_that_are_due_are_taken() {
    let root = b"hello".as_slice();
    let about = manifest_of(root).to_json();
    let file = EntryType::Regular;
    let good = [(MANIFEST, file, about.as_slice()), (ROOT, file, root)];
    assert!(Unpacked::of(&bundle_of(&good)).result.is_ok());
    type Member<'a> = (&'a str, EntryType, &'a [u8]);
    let with = |member: Member<'_>| Unpacked::of(&bundle_of(&[good[0], member])).said();
    for name in ["../root.ext4", "/etc/passwd", "./root.ext4", "root.ext4/", "x", MANIFEST, ""] {
        let said = with((name, file, root));
        assert!(said.contains("where root.ext4 is due"), "{name}: {said}");
    }
    for kind in [
        EntryType::Symlink,
        EntryType::Link,
        EntryType::Directory,
        EntryType::Char,
        EntryType::Block,
        EntryType::Fifo,
        EntryType::GNUSparse,
        EntryType::XHeader,
        EntryType::GNULongName,
        EntryType::Continuous,
    ] {
        let said = with((ROOT, kind, root));
        assert!(said.contains("where root.ext4 is due"), "{kind:?}: {said}");
    }
    assert!(with((ROOT, file, b"hellO")).contains("instead of sha256:"));
    assert!(with((ROOT, file, b"hell")).contains("4 bytes instead of 5"));
    assert!(Unpacked::of(&bundle_of(&good[..1])).said().contains("\"its end\""));
    assert!(Unpacked::of(&bundle_of(&good[1..])).said().contains("where bundle.json is due"));
    let more = [good[0], good[1], ("../x", file, root)];
    assert!(Unpacked::of(&bundle_of(&more)).said().contains("goes on behind"));
    let twice = [good[0], good[1], good[1]];
    assert!(Unpacked::of(&bundle_of(&twice)).said().contains("goes on behind"));
}

#[test]
fn a_manifest_that_is_too_long_or_none_is_refused() {
    let long = vec![b' '; MAX_MANIFEST + 1];
    let of =
        |bytes: &[u8]| Unpacked::of(&bundle_of(&[(MANIFEST, EntryType::Regular, bytes)])).said();
    assert!(of(&long).contains("524289 bytes instead of 524288"), "{}", of(&long));
    assert!(of(b"{}").contains("of no use"), "{}", of(b"{}"));
    let mut newer: serde_json::Value = serde_json::from_slice(&manifest_of(b"").to_json()).unwrap();
    newer["schema"] = json!("banger-bundle/9");
    assert!(of(newer.to_string().as_bytes()).contains("update banger"));
}

#[test]
fn bombs_are_refused_before_they_fill_the_disk() {
    let limits = Limits {
        max_unpacked: Bytes::mib(4),
        max_ratio: 10,
        ratio_free: Bytes::kib(64),
        ..Limits::default()
    };
    let hollow = packed(&vec![0; 4 << 20]);
    assert!(Unpacked::within(&hollow, &limits).result.is_ok(), "holes are no bomb");
    let dense = Unpacked::within(&packed(&vec![7; 4 << 20]), &limits);
    assert!(dense.said().contains("more than 10 times its size"), "{}", dense.said());
    let written = fs::file_size(&dense.place().join(ROOT)).unwrap().apparent;
    assert!(written < Bytes::mib(1), "{written} written of a bomb");
    let large = Unpacked::within(&packed(&vec![0; (4 << 20) + 1]), &limits);
    assert!(large.said().contains("images.max_unpacked"), "{}", large.said());
    assert!(fs::list_dir(&large.place()).unwrap().is_empty(), "refused before anything is written");
    // The same bomb behind the last member.
    let about = manifest_of(b"").to_json();
    let zeros = vec![0; 1 << 20];
    let file = EntryType::Regular;
    let mut plain =
        zstd::decode_all(bundle_of(&[(MANIFEST, file, &about), (ROOT, file, b"")]).as_slice())
            .unwrap();
    plain.extend_from_slice(&zeros);
    let trailing = Unpacked::of(&zstd::encode_all(plain.as_slice(), 1).unwrap());
    assert!(trailing.said().contains("goes on behind"), "{}", trailing.said());
}

#[test]
fn what_is_called_off_ends() {
    let bundle = packed(&root());
    let (limits, called_off) = (&Limits::default(), &AtomicBool::new(true));
    let unpack =
        Unpack { limits, compressed: 1, into: Place::Nowhere, called_off, progress: &Silent };
    let ended = unpack.run(io::Cursor::new(bundle)).unwrap_err();
    assert!(matches!(ended, BundleError::CalledOff), "{ended}");
}

#[test]
fn a_file_that_is_not_what_its_manifest_says_is_not_packed() {
    let dir = tempfile::tempdir().unwrap();
    let file = fs::create_new(&dir.path().join("bundle")).unwrap();
    let pack_with = |bytes: &[u8]| {
        fs::write_atomic(&dir.path().join(ROOT), bytes).unwrap();
        pack(&manifest_of(b"hello"), dir.path(), &file, &Silent).unwrap_err().to_string()
    };
    assert!(pack_with(b"hellO").contains("instead of sha256:"));
    assert!(pack_with(b"hell").contains("4 bytes instead of 5"));
}
