//! Bytes that are mostly text.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};

use serde::{Deserialize, Serialize};

/// Bytes as Linux has them in paths, arguments and variables: a JSON string where they are UTF-8,
/// else an array of numbers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Form", into = "Form")]
pub struct Text(pub Vec<u8>);

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Form {
    Text(String),
    Bytes(Vec<u8>),
}

impl From<Form> for Text {
    fn from(form: Form) -> Self {
        match form {
            Form::Text(text) => Self(text.into_bytes()),
            Form::Bytes(bytes) => Self(bytes),
        }
    }
}

impl From<Text> for Form {
    fn from(text: Text) -> Self {
        match String::from_utf8(text.0) {
            Ok(text) => Self::Text(text),
            Err(error) => Self::Bytes(error.into_bytes()),
        }
    }
}

impl From<&str> for Text {
    fn from(text: &str) -> Self {
        Self(text.as_bytes().to_vec())
    }
}

impl From<OsString> for Text {
    fn from(text: OsString) -> Self {
        Self(text.into_vec())
    }
}

impl From<&OsStr> for Text {
    fn from(text: &OsStr) -> Self {
        Self(text.as_bytes().to_vec())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_a_string_and_other_bytes_are_numbers() {
        let json = |bytes: &[u8]| serde_json::to_string(&Text(bytes.to_vec())).unwrap();
        assert_eq!(json(b"a"), r#""a""#);
        assert_eq!(json(b"\xff"), "[255]");
        for bytes in [&b""[..], b"x", b"\xff\0"] {
            let text: Text = serde_json::from_str(&json(bytes)).unwrap();
            assert_eq!(text.0, bytes);
        }
        assert!(serde_json::from_str::<Text>("[256]").is_err());
    }
}
