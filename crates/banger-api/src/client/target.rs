//! Paths and queries of requests.

use std::fmt::{Display, Write as _};

/// The path of a request with its query, made of pieces that are escaped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    text: String,
    has_query: bool,
}

impl Target {
    /// Something of the API, such as `sandboxes`.
    pub(crate) fn new(what: &str) -> Self {
        Self { text: format!("/v1/{what}"), has_query: false }
    }

    /// Below it, what has this name.
    pub(crate) fn at(mut self, name: &str) -> Self {
        self.text.push('/');
        // These two would be taken for directions.
        match name {
            "." => self.text.push_str("%2E"),
            ".." => self.text.push_str("%2E%2E"),
            name => escape(&mut self.text, name.as_bytes()),
        }
        self
    }

    /// One more parameter.
    pub(crate) fn with(self, key: &str, value: impl Display) -> Self {
        self.with_bytes(key, value.to_string().as_bytes())
    }

    /// One more parameter that need not be text.
    pub(crate) fn with_bytes(mut self, key: &str, value: &[u8]) -> Self {
        self.text.push(if std::mem::replace(&mut self.has_query, true) { '&' } else { '?' });
        self.text.push_str(key);
        self.text.push('=');
        escape(&mut self.text, value);
        self
    }

    /// One more parameter, if there is a value.
    pub(crate) fn with_some(self, key: &str, value: Option<impl Display>) -> Self {
        match value {
            Some(value) => self.with(key, value),
            None => self,
        }
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.text
    }

    /// Without the query: for messages, which need not be long.
    pub(crate) fn path(&self) -> &str {
        self.text.split('?').next().unwrap_or_default()
    }
}

fn escape(out: &mut String, bytes: &[u8]) {
    for &byte in bytes {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_is_given_changes_the_shape_of_a_path() {
        let target = Target::new("sandboxes").at("../a?b#c%2f é").at("start");
        assert_eq!(target.as_str(), "/v1/sandboxes/..%2Fa%3Fb%23c%252f%20%C3%A9/start");
        assert_eq!(Target::new("x").at("..").at(".").as_str(), "/v1/x/%2E%2E/%2E");
    }

    #[test]
    fn parameters_are_parted_and_escaped() {
        let target = Target::new("x").with("label", "k=v&w").with_bytes("path", b"/\xff+");
        let target = target.with_some("tail", Some(3)).with_some("since", None::<u64>);
        assert_eq!(target.as_str(), "/v1/x?label=k%3Dv%26w&path=%2F%FF%2B&tail=3");
        assert_eq!(target.path(), "/v1/x");
    }
}
