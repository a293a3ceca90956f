//! Labels: what users write on their sandboxes to find them again.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::limits::Limits;

/// Why a text cannot be a label.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum LabelError {
    /// A key that is empty, too long or of other characters.
    #[error(
        "{0:?} is no label key: use 1 to {max} letters, digits, '-', '_', '.' or '/', beginning with a letter or digit",
        max = Limits::MAX_LABEL_KEY_LEN
    )]
    Key(String),
    /// A value that is too long or has control characters.
    #[error("the value of label {0:?} is longer than {max} bytes or has control characters", max = Limits::MAX_LABEL_VALUE_LEN)]
    Value(String),
    /// Too many of them.
    #[error("{0} labels are more than the {max} that one sandbox may have", max = Limits::MAX_LABELS)]
    TooMany(usize),
}

/// One label.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Label {
    /// Its key.
    pub key: String,
    /// Its value; may be empty.
    pub value: String,
}

/// `KEY=VALUE`, or `KEY` alone for one with an empty value.
impl FromStr for Label {
    type Err = LabelError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (key, value) = text.split_once('=').unwrap_or((text, ""));
        check(key, value)?;
        Ok(Self { key: key.to_owned(), value: value.to_owned() })
    }
}

fn check(key: &str, value: &str) -> Result<(), LabelError> {
    let plain = |b: u8| b.is_ascii_alphanumeric();
    let inner = |b: u8| plain(b) || matches!(b, b'-' | b'_' | b'.' | b'/');
    let fits = (1..=Limits::MAX_LABEL_KEY_LEN).contains(&key.len());
    if !fits || !key.bytes().all(inner) || !key.bytes().next().is_some_and(plain) {
        return Err(LabelError::Key(key.chars().take(Limits::MAX_LABEL_KEY_LEN).collect()));
    }
    if value.len() > Limits::MAX_LABEL_VALUE_LEN || value.chars().any(char::is_control) {
        return Err(LabelError::Value(key.to_owned()));
    }
    Ok(())
}

/// The labels of one sandbox.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "BTreeMap<String, String>", into = "BTreeMap<String, String>")]
pub struct Labels(BTreeMap<String, String>);

impl Labels {
    /// By key.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(key, value)| (key.as_str(), value.as_str()))
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl TryFrom<BTreeMap<String, String>> for Labels {
    type Error = LabelError;

    fn try_from(labels: BTreeMap<String, String>) -> Result<Self, Self::Error> {
        if labels.len() > Limits::MAX_LABELS {
            return Err(LabelError::TooMany(labels.len()));
        }
        for (key, value) in &labels {
            check(key, value)?;
        }
        Ok(Self(labels))
    }
}

impl From<Labels> for BTreeMap<String, String> {
    fn from(labels: Labels) -> Self {
        labels.0
    }
}

/// Which sandboxes are meant: those with this key, and this value if one is given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LabelFilter {
    key: String,
    value: Option<String>,
}

impl LabelFilter {
    /// Whether a sandbox with these labels is meant.
    pub fn matches(&self, labels: &Labels) -> bool {
        match (labels.0.get(&self.key), &self.value) {
            (Some(found), Some(wanted)) => found == wanted,
            (found, None) => found.is_some(),
            (None, Some(_)) => false,
        }
    }
}

/// `KEY=VALUE`, or `KEY` for any value.
impl FromStr for LabelFilter {
    type Err = LabelError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let Label { key, value } = text.parse()?;
        let value = text.contains('=').then_some(value);
        Ok(Self { key, value })
    }
}

impl fmt::Display for LabelFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.key)?;
        self.value.as_ref().map_or(Ok(()), |value| write!(f, "={value}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> Result<Labels, LabelError> {
        let map: BTreeMap<_, _> =
            pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        map.try_into()
    }

    #[test]
    fn a_filter_takes_a_value_or_any() {
        let labels = labels(&[("app", "shop"), ("bare", "")]).unwrap();
        let matches = |filter: &str| filter.parse::<LabelFilter>().unwrap().matches(&labels);
        assert!(matches("app") && matches("app=shop") && matches("bare") && matches("bare="));
        assert!(!matches("app=") && !matches("app=other") && !matches("none"));
    }

    #[test]
    fn what_could_steer_a_terminal_or_grow_without_end_is_refused() {
        assert!(labels(&[("a", "\x1b[31m")]).is_err());
        assert!(labels(&[("-a", "")]).is_err());
        assert!("=x".parse::<Label>().is_err());
        assert!("é=x".parse::<Label>().is_err());
        assert!(
            format!("a={}", "v".repeat(Limits::MAX_LABEL_VALUE_LEN + 1)).parse::<Label>().is_err()
        );
        let many: BTreeMap<_, _> =
            (0..=Limits::MAX_LABELS).map(|n| (n.to_string(), String::new())).collect();
        assert_eq!(Labels::try_from(many), Err(LabelError::TooMany(Limits::MAX_LABELS + 1)));
    }
}
