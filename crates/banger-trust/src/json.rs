//! JSON that has one meaning: bounded in length, depth and number of values, without keys that
//! come twice.
//!
//! serde alone takes the last of several equal keys that it does not know, and other readers take
//! the first: a document that two readers understand differently is refused before it is read.

use std::collections::BTreeSet;
use std::fmt;

use serde::de::{self, DeserializeOwned, DeserializeSeed, MapAccess, SeqAccess, Visitor};

use crate::document::DocumentError;

/// Most characters of a library's message that are passed on.
const MAX_MESSAGE: usize = 200;

/// How much JSON makes sense.
#[derive(Clone, Copy, Debug)]
pub struct JsonBounds {
    /// Most bytes.
    pub len: usize,
    /// Most objects and lists inside each other.
    pub depth: usize,
    /// Most values, keys included.
    pub values: usize,
}

/// Reads a value of this type from bytes that are wholly one JSON document. Fields that the type
/// does not know are ignored.
///
/// # Errors
/// When it is out of bounds, no JSON, ambiguous, or not of this type.
pub fn strict_json<T: DeserializeOwned>(
    bytes: &[u8],
    bounds: JsonBounds,
) -> Result<T, DocumentError> {
    if bytes.len() > bounds.len {
        return Err(DocumentError::TooLong { len: bytes.len(), max: bounds.len });
    }
    let refused = |error: serde_json::Error| {
        DocumentError::Json(error.to_string().chars().take(MAX_MESSAGE).collect())
    };
    let mut left = bounds.values;
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    Any { depth: bounds.depth, left: &mut left }
        .deserialize(&mut reader)
        .and_then(|()| reader.end())
        .map_err(refused)?;
    serde_json::from_slice(bytes).map_err(refused)
}

/// Any value, looked at and forgotten.
struct Any<'a> {
    depth: usize,
    left: &'a mut usize,
}

impl Any<'_> {
    fn count<E: de::Error>(&mut self) -> Result<(), E> {
        *self.left = self.left.checked_sub(1).ok_or_else(|| E::custom("too many values"))?;
        Ok(())
    }

    fn inside<E: de::Error>(&mut self) -> Result<Any<'_>, E> {
        let depth = self.depth.checked_sub(1).ok_or_else(|| E::custom("too deep"))?;
        Ok(Any { depth, left: self.left })
    }
}

impl<'de> DeserializeSeed<'de> for Any<'_> {
    type Value = ();

    fn deserialize<D: de::Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Any<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_bool<E: de::Error>(mut self, _: bool) -> Result<(), E> {
        self.count()
    }

    fn visit_i64<E: de::Error>(mut self, _: i64) -> Result<(), E> {
        self.count()
    }

    fn visit_u64<E: de::Error>(mut self, _: u64) -> Result<(), E> {
        self.count()
    }

    fn visit_f64<E: de::Error>(mut self, _: f64) -> Result<(), E> {
        self.count()
    }

    fn visit_str<E: de::Error>(mut self, _: &str) -> Result<(), E> {
        self.count()
    }

    fn visit_unit<E: de::Error>(mut self) -> Result<(), E> {
        self.count()
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut seq: A) -> Result<(), A::Error> {
        self.count()?;
        while seq.next_element_seed(self.inside()?)?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<(), A::Error> {
        self.count()?;
        let mut seen = BTreeSet::new();
        while let Some(key) = map.next_key::<String>()? {
            self.count()?;
            map.next_value_seed(self.inside()?)?;
            if let Some(twice) = seen.replace(key) {
                return Err(de::Error::custom(format_args!("the key {twice:?} comes twice")));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    const BOUNDS: JsonBounds = JsonBounds { len: 100, depth: 3, values: 10 };

    fn read(text: &str) -> Result<Value, DocumentError> {
        strict_json(text.as_bytes(), BOUNDS)
    }

    fn problem(text: &str) -> String {
        match read(text).unwrap_err() {
            DocumentError::Json(problem) => problem,
            other => other.to_string(),
        }
    }

    #[test]
    fn what_readers_understand_differently_is_refused() {
        assert!(read(r#" {"a": {"b": [1]}, "c": null} "#).is_ok());
        assert!(problem(r#"{"a": 1, "b": 2, "a": 3}"#).contains("\"a\" comes twice"));
        assert!(problem(r#"{"x": {"a": 1, "a": 1}}"#).contains("comes twice"));
        assert!(problem(r#"{"a": 1, "\u0061": 2}"#).contains("comes twice"));
        for bad in ["", "{", "{} {}", "{}x", "\u{feff}{}", "{'a': 1}", "{\"a\": NaN}", "[1,]"] {
            assert!(read(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn size_depth_and_number_are_bounded() {
        assert!(read("[[[1]]]").is_ok());
        assert!(problem("[[[[1]]]]").contains("too deep"));
        assert!(problem("[1,2,3,4,5,6,7,8,9,10]").contains("too many"));
        assert!(problem(&format!("\"{}\"", "a".repeat(99))).contains("101 bytes"));
        let deep = JsonBounds { len: 1 << 20, depth: 1 << 20, values: 1 << 20 };
        let nested = "[".repeat(100_000);
        assert!(strict_json::<Value>(nested.as_bytes(), deep).is_err(), "no stack is that deep");
    }
}
