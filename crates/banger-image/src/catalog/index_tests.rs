//! What indexes are taken, and what is said of those that are not.

use proptest::prelude::*;

use super::*;

const DIGEST: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

fn document() -> Value {
    json!({
        "schema": "banger-catalog/1", "serial": 7, "expires": "2027-01-31T00:00:00Z",
        "images": {
            "debian-bookworm": { "kind": "recipe", "recipe": "debian-bookworm" },
            "alpine": { "kind": "oci", "reference": format!("alpine@sha256:{DIGEST}") },
            "tools": { "kind": "bundle", "bundles": [
                { "architecture": "amd64", "url": "a/tools.tar.zst", "size": 5, "sha256": DIGEST },
                { "architecture": "arm64", "url": "arm.tar.zst", "size": 6, "sha256": DIGEST },
            ]},
        },
        "kernels": { "debian-cloud": { "kind": "recipe", "recipe": "debian-cloud" } },
    })
}

fn parse(document: &Value) -> Result<Index, DocumentError> {
    Index::parse(document.to_string().as_bytes())
}

/// What is said of the index when this is done to it.
fn refusal(change: impl Fn(&mut Value)) -> String {
    let mut document = document();
    change(&mut document);
    parse(&document).unwrap_err().to_string()
}

#[test]
fn three_kinds_of_entries_behind_one_name() {
    let index = parse(&document()).unwrap();
    let image = |name: &str| index.images[&name.parse::<ImageName>().unwrap()].clone();
    assert_eq!(image("debian-bookworm"), ImageEntry::Recipe(ImageRecipe::DebianBookworm));
    assert!(matches!(image("alpine"), ImageEntry::Oci(it) if it.digest().is_some()));
    let ImageEntry::Bundles(bundles) = image("tools") else { panic!("no bundles") };
    assert_eq!(bundle_for(&bundles, "arm64").unwrap().size, 6);
    assert_eq!(bundle_for(&bundles, "riscv64"), None);
    assert_eq!(index.freshness().serial, Some(7));
    assert_eq!(Some(index.expires), index.freshness().expires);
}

#[test]
fn what_is_written_reads_back() {
    let index = parse(&document()).unwrap();
    assert_eq!(Index::parse(&index.to_json()), Ok(index.clone()));
    assert_eq!(index.to_json(), parse(&document()).unwrap().to_json());
}

#[test]
fn what_is_not_known_is_tolerated_as_far_as_it_can_be() {
    let mut newer = document();
    newer["mirrors"] = json!([{"deep": [1, 2]}]);
    newer["images"]["alpine"]["note"] = json!("x");
    newer["images"]["wasm"] = json!({ "kind": "wasm", "bundles": 5 });
    newer["images"]["trixie"] = json!({ "kind": "recipe", "recipe": "debian-trixie" });
    newer["kernels"]["k"] = json!({ "kind": "\u{1b}[2J" });
    let index = parse(&newer).unwrap();
    let image = |name: &str| &index.images[&name.parse::<ImageName>().unwrap()];
    assert_eq!(*image("wasm"), ImageEntry::Unknown("wasm".to_owned()));
    assert_eq!(*image("trixie"), ImageEntry::Unknown("recipe debian-trixie".to_owned()));
    let kernel = &index.kernels[&"k".parse::<KernelName>().unwrap()];
    assert_eq!(*kernel, KernelEntry::Unknown("[2J".to_owned()), "no control characters");
    assert_eq!(Index::parse(&index.to_json()).unwrap().images.len(), 3);
}

#[test]
fn a_newer_form_is_refused_with_what_to_do_before_anything_else_is_read() {
    let said = refusal(|it| {
        it["schema"] = json!("banger-catalog/2");
        it["serial"] = json!({ "epoch": 3 });
    });
    assert!(said.contains("banger-catalog/2") && said.ends_with("update banger"), "{said}");
    for other in ["os-release/1", "banger-catalog/", "banger-catalog/x", "banger-catalog/0", ""] {
        let said = refusal(|it| it["schema"] = json!(other));
        assert!(said.contains("banger-catalog/"), "{said}");
    }
    assert!(refusal(|it| drop(it.as_object_mut().unwrap().remove("schema"))).contains("schema"));
}

#[test]
fn what_makes_no_sense_is_refused_with_its_place() {
    type Change = fn(&mut Value);
    let cases: [(Change, &str); 14] = [
        (|it| drop(it.as_object_mut().unwrap().remove("serial")), "serial"),
        (|it| drop(it.as_object_mut().unwrap().remove("expires")), "expires"),
        (|it| it["serial"] = json!(-1), "integer `-1`"),
        (|it| it["expires"] = json!("soon"), "no time"),
        (|it| it["images"]["../x"] = json!({ "kind": "recipe" }), "not a name"),
        (|it| it["images"]["x"] = json!({}), "no text kind"),
        (|it| it["images"]["x"] = json!("debian"), "\"x\""),
        (|it| it["images"]["alpine"]["reference"] = json!("alpine:3.20"), "has no digest"),
        (|it| it["kernels"]["k"] = json!({ "kind": "bundle", "bundles": [] }), "from 1 to"),
        (|it| it["images"]["tools"]["bundles"][1]["architecture"] = json!("amd64"), "two bundles"),
        (|it| it["images"]["tools"]["bundles"][0]["architecture"] = json!("a b"), "architecture"),
        (|it| it["images"]["tools"]["bundles"][0]["size"] = json!(0), "from 1 to"),
        (|it| it["images"]["tools"]["bundles"][0]["size"] = json!(u64::MAX), "from 1 to"),
        (|it| it["images"]["tools"]["bundles"][0]["sha256"] = json!("abc"), "64 hexadecimal"),
    ];
    for (change, expected) in cases {
        let said = refusal(change);
        assert!(said.contains(expected), "{said:?} lacks {expected:?}");
    }
    let twice = document().to_string().replacen("\"serial\":7", "\"serial\":7,\"serial\":8", 1);
    assert!(Index::parse(twice.as_bytes()).unwrap_err().to_string().contains("comes twice"));
}

#[test]
fn everything_is_bounded() {
    let many = |n: usize| {
        let entry = json!({ "kind": "recipe", "recipe": "debian-bookworm" });
        let names = (0..n).map(|i| (format!("i{i}"), entry.clone()));
        let mut it = document();
        it["images"] = Value::Object(names.collect());
        parse(&it)
    };
    assert_eq!(many(MAX_NAMES).unwrap().images.len(), MAX_NAMES);
    assert!(many(MAX_NAMES + 1).unwrap_err().to_string().contains("at most 4096"));
    let long = vec![b' '; MAX_INDEX + 1];
    assert!(matches!(Index::parse(&long), Err(DocumentError::TooLong { .. })));
    let deep = format!("{{\"schema\":\"banger-catalog/1\",\"x\":{}", "[".repeat(100_000));
    assert!(Index::parse(deep.as_bytes()).unwrap_err().to_string().contains("too deep"));
}

#[test]
fn a_bundle_is_below_its_index() {
    for good in ["a", "a/b.tar.zst", "A_1-2/x..y"] {
        assert_eq!(good.parse::<BundleUrl>().map(|url| url.to_string()), Ok(good.to_owned()));
    }
    let long = "a".repeat(MAX_URL + 1);
    let deep = ["a"; MAX_URL_PARTS + 1].join("/");
    let bads = [
        "",
        "..x",
        "/a",
        "a/",
        "a//b",
        "..",
        "a/../b",
        ".a",
        "a?b",
        "a#b",
        "a%2e",
        "a\\b",
        "a b",
        "x:y",
        "https://example.com/a",
        "é",
        "a\0",
        &long,
        &deep,
    ];
    for bad in bads {
        assert!(bad.parse::<BundleUrl>().is_err(), "{bad:?}");
    }
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic_and_what_is_taken_is_written_as_it_is(
        bytes in proptest::collection::vec(any::<u8>(), 0..200),
        at in any::<prop::sample::Index>(),
        byte in any::<u8>(),
    ) {
        let _ = Index::parse(&bytes);
        let mut near = document().to_string().into_bytes();
        let at = at.index(near.len());
        near[at] = byte;
        if let Ok(index) = Index::parse(&near) {
            let again = Index::parse(&index.to_json()).unwrap();
            prop_assert_eq!((again.serial, again.expires), (index.serial, index.expires));
        }
    }
}
