//! Server-sent events: their text, and a decoder that takes it in any pieces. Without any I/O.

use std::fmt::Write as _;

use thiserror::Error;

/// Most bytes of one event: the largest are pieces of logs and operations with their own logs.
pub const MAX_EVENT: usize = 4 * 1024 * 1024;
/// Longest id of an event: ids come back in a header.
pub const MAX_ID: usize = 256;
/// Longest name of an event's kind.
pub const MAX_NAME: usize = 64;

/// One event.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Event {
    /// What it is; empty for the usual.
    pub name: String,
    /// Its id, if it has one of its own.
    pub id: Option<String>,
    /// Its data; lines are parted by `\n`.
    pub data: String,
}

impl Event {
    /// Appends the event as text. Line breaks within name or id would end them, so such a name
    /// or id is left out.
    pub fn encode(&self, out: &mut String) {
        let plain = |text: &str| !text.contains(['\r', '\n', '\0']);
        if !self.name.is_empty() && plain(&self.name) {
            let _ = writeln!(out, "event: {}", self.name);
        }
        if let Some(id) = self.id.as_deref().filter(|id| plain(id)) {
            let _ = writeln!(out, "id: {id}");
        }
        for line in self.data.split(['\r', '\n']) {
            let _ = writeln!(out, "data: {line}");
        }
        out.push('\n');
    }
}

/// Why text is not taken as events.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum EventError {
    /// More than any event may have.
    #[error("an event longer than {MAX_EVENT} bytes came")]
    TooLong,
    /// An id or name that is too long.
    #[error("an event came with an id or a name that is too long")]
    Field,
    /// Not UTF-8.
    #[error("an event came that is no text")]
    NotText,
}

/// Makes events of text that arrives in any pieces. Holds one unfinished event at most.
#[derive(Debug, Default)]
pub struct Decoder {
    line: Vec<u8>,
    after_return: bool,
    after_first_line: bool,
    event: Event,
    has_data: bool,
    broken: Option<EventError>,
}

impl Decoder {
    /// Takes bytes from the front of `input` until an event is whole or nothing is left; to be
    /// called again while it returns events.
    ///
    /// # Errors
    /// If an event is too long or no text; from then on always the same.
    pub fn next(&mut self, input: &mut &[u8]) -> Result<Option<Event>, EventError> {
        if let Some(error) = self.broken {
            return Err(error);
        }
        let result = self.step(input);
        if let Err(error) = result {
            *self = Self { broken: Some(error), ..Self::default() };
        }
        result
    }

    fn step(&mut self, input: &mut &[u8]) -> Result<Option<Event>, EventError> {
        while let Some(first) = input.first() {
            // The second half of CR LF, whose first half has ended the line.
            if std::mem::take(&mut self.after_return) && *first == b'\n' {
                *input = &input[1..];
                continue;
            }
            let end = input.iter().position(|b| matches!(b, b'\r' | b'\n'));
            let piece = &input[..end.unwrap_or(input.len())];
            if self.line.len() + self.event.data.len() + piece.len() > MAX_EVENT {
                return Err(EventError::TooLong);
            }
            self.line.extend_from_slice(piece);
            let Some(end) = end else {
                *input = &[];
                return Ok(None);
            };
            self.after_return = input[end] == b'\r';
            *input = &input[end + 1..];
            if let Some(event) = self.end_of_line()? {
                return Ok(Some(event));
            }
        }
        Ok(None)
    }

    fn end_of_line(&mut self) -> Result<Option<Event>, EventError> {
        let line = String::from_utf8(std::mem::take(&mut self.line));
        let line = line.map_err(|_| EventError::NotText)?;
        let first = !std::mem::replace(&mut self.after_first_line, true);
        let line = if first { line.trim_start_matches('\u{feff}') } else { &line };
        if line.is_empty() {
            let event = std::mem::take(&mut self.event);
            // What has no data is no event: comments keep a connection alive this way.
            return Ok(std::mem::take(&mut self.has_data).then_some(event));
        }
        self.field(line)?;
        Ok(None)
    }

    fn field(&mut self, line: &str) -> Result<(), EventError> {
        let (name, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match name {
            "data" => {
                if std::mem::replace(&mut self.has_data, true) {
                    self.event.data.push('\n');
                }
                self.event.data.push_str(value);
            }
            "id" if value.len() > MAX_ID => return Err(EventError::Field),
            "id" if !value.contains('\0') => self.event.id = Some(value.to_owned()),
            "event" if value.len() > MAX_NAME => return Err(EventError::Field),
            "event" => value.clone_into(&mut self.event.name),
            // Comments have no name; `retry` and what is not known yet say nothing to us.
            _ => {}
        }
        Ok(())
    }
}

/// Decodes all of `input` as it would arrive in pieces of this size, until an error. A door for
/// fuzzing: the outcome must not depend on the size of the pieces.
pub fn decode_all(input: &[u8], piece: usize) -> (Vec<Event>, Option<EventError>) {
    let mut decoder = Decoder::default();
    let mut events = Vec::new();
    for mut piece in input.chunks(piece.max(1)) {
        loop {
            match decoder.next(&mut piece) {
                Ok(Some(event)) => events.push(event),
                Ok(None) => break,
                Err(error) => return (events, Some(error)),
            }
        }
    }
    (events, None)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn event(name: &str, id: Option<&str>, data: &str) -> Event {
        Event { name: name.to_owned(), id: id.map(str::to_owned), data: data.to_owned() }
    }

    #[test]
    fn every_kind_of_line_end_ends_a_line_wherever_it_is_cut() {
        let text = ": alive\n\ndata: a\r\ndata: b\r\rid: 7\nevent:problem\ndata\n\nid: 8\n\ndata:x";
        let expected = vec![event("", None, "a\nb"), event("problem", Some("7"), "")];
        for piece in 1..text.len() {
            assert_eq!(decode_all(text.as_bytes(), piece), (expected.clone(), None), "{piece}");
        }
    }

    #[test]
    fn a_mark_of_byte_order_is_no_part_of_the_first_line() {
        let (events, _) = decode_all("\u{feff}data: x\n\n".as_bytes(), 1);
        assert_eq!(events, [event("", None, "x")]);
    }

    #[test]
    fn endless_events_and_ids_are_errors() {
        let mut decoder = Decoder::default();
        let line = b"data: 0123456789\n".repeat(1000);
        let error = (0..1000).find_map(|_| decoder.next(&mut &line[..]).err());
        assert_eq!(error, Some(EventError::TooLong));
        assert_eq!(decoder.next(&mut &b"\n"[..]), Err(EventError::TooLong), "it stays broken");
        let line = vec![b'x'; MAX_EVENT + 1];
        assert_eq!(decode_all(&line, 4096), (Vec::new(), Some(EventError::TooLong)));
        let id = format!("id: {}\n", "7".repeat(MAX_ID + 1));
        assert_eq!(decode_all(id.as_bytes(), 100).1, Some(EventError::Field));
        assert_eq!(decode_all(b"data: \xff\n\n", 100).1, Some(EventError::NotText));
    }

    #[test]
    fn a_line_break_in_an_id_makes_no_other_field() {
        let mut out = String::new();
        event("a\rb", Some("1\ndata: evil"), "good").encode(&mut out);
        assert_eq!(out, "data: good\n\n");
    }

    proptest! {
        #[test]
        fn events_come_back_over_any_cuts(
            parts in prop::collection::vec(("[a-z]{0,5}", prop::option::of("[0-9]{0,5}"), "[^\r]{0,30}"), 0..5),
            piece in 1usize..20,
        ) {
            let events: Vec<_> =
                parts.iter().map(|(name, id, data)| event(name, id.as_deref(), data)).collect();
            let mut text = String::new();
            events.iter().for_each(|event| event.encode(&mut text));
            prop_assert_eq!(decode_all(text.as_bytes(), piece), (events, None));
        }

        #[test]
        fn any_bytes_mean_the_same_in_any_pieces(
            input in prop::collection::vec(
                prop_oneof![Just(b'\n'), Just(b'\r'), Just(b':'), Just(b'd'), any::<u8>()], 0..100),
            piece in 1usize..20,
        ) {
            prop_assert_eq!(decode_all(&input, piece), decode_all(&input, usize::MAX));
        }
    }
}
