//! QEMU's control protocol as bytes: JSON objects, one in a line. Pure: no socket is touched.
//!
//! QEMU is not the guest, but a guest that broke out of its devices would speak here: every
//! line is bounded, and what makes no sense is an error, never a guess.

use serde::Deserialize;
use serde_json::Value;
use thiserror::Error;

/// Longest line that is accepted. The longest answer asked for here has a few hundred bytes.
pub(crate) const MAX_LINE_LEN: usize = 256 * 1024;

/// A line that is no message.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum DecodeError {
    /// No end of line within [`MAX_LINE_LEN`].
    #[error("a line exceeds {MAX_LINE_LEN} bytes")]
    TooLong,
    /// Not one of the four kinds of message.
    #[error("not a message: {0}")]
    Malformed(String),
}

/// One message of QEMU.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Message {
    /// The first line on every connection.
    Greeting,
    /// The answer to the command with this id.
    Return { id: u64, value: Value },
    /// The refusal of the command with this id; without one, of a line that QEMU did not
    /// understand.
    Refusal { id: Option<u64>, reason: String },
    /// Something happened.
    Event { name: String, data: Value },
}

/// Cuts a stream into messages.
#[derive(Debug, Default)]
pub(crate) struct Decoder {
    buffer: Vec<u8>,
    /// So many bytes at the front are known to hold no end of line.
    searched: usize,
}

impl Decoder {
    /// Adds bytes as they came.
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole message, if there is one.
    pub(crate) fn next(&mut self) -> Result<Option<Message>, DecodeError> {
        loop {
            let Some(found) = self.buffer[self.searched..].iter().position(|b| *b == b'\n') else {
                self.searched = self.buffer.len();
                let fits = self.searched <= MAX_LINE_LEN;
                return if fits { Ok(None) } else { Err(DecodeError::TooLong) };
            };
            let end = self.searched + found;
            if end > MAX_LINE_LEN {
                return Err(DecodeError::TooLong);
            }
            let message = decode(self.buffer[..end].trim_ascii());
            self.buffer.drain(..=end);
            self.searched = 0;
            if let Some(message) = message.transpose() {
                return message.map(Some);
            }
        }
    }
}

/// How many messages these bytes hold, understood as QEMU's end of a control connection. This is
/// the door for fuzzers; the client itself reads piece by piece.
///
/// # Errors
/// When a line is too long or no message.
pub fn count_messages(bytes: &[u8]) -> Result<usize, DecodeError> {
    let mut decoder = Decoder::default();
    decoder.push(bytes);
    let mut count = 0;
    while decoder.next()?.is_some() {
        count += 1;
    }
    Ok(count)
}

#[derive(Deserialize)]
struct Raw {
    #[serde(rename = "QMP")]
    greeting: Option<Value>,
    #[serde(rename = "return")]
    returned: Option<Value>,
    error: Option<RawError>,
    id: Option<u64>,
    event: Option<String>,
    #[serde(default)]
    data: Value,
}

#[derive(Deserialize)]
struct RawError {
    desc: String,
}

/// Understands one line; an empty one is none.
fn decode(line: &[u8]) -> Result<Option<Message>, DecodeError> {
    if line.is_empty() {
        return Ok(None);
    }
    let malformed = |why: String| DecodeError::Malformed(why);
    let raw: Raw = serde_json::from_slice(line).map_err(|error| malformed(error.to_string()))?;
    let message = match raw {
        Raw { event: Some(name), data, .. } => Message::Event { name, data },
        Raw { error: Some(RawError { desc }), id, .. } => Message::Refusal { id, reason: desc },
        Raw { returned: Some(value), id: Some(id), .. } => Message::Return { id, value },
        Raw { greeting: Some(_), .. } => Message::Greeting,
        _ => return Err(malformed("an object of no known kind".to_owned())),
    };
    Ok(Some(message))
}

/// One command as a line.
pub(crate) fn encode(id: u64, command: &str, arguments: &Value) -> Vec<u8> {
    let mut object = serde_json::json!({ "execute": command, "id": id });
    if !arguments.is_null() {
        object["arguments"] = arguments.clone();
    }
    let mut line = object.to_string().into_bytes();
    line.push(b'\n');
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn all(bytes: &[u8]) -> Result<Vec<Message>, DecodeError> {
        let mut decoder = Decoder::default();
        decoder.push(bytes);
        std::iter::from_fn(|| decoder.next().transpose()).collect()
    }

    #[test]
    fn each_kind_of_message_is_understood() {
        let text = concat!(
            "{\"QMP\": {\"version\": {}, \"capabilities\": []}}\r\n\r\n",
            "{\"return\": {}, \"id\": 3}\n",
            "{\"id\": 4, \"error\": {\"class\": \"GenericError\", \"desc\": \"no\"}}\n",
            "{\"error\": {\"class\": \"GenericError\", \"desc\": \"JSON parse error\"}}\n",
            "{\"timestamp\": {}, \"event\": \"STOP\"}\n{\"half",
        );
        let expected = [
            Message::Greeting,
            Message::Return { id: 3, value: json!({}) },
            Message::Refusal { id: Some(4), reason: "no".into() },
            Message::Refusal { id: None, reason: "JSON parse error".into() },
            Message::Event { name: "STOP".into(), data: Value::Null },
        ];
        assert_eq!(all(text.as_bytes()).unwrap(), expected);
        assert_eq!(count_messages(text.as_bytes()), Ok(expected.len()));
    }

    #[test]
    fn what_is_no_message_is_an_error() {
        for bad in [
            "garbage\n",
            "[]\n",
            "1\n",
            "{}\n",
            "{\"return\": {}}\n",
            "{\"return\": {}, \"id\": -1}\n",
            "{\"return\": {}, \"id\": \"x\"}\n",
            "{\"event\": 7}\n",
            "{\"error\": \"x\", \"id\": 1}\n",
            "\u{0}\n",
        ] {
            assert!(matches!(all(bad.as_bytes()), Err(DecodeError::Malformed(_))), "{bad:?}");
        }
        assert!(all(b"\xff\n").is_err());
    }

    #[test]
    fn deep_nesting_is_refused_without_harm() {
        let deep = [vec![b'['; 100_000], b"\n".to_vec()].concat();
        assert!(matches!(all(&deep), Err(DecodeError::Malformed(_))));
    }

    #[test]
    fn a_line_is_bounded_with_and_without_its_end() {
        let mut line = vec![b' '; MAX_LINE_LEN + 1];
        assert_eq!(all(&line), Err(DecodeError::TooLong));
        line.push(b'\n');
        assert_eq!(all(&line), Err(DecodeError::TooLong));
        assert_eq!(all(&line[1..]), Ok(vec![]));
    }

    #[test]
    fn a_command_is_one_line() {
        let line = encode(7, "set_link", &json!({"name": "a\nb", "up": false}));
        assert_eq!(line.iter().filter(|byte| **byte == b'\n').count(), 1);
        assert_eq!(encode(1, "cont", &Value::Null), b"{\"execute\":\"cont\",\"id\":1}\n");
    }

    proptest! {
        #[test]
        fn no_bytes_break_the_decoder_and_cuts_do_not_matter(
            bytes in prop::collection::vec(prop_oneof![
                any::<u8>(), Just(b'\n'), Just(b'{'), Just(b'}'), Just(b'"')
            ], 0..300),
            cut in 0..300usize,
        ) {
            let whole = all(&bytes);
            let (head, tail) = bytes.split_at(cut.min(bytes.len()));
            let mut decoder = Decoder::default();
            let mut messages = Vec::new();
            let mut outcome = Ok(());
            for part in [head, tail] {
                decoder.push(part);
                while outcome.is_ok() {
                    match decoder.next() {
                        Ok(Some(message)) => messages.push(message),
                        Ok(None) => break,
                        Err(error) => outcome = Err(error),
                    }
                }
            }
            prop_assert_eq!(whole, outcome.map(|()| messages));
        }
    }
}
