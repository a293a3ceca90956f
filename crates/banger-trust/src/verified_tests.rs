//! What is believed and what is not.

use super::*;
use crate::key::SecretKey;
use crate::{DocumentError, Freshness, Manifest};

#[derive(Debug)]
struct Note(Vec<u8>);

impl SignedDocument for Note {
    const NAME: &'static str = "the note";
    const MAX_LEN: usize = 100;

    fn parse(bytes: &[u8]) -> Result<Self, DocumentError> {
        Ok(Self(bytes.to_vec()))
    }

    fn freshness(&self) -> Freshness {
        Freshness::default()
    }
}

fn secret(seed: u8) -> SecretKey {
    SecretKey::from_seed([seed; 32])
}

fn trust(seeds: &[u8]) -> Trust {
    Trust::Keys(KeySet::new(seeds.iter().map(|seed| secret(*seed).public())).unwrap())
}

fn refusal(outcome: Result<Verified<Note>, OpenError>) -> Unverified {
    match outcome.unwrap_err() {
        OpenError::Unverified(why) => why,
        other @ OpenError::Document(_) => panic!("{other}"),
    }
}

#[test]
fn any_trusted_key_may_have_signed_and_it_is_known_which() {
    let signature = secret(2).sign(b"text");
    let note: Verified<Note> = trust(&[1, 2]).open(b"text", Some(&signature)).unwrap();
    assert_eq!(note.get().0, b"text");
    assert_eq!(*note.signed_by(), SignedBy::Key(secret(2).public().id()));
}

#[test]
fn t02_a_signature_of_other_bytes_or_by_another_key_is_none() {
    let signature = secret(1).sign(b"text");
    let by = |seeds: &[u8], bytes: &[u8]| refusal(trust(seeds).open(bytes, Some(&signature)));
    assert_eq!(by(&[2, 3], b"text"), Unverified::BadSignature);
    assert_eq!(by(&[1], b"texT"), Unverified::BadSignature);
    assert_eq!(by(&[1], b"text\n"), Unverified::BadSignature);
    assert_eq!(by(&[1], b""), Unverified::BadSignature);
}

#[test]
fn t02_a_document_of_another_kind_by_the_same_key_is_no_manifest() {
    let catalog = br#"{"schema": "catalog/1", "serial": 4, "version": "1.0.0"}"#;
    let signature = secret(1).sign(catalog);
    let error = trust(&[1]).open::<Manifest>(catalog, Some(&signature)).unwrap_err();
    assert!(matches!(error, OpenError::Document(_)), "{error}");
}

#[test]
fn t06_without_a_signature_nothing_is_believed_where_there_is_a_key() {
    assert_eq!(refusal(trust(&[1]).open(b"text", None)), Unverified::NotSigned);
    let insisted = Trust::InsistedWithoutKeys;
    let note: Verified<Note> = insisted.open(b"text", None).unwrap();
    assert_eq!(*note.signed_by(), SignedBy::NobodyAsInsisted);
    let expected = Expected { max_len: 10, len: None, digest: None };
    let check = trust(&[1]).check(note.signed_by(), None, expected).unwrap_err();
    assert_eq!(check, Unverified::NotSigned, "a file of a document that nobody signed");
}

#[test]
fn t07_the_same_key_twice_is_one_key() {
    let Trust::Keys(keys) = trust(&[1, 1, 1]) else { panic!("no keys") };
    assert_eq!(keys.iter().count(), 1);
}

#[test]
fn t13_the_files_of_a_release_are_signed_by_whoever_signed_its_manifest() {
    let trust = trust(&[1, 2]);
    let by = SignedBy::Key(secret(1).public().id());
    let expected = Expected { max_len: 10, len: Some(4), digest: Some(Sha256Digest::of(b"file")) };
    let run = |signer: u8, bytes: &[u8]| {
        let signature = secret(signer).sign(b"file");
        let mut check = trust.check(&by, Some(&signature), expected)?;
        bytes.chunks(3).try_for_each(|part| check.update(part))?;
        check.finish()
    };
    let content = run(1, b"file").unwrap();
    assert_eq!(*content.get(), Content { digest: Sha256Digest::of(b"file"), len: 4 });
    assert_eq!(run(2, b"file"), Err(Unverified::BadSignature));
    assert_eq!(run(1, b"fil"), Err(Unverified::Length { expected: 4, found: 3 }));
    assert_eq!(run(1, b"file "), Err(Unverified::TooLong { max: 4 }));
    assert!(matches!(run(1, b"filE"), Err(Unverified::Digest { .. })));
    let gone = SignedBy::Key(secret(3).public().id());
    assert!(matches!(trust.check(&gone, None, expected), Err(Unverified::UnknownKey(_))));
}

#[test]
fn n01_what_is_too_long_is_refused_before_its_end() {
    let expected = Expected { max_len: 5, len: None, digest: None };
    let insisted = Trust::InsistedWithoutKeys;
    let mut check = insisted.check(&SignedBy::NobodyAsInsisted, None, expected).unwrap();
    check.update(b"12345").unwrap();
    assert_eq!(check.update(b"6"), Err(Unverified::TooLong { max: 5 }));
    let long = [b'x'; 101];
    assert_eq!(refusal(insisted.open(&long, None)), Unverified::TooLong { max: 100 });
}

/// The vectors of <https://github.com/C2SP/wycheproof>, by streams in pieces and by the library's
/// own strict function.
#[test]
fn a_job_that_is_not_done_is_missing_in_the_verdict() {
    let by = SignedBy::Key(secret(1).public().id());
    let signature = secret(1).sign(b"text");
    let expected = Expected { max_len: 100, len: Some(4), digest: Some(Sha256Digest::of(b"text")) };
    fn backwards(one: Job<'_>, other: Job<'_>) {
        other();
        one();
    }
    let verdict = |both: fn(Job<'_>, Job<'_>)| {
        let mut check = trust(&[1]).check(&by, Some(&signature), expected).unwrap();
        check.update_by(b"text", both).unwrap();
        check.finish()
    };
    assert!(verdict(backwards).is_ok(), "in any order");
    assert!(matches!(verdict(|_, other| other()), Err(Unverified::Digest { .. })));
    assert_eq!(verdict(|one, _| one()), Err(Unverified::BadSignature));
    assert!(verdict(|_, _| {}).is_err());
}

#[test]
fn t04_signatures_are_judged_as_wycheproof_says() {
    let set = wycheproof::eddsa::TestSet::load(wycheproof::eddsa::TestName::Ed25519).unwrap();
    let mut count = 0;
    for group in set.test_groups {
        let key = PublicKey::parse(&group.key.pk).unwrap();
        for test in group.tests {
            count += 1;
            let signature = Signature::parse(&test.sig).ok();
            let valid = signature.is_some_and(|signature| {
                let whole = key.verify_whole(&test.msg, &signature);
                let streamed = key.stream(&signature).is_some_and(|mut stream| {
                    test.msg.chunks(7).for_each(|part| stream.update(part));
                    stream.finalize_and_verify().is_ok()
                });
                assert_eq!(whole, streamed, "case {}", test.tc_id);
                whole
            });
            // Text in a signature's place is decoded first; the vectors have raw bytes alone.
            let raw = test.sig.len() == 64;
            let expected = raw && !test.result.must_fail();
            assert_eq!(valid, expected, "case {}: {}", test.tc_id, test.comment);
        }
    }
    assert!(count > 100, "{count} cases");
}

#[test]
fn t04_other_forms_of_a_signature_are_refused() {
    let raw = *secret(1).sign(b"text").bytes();
    let signature = Signature::parse(&raw).unwrap();
    assert_eq!(Signature::parse(signature.to_base64().as_bytes()), Ok(signature));
    let long = [&raw[..], b"\n"].concat();
    for bad in [&raw[..63], &long, b"", &[b'A'; 2000]] {
        assert!(Signature::parse(bad).is_err(), "{} bytes", bad.len());
    }
    // R of small order, and S = 0: valid under the cofactored rule for some messages.
    let mut small = [0; 64];
    small[0] = 1;
    let small = Signature::parse(&small).unwrap();
    assert!(secret(1).public().stream(&small).is_none());
    // S that is not reduced.
    let mut large = raw;
    large[63] |= 0xf0;
    let large = Signature::parse(&large).unwrap();
    assert_eq!(refusal(trust(&[1]).open(b"text", Some(&large))), Unverified::BadSignature);
}

#[test]
fn there_is_one_place_that_makes_verified_values() {
    let source = include_str!("verified.rs");
    let made = source.matches("Verified { value").count();
    assert_eq!(made, 1, "the constructor of Verified stands in `conclude` alone");
    assert!(!source.contains("pub struct Verified<T> {\n    pub"));
}
