//! What registries and archives of containers say: references, manifests, configs, indexes,
//! challenges.

use banger_image::oci::document::{Document, MAX_MANIFEST, parse_config, parse_document};
use banger_image::oci::{
    Limits, Platform, Source, choose_laid_out, choose_saved, parse_challenges,
};
use banger_model::{Digest, ImageName, ImageReference};

/// A reference that is taken reads back as it is shown, in both forms, and makes a name.
pub(crate) fn oci_reference(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(digest) = text.parse::<Digest>() {
        assert_eq!(digest.to_string(), text);
        assert!(digest.hex().bytes().all(|b| b.is_ascii_hexdigit()));
    }
    let _ = text.parse::<Source>();
    let Ok(reference) = text.parse::<ImageReference>() else { return };
    assert_eq!(reference.to_string().parse(), Ok(reference.clone()));
    assert_eq!(reference.familiar().parse(), Ok(reference.clone()));
    let name = reference.default_name();
    assert_eq!(name.as_str().parse::<ImageName>(), Ok(name));
    // It becomes a part of addresses.
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"/._-".contains(&b);
    assert!(reference.repository().bytes().all(plain) && !reference.repository().contains(".."));
    assert!(!reference.repository().starts_with('/'));
    assert!(reference.tag().is_none_or(|tag| tag.bytes().all(plain) && !tag.contains('/')));
    assert!(reference.registry().bytes().all(|b| plain(b) || b"[]:".contains(&b)));
    assert!(reference.tag().is_some() || reference.digest().is_some());
}

/// What is taken keeps to the limits.
pub(crate) fn oci_document(bytes: &[u8]) {
    let limits = Limits::default();
    let platform = Platform { architecture: "amd64".to_owned(), variant: None };
    for told in [None, Some("application/vnd.oci.image.index.v1+json")] {
        match parse_document(bytes, told, &limits) {
            Err(_) => {}
            Ok(Document::Manifest(manifest)) => {
                assert!(bytes.len() as u64 <= MAX_MANIFEST.get() && told.is_none());
                assert!(manifest.layers.len() <= limits.max_layers);
                let sum = manifest.layers.iter().try_fold(0u64, |sum, l| sum.checked_add(l.size));
                assert!(sum.is_some_and(|sum| sum <= limits.max_image.get()));
            }
            Ok(Document::Index(index)) => {
                let Ok(chosen) = index.select(&platform) else { continue };
                let system = chosen.platform.as_ref().map(|p| (p.os.as_str(), &*p.architecture));
                assert!(system.is_none_or(|system| system == ("linux", "amd64")));
            }
        }
    }
    let _ = parse_config(bytes);
}

/// What is taken of an archive is one image within the limits.
pub(crate) fn oci_archive(bytes: &[u8]) {
    let limits = Limits::default();
    let platform = Platform { architecture: "amd64".to_owned(), variant: None };
    if let Ok(image) = choose_saved(bytes, None, &limits) {
        assert!(image.layers.len() <= limits.max_layers);
        for reference in image.references() {
            assert!(choose_saved(bytes, Some(&reference), &limits).is_ok());
        }
    }
    let _ = choose_laid_out(bytes, None, &platform);
    if let Ok(chosen) = choose_laid_out(bytes, Some("v1"), &platform) {
        assert!(chosen.annotations.values().any(|name| name == "v1"));
    }
}

/// Words of challenges are words.
pub(crate) fn oci_challenge(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    for challenge in parse_challenges(text) {
        let names = challenge.params.iter().map(|(name, _)| name).chain([&challenge.scheme]);
        for name in names {
            assert!(!name.is_empty() && !name.contains([' ', ',', '"', '=']), "{name:?}");
            assert!(!name.contains(|c: char| c.is_ascii_uppercase()), "{name:?}");
        }
    }
}
