//! What catalogs say: their index, the manifests of bundles, and bundles themselves.

use std::io::Cursor;

use banger_image::catalog::{BundleManifest, ImageEntry, Index, KernelEntry, inspect_tar};
use banger_image::oci::Limits;
use banger_trust::{Sha256Digest, SignedDocument as _};

use crate::blocks::mended;

/// What is taken is written so that it reads back as the same, leads nowhere but below its index,
/// and is pinned.
pub(crate) fn catalog(bytes: &[u8]) {
    if let Ok(manifest) = BundleManifest::parse(bytes) {
        assert_eq!(BundleManifest::parse(&manifest.to_json()), Ok(manifest));
    }
    let Ok(mut index) = Index::parse(bytes) else { return };
    for entry in index.images.values() {
        match entry {
            ImageEntry::Oci(reference) => assert!(reference.digest().is_some()),
            ImageEntry::Bundles(bundles) => {
                assert!(bundles.iter().all(|bundle| is_below(bundle.url.as_str())));
            }
            ImageEntry::Recipe(_) | ImageEntry::Unknown(_) => {}
        }
    }
    index.images.retain(|_, entry| !matches!(entry, ImageEntry::Unknown(_)));
    index.kernels.retain(|_, entry| !matches!(entry, KernelEntry::Unknown(_)));
    assert_eq!(Index::parse(&index.to_json()), Ok(index));
}

fn is_below(place: &str) -> bool {
    !place.contains(['?', '#', '%', ':', '\\'])
        && place.split('/').all(|part| !part.is_empty() && !part.starts_with('.'))
}

/// What is taken holds every byte that its manifest promises.
pub(crate) fn bundle(bytes: &[u8]) {
    for bytes in [bytes.to_vec(), mended(bytes)] {
        let limits = Limits::default();
        let Ok(manifest) = inspect_tar(&mut Cursor::new(&bytes), &limits) else { continue };
        assert!(manifest.size() <= bytes.len() as u64);
        for member in manifest.members {
            let len = usize::try_from(member.size).unwrap_or(usize::MAX);
            let holds = len == 0
                || bytes.chunks(512).enumerate().any(|(at, _)| {
                    let rest = &bytes[at * 512..];
                    rest.get(..len).is_some_and(|it| Sha256Digest::of(it) == member.sha256)
                });
            assert!(holds, "{} is not in it", member.name);
        }
    }
}
