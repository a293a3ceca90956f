use proptest::prelude::*;

use super::*;

const HEX: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

fn parse(text: &str) -> ImageReference {
    text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
}

#[test]
fn what_is_left_out_is_what_docker_fills_in() {
    let digest = format!("@sha256:{HEX}");
    for (text, normal) in [
        ("alpine", "docker.io/library/alpine:latest"),
        ("alpine:3.20", "docker.io/library/alpine:3.20"),
        ("org/app", "docker.io/org/app:latest"),
        ("docker.io/alpine", "docker.io/library/alpine:latest"),
        ("index.docker.io/library/alpine", "docker.io/library/alpine:latest"),
        ("localhost/a", "localhost/a:latest"),
        ("LocalHost/a", "localhost/a:latest"),
        ("localhost:5000/a/b:tag", "localhost:5000/a/b:tag"),
        ("GHCR.io/org/app", "ghcr.io/org/app:latest"),
        ("[::1]:5000/a", "[::1]:5000/a:latest"),
        ("a__b/c---d/e.f_g", "docker.io/a__b/c---d/e.f_g:latest"),
    ] {
        assert_eq!(parse(text).to_string(), normal, "{text}");
    }
    let both = parse(&format!("localhost:5000/a/b:tag{digest}"));
    assert_eq!((both.tag(), both.digest().unwrap().hex()), (Some("tag"), HEX));
    let only = parse(&format!("ghcr.io/org/app{digest}"));
    assert_eq!((only.tag(), only.to_string()), (None, format!("ghcr.io/org/app{digest}")));
}

#[test]
fn the_short_form_means_the_same() {
    for (normal, familiar) in [
        ("docker.io/library/alpine:latest", "alpine"),
        ("docker.io/library/alpine:3.20", "alpine:3.20"),
        ("docker.io/org/app:latest", "org/app"),
        ("ghcr.io/org/app:latest", "ghcr.io/org/app"),
        // Shorter, these would mean something else.
        ("docker.io/a.b/c:latest", "docker.io/a.b/c"),
        ("docker.io/localhost/c:latest", "docker.io/localhost/c"),
        ("docker.io/library/a/b:1", "library/a/b:1"),
        (&format!("docker.io/library/{HEX}:1"), &format!("library/{HEX}:1")),
    ] {
        let reference = parse(normal);
        assert_eq!(reference.familiar(), familiar);
        assert_eq!(parse(familiar), reference);
    }
}

#[test]
fn a_name_of_this_host_is_made_of_every_reference() {
    for (text, name) in [
        ("debian:bookworm", "debian-bookworm"),
        ("alpine", "alpine"),
        ("alpine:3.20", "alpine-3.20"),
        ("ghcr.io/org/My_App".to_lowercase().as_str(), "my-app"),
        ("a/b__c:V1..2-.x_", "b-c-v1-2-x"),
        (&format!("a@sha256:{HEX}"), "a-0123456789ab"),
        (&format!("a:1@sha256:{HEX}"), "a-1"),
    ] {
        assert_eq!(parse(text).default_name().as_str(), name, "{text}");
    }
}

#[test]
fn what_names_no_image_is_refused_with_its_reason() {
    use ParseReferenceError as E;
    type Kind = fn(&ParseReferenceError) -> bool;
    let long = format!("{}/a", "a.".repeat(127) + "a");
    let cases: [(&str, Kind); 21] = [
        ("", |e| *e == E::Empty),
        ("Alpine", |e| matches!(e, E::Repository(_))),
        ("Oc/fir:1", |e| matches!(e, E::Repository(_))),
        ("a//b", |e| matches!(e, E::Repository(_))),
        ("/a", |e| matches!(e, E::Repository(_))),
        ("a/", |e| matches!(e, E::Repository(_))),
        ("a/../b", |e| matches!(e, E::Repository(_))),
        ("a___b", |e| matches!(e, E::Repository(_))),
        ("a b", |e| matches!(e, E::Repository(_))),
        ("-a", |e| matches!(e, E::Repository(_))),
        ("ä", |e| matches!(e, E::Repository(_))),
        ("host:0/a", |e| matches!(e, E::Registry(_))),
        ("host:99999/a", |e| matches!(e, E::Registry(_))),
        ("host:/a", |e| matches!(e, E::Registry(_))),
        ("-x.y/a", |e| matches!(e, E::Registry(_))),
        ("[::1/a", |e| matches!(e, E::Registry(_))),
        ("a:", |e| matches!(e, E::Tag(_))),
        ("a:-1", |e| matches!(e, E::Tag(_))),
        ("a@sha256:12", |e| matches!(e, E::Digest(_))),
        (HEX, |e| matches!(e, E::Id(_))),
        (&long, |e| *e == E::TooLong),
    ];
    for (text, is_expected) in cases {
        let error = text.parse::<ImageReference>().unwrap_err();
        assert!(is_expected(&error), "{text}: {error:?}");
    }
}

proptest! {
    #[test]
    fn nothing_panics_and_what_is_taken_reads_back(text in "[a-zA-Z0-9:@/._\\[\\]-]{0,80}") {
        if let Ok(reference) = text.parse::<ImageReference>() {
            prop_assert_eq!(reference.to_string().parse(), Ok(reference.clone()));
            prop_assert_eq!(reference.familiar().parse(), Ok(reference.clone()));
            let name = reference.default_name();
            prop_assert_eq!(name.as_str().parse(), Ok(name.clone()));
        }
    }

    #[test]
    fn good_ones_read_back(
        host in proptest::option::of("[a-z]{1,8}\\.[a-z]{2,3}(:[1-9][0-9]{1,3})?"),
        parts in proptest::collection::vec("[a-z0-9]{1,5}((\\.|_|__|-{1,3})[a-z0-9]{1,4}){0,2}", 1..4),
        tag in proptest::option::of("[a-zA-Z0-9_][a-zA-Z0-9._-]{0,20}"),
        digest in proptest::option::of("[a-f0-9]{64}"),
    ) {
        // Without a host a first part with a dot would be one.
        let mut text = host.unwrap_or("docker.io".to_owned()) + "/";
        text += &parts.join("/");
        text += &tag.map(|t| format!(":{t}")).unwrap_or_default();
        text += &digest.map(|d| format!("@sha256:{d}")).unwrap_or_default();
        let reference: ImageReference = text.parse().unwrap();
        prop_assert_eq!(reference.to_string().parse(), Ok(reference.clone()));
        prop_assert_eq!(reference.familiar().parse(), Ok(reference.clone()));
        let name = reference.default_name();
        prop_assert_eq!(name.as_str().parse(), Ok(name.clone()));
    }

    #[test]
    fn no_text_panics(text in "\\PC*") {
        let _ = text.parse::<ImageReference>();
    }
}
