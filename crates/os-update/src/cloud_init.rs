//! The `updates:` block of a cloud-init file, written to `update.conf` on the first boot.
//!
//! Whoever writes user data may tell a new machine where its updates come from. Once something is
//! in the file, user data cannot change it: no other key, no wider window, no other server.

use std::collections::BTreeMap;

use saphyr_parser::{Event, Parser};
use thiserror::Error;

use crate::settings::{ConfFile, Key, parse_conf};

/// Longest user data: what the platforms allow is far less.
pub const MAX_LEN: usize = 256 * 1024;
/// Most lists and maps inside each other.
const MAX_DEPTH: usize = 32;
/// Most events of a document.
const MAX_EVENTS: usize = 100_000;
/// What user data may say.
const KEYS: [Key; 4] = [Key::Server, Key::Channel, Key::MaintenanceWindow, Key::Pubkey];

/// Why user data is not taken.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum CloudInitError {
    /// Too long.
    #[error("the file has more than the {MAX_LEN} bytes that make sense")]
    TooLong,
    /// No YAML.
    #[error("the file is no YAML: {0}")]
    Yaml(String),
    /// A block that is not as it should be.
    #[error("the block updates is wrong: {0}")]
    Block(String),
}

/// Reads the block; empty if there is none, or nothing in it. Pure.
///
/// # Errors
/// When the file is no YAML, or the block is something else than plain settings.
pub fn parse(text: &str) -> Result<BTreeMap<Key, String>, CloudInitError> {
    if text.len() > MAX_LEN {
        return Err(CloudInitError::TooLong);
    }
    let mut reader = Reader::default();
    for (count, event) in Parser::new_from_str(text).enumerate() {
        let (event, _) = event.map_err(|error| CloudInitError::Yaml(error.to_string()))?;
        if count > MAX_EVENTS {
            return Err(CloudInitError::Yaml("it has too many values".to_owned()));
        }
        if !reader.take(&event)? {
            break;
        }
    }
    Ok(reader.block)
}

/// The text of the file with what the block adds to it; `None` if that is nothing. What the file
/// says stays. The second part is what of the block was not taken.
pub fn merge(existing: &str, block: &BTreeMap<Key, String>) -> (Option<String>, Vec<String>) {
    let ConfFile { values, .. } = parse_conf(existing);
    let mut text = existing.to_owned();
    let (mut added, mut refused) = (false, Vec::new());
    for (key, value) in block {
        match values.get(key) {
            Some(known) if known == value => {}
            Some(_) => refused.push(format!("{} is set already, and stays as it is", key.as_str())),
            // Whoever set the machine up and named no key did not leave that to anybody who can
            // write user data.
            None if *key == Key::Pubkey && !values.is_empty() => {
                refused.push("pubkey is taken only where there are no settings yet".to_owned());
            }
            None => {
                if !text.is_empty() && !text.ends_with('\n') {
                    text.push('\n');
                }
                text.push_str(&format!("{}={value}\n", key.as_str()));
                added = true;
            }
        }
    }
    (added.then_some(text), refused)
}

/// Where in the document a reader is.
#[derive(Debug, Default)]
struct Reader {
    /// For each list or map around, whether the next scalar of it is a key.
    open: Vec<Open>,
    /// The last key of the outermost map, and of the block.
    top: Option<String>,
    name: Option<String>,
    seen: bool,
    block: BTreeMap<Key, String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Open {
    Key,
    Value,
    List,
}

impl Reader {
    /// Whether to go on.
    fn take(&mut self, event: &Event<'_>) -> Result<bool, CloudInitError> {
        match event {
            Event::DocumentEnd | Event::StreamEnd => return Ok(false),
            Event::MappingStart(..) => self.begin(Open::Key)?,
            Event::SequenceStart(..) => self.begin(Open::List)?,
            Event::MappingEnd | Event::SequenceEnd => {
                self.open.pop();
                self.after_value();
            }
            Event::Scalar(value, _, _, tag) => {
                if self.in_block() && tag.is_some() {
                    return Err(wrong("it has a tag in it"));
                }
                self.scalar(value)?;
            }
            Event::Alias(_) => {
                if self.in_block() || self.names_block() {
                    return Err(wrong("it has an alias in it"));
                }
                self.after_value();
            }
            Event::Nothing | Event::StreamStart | Event::DocumentStart(_) => {}
        }
        Ok(true)
    }

    fn begin(&mut self, open: Open) -> Result<(), CloudInitError> {
        if self.open.len() >= MAX_DEPTH {
            return Err(CloudInitError::Yaml("it is too deep".to_owned()));
        }
        if self.in_block() || (self.names_block() && open == Open::List) {
            return Err(wrong("its values have to be plain"));
        }
        if self.open.last() == Some(&Open::Key) {
            return Err(CloudInitError::Yaml("a key is no plain text".to_owned()));
        }
        self.open.push(open);
        Ok(())
    }

    fn scalar(&mut self, value: &str) -> Result<(), CloudInitError> {
        let depth = self.open.len();
        if self.open.last() == Some(&Open::Key) {
            if let Some(open) = self.open.last_mut() {
                *open = Open::Value;
            }
            if depth == 1 {
                self.top = Some(value.to_owned());
                if value == "updates" && std::mem::replace(&mut self.seen, true) {
                    return Err(wrong("it comes twice"));
                }
            } else if depth == 2 && self.is_updates() {
                self.name = Some(value.to_owned());
            }
            return Ok(());
        }
        if self.in_block() {
            self.setting(value)?;
        } else if self.names_block() && !matches!(value, "" | "~" | "null") {
            return Err(wrong("it is a plain value"));
        }
        self.after_value();
        Ok(())
    }

    fn setting(&mut self, value: &str) -> Result<(), CloudInitError> {
        let name = self.name.take().unwrap_or_default();
        let key = KEYS.into_iter().find(|key| key.as_str() == name);
        let key = key.ok_or_else(|| wrong(&format!("it has no setting {name:?}")))?;
        if value.is_empty() || value == "~" || value == "null" {
            return Ok(());
        }
        // What `update.conf` cannot hold, or would read as something else.
        let read = parse_conf(&format!("{name}={value}\n"));
        if read.values.get(&key).map(String::as_str) != Some(value) || !read.warnings.is_empty() {
            return Err(wrong(&format!("the value of {name} is not plain")));
        }
        if self.block.insert(key, value.to_owned()).is_some() {
            return Err(wrong(&format!("{name} comes twice")));
        }
        Ok(())
    }

    /// A value has ended: in a map a key comes next.
    fn after_value(&mut self) {
        if let Some(open) = self.open.last_mut()
            && *open == Open::Value
        {
            *open = Open::Key;
        }
    }

    fn is_updates(&self) -> bool {
        self.top.as_deref() == Some("updates") && self.open.first() != Some(&Open::List)
    }

    /// Whether the value of `updates` comes next.
    fn names_block(&self) -> bool {
        self.open == [Open::Value] && self.is_updates()
    }

    /// Whether the value of a setting in the block comes next.
    fn in_block(&self) -> bool {
        self.open == [Open::Value, Open::Value] && self.is_updates()
    }
}

fn wrong(problem: &str) -> CloudInitError {
    CloudInitError::Block(problem.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const USER_DATA: &str = "#cloud-config\nusers:\n  - name: x\n    updates: {server: no}\n\
        write_files:\n- content: |\n    updates:\n      server: https://evil.example.com\n\
        updates:\n  server: https://a.example.com/os\n  channel: beta\n  \
        maintenance_window: 22:00-04:00\n  pubkey: \"AAAA\"\nfinal_message: updates\n";

    #[test]
    fn the_block_at_the_top_is_read_and_nothing_else() {
        let block = parse(USER_DATA).unwrap();
        let get = |key| block.get(&key).map(String::as_str);
        assert_eq!(get(Key::Server), Some("https://a.example.com/os"));
        assert_eq!(get(Key::MaintenanceWindow), Some("22:00-04:00"));
        assert_eq!(get(Key::Pubkey), Some("AAAA"));
        assert_eq!(block.len(), 4);
        for empty in ["", "#cloud-config\n", "updates:\n", "updates: {}\n", "updates: ~\nx: 1\n"] {
            assert_eq!(parse(empty).unwrap().len(), 0, "{empty:?}");
        }
    }

    #[test]
    fn what_is_not_plain_is_refused() {
        for bad in [
            "updates: [a]\n",
            "updates: yes\n",
            "updates:\n  server: {a: b}\n",
            "updates:\n  server: [a]\n",
            "updates:\n  colour: red\n",
            "updates:\n  server: a\n  server: b\n",
            "updates: {}\nupdates:\n  server: a\n",
            "a: &x https://a.example.com\nupdates:\n  server: *x\n",
            "a: &x {server: b}\nupdates: *x\n",
            "updates:\n  server: !!binary YQ==\n",
            "updates:\n  server: \"a\\npubkey=b\"\n",
            "updates:\n  channel: \"x # y\"\n",
            "updates:\n  <<: {server: x}\n",
            "updates:\n  server: 'a\n",
        ] {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
        assert_eq!(parse(&" ".repeat(MAX_LEN + 1)), Err(CloudInitError::TooLong));
        assert!(parse(&"[".repeat(10_000)).is_err());
    }

    #[test]
    fn what_is_there_stays_and_what_is_missing_is_added() {
        let block = parse(USER_DATA).unwrap();
        let (text, refused) = merge("", &block);
        assert!(refused.is_empty());
        let text = text.unwrap();
        assert_eq!(parse_conf(&text).values, block);
        assert_eq!(merge(&text, &block), (None, vec![]), "once more changes nothing");
        let (text, refused) = merge("pubkey=BBBB\nmaintenance_window=01:00-02:00", &block);
        let values = parse_conf(&text.unwrap()).values;
        assert_eq!(values.get(&Key::Pubkey).map(String::as_str), Some("BBBB"));
        assert_eq!(values.get(&Key::MaintenanceWindow).map(String::as_str), Some("01:00-02:00"));
        assert_eq!(values.get(&Key::Channel).map(String::as_str), Some("beta"));
        assert_eq!(refused.len(), 2);
        assert_eq!(merge("server=x\n", &BTreeMap::new()), (None, vec![]));
        let (text, refused) = merge("server=https://a.example.com/os\n", &block);
        assert!(!text.unwrap().contains("pubkey") && refused.len() == 1, "{refused:?}");
        // What cannot be read is set all the same.
        let (text, refused) = merge("pubkey=A\tA\nmaintenance_window=\u{1}\n", &block);
        let text = text.unwrap();
        assert_eq!((text.matches("pubkey").count(), refused.len()), (1, 2), "{text}");
        assert_eq!(text.matches("maintenance_window").count(), 1);
    }

    proptest::proptest! {
        #[test]
        fn no_text_panics(text in "(updates|server|[ :{}\\[\\]\n&*!'\"#-]|[a-z]){0,60}") {
            if let Ok(block) = parse(&text) {
                let (merged, _) = merge("", &block);
                proptest::prop_assert_eq!(parse_conf(&merged.unwrap_or_default()).values, block);
            }
        }
    }
}
