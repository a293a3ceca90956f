//! Where in a destination an entry's name leads.

use thiserror::Error;

use super::reader::MAX_NAME;

/// Why a name leads nowhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub(crate) enum NameError {
    #[error("is absolute")]
    Absolute,
    #[error("leads upwards")]
    Upwards,
    #[error("is no name")]
    Unnamed,
    #[error("is too long")]
    TooLong,
}

/// The path below the destination that a name means: components with one `/` between them; empty
/// for the destination itself. With `first`, the name's first component is called so instead.
pub(super) fn inside(name: &[u8], first: Option<&[u8]>) -> Result<Vec<u8>, NameError> {
    if name.starts_with(b"/") {
        return Err(NameError::Absolute);
    }
    if name.is_empty() || name.contains(&0) {
        return Err(NameError::Unnamed);
    }
    let mut path = Vec::new();
    let components = name.split(|byte| *byte == b'/').filter(|part| !part.is_empty());
    for (number, component) in components.enumerate() {
        let component = match (number, first) {
            _ if component == b".." => return Err(NameError::Upwards),
            (0, Some(first)) => first,
            _ if component == b"." => continue,
            _ => component,
        };
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend(component);
        if path.len() > MAX_NAME {
            return Err(NameError::TooLong);
        }
    }
    Ok(path)
}

/// The directory and the last component of a path from [`inside`].
pub(super) fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(at) => (&path[..at], &path[at + 1..]),
        None => (&[], path),
    }
}

/// Whether this may be what the first component is called: a name, and nothing else.
pub(super) fn is_component(name: &[u8]) -> bool {
    !name.is_empty()
        && name != b"."
        && name != b".."
        && !name.iter().any(|byte| matches!(byte, b'/' | 0))
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn at(name: &str, first: Option<&str>) -> Result<String, NameError> {
        let path = inside(name.as_bytes(), first.map(str::as_bytes));
        path.map(|path| String::from_utf8(path).unwrap())
    }

    #[test]
    fn names_are_taken_apart() {
        assert_eq!(at("a//b/./c/", None).unwrap(), "a/b/c");
        assert_eq!(at("./", None).unwrap(), "");
        assert_eq!(at("./a", None).unwrap(), "a");
        assert_eq!(split(b"a/b/c"), (&b"a/b"[..], &b"c"[..]));
        assert_eq!(split(b"c"), (&b""[..], &b"c"[..]));
    }

    #[test]
    fn the_first_component_is_called_otherwise() {
        assert_eq!(at("a/b", Some("x")).unwrap(), "x/b");
        assert_eq!(at("a", Some("x")).unwrap(), "x");
        assert_eq!(at("./", Some("x")).unwrap(), "x");
        assert_eq!(at("./b/c", Some("x")).unwrap(), "x/b/c");
        assert!(!["", ".", "..", "a/b", "a\0"].iter().any(|name| is_component(name.as_bytes())));
    }

    #[test]
    fn what_leads_out_is_refused() {
        assert_eq!(at("/etc/passwd", None), Err(NameError::Absolute));
        assert_eq!(at("a/../../b", None), Err(NameError::Upwards));
        assert_eq!(at("..", Some("x")), Err(NameError::Upwards));
        assert_eq!(at("", None), Err(NameError::Unnamed));
        assert_eq!(at(&"ab/".repeat(3000), None), Err(NameError::TooLong));
    }

    proptest! {
        #[test]
        fn a_path_has_only_proper_components(
            name in vec(prop_oneof![Just(b'/'), Just(b'.'), Just(b'a'), any::<u8>()], 0..40),
        ) {
            if let Ok(path) = inside(&name, None) {
                let proper = path.is_empty() || path.split(|b| *b == b'/').all(is_component);
                prop_assert!(proper);
            }
        }
    }
}
