//! What commands write to standard output: data, in the form that was asked for.
//!
//! Names and messages come from registries, catalogs and guests, too. So everything that is written
//! here steers no terminal, whoever has made it up; what a guest's own commands write goes another
//! way, as it is.

use std::io::Write as _;

use clap::ValueEnum;
use serde::Serialize;

use crate::error::CommandError;

/// The form of a command's output.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people
    #[default]
    Text,
    /// For programs: field names are stable
    Json,
}

/// Between two columns.
const GAP: &str = "  ";

/// Rows under a header, in columns as wide as what is in them. Nothing is cut.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Table<const COLUMNS: usize> {
    header: [&'static str; COLUMNS],
    rows: Vec<[String; COLUMNS]>,
}

impl<const COLUMNS: usize> Table<COLUMNS> {
    /// A table without rows.
    pub(crate) fn new(header: [&'static str; COLUMNS]) -> Self {
        Self { header, rows: Vec::new() }
    }

    /// Adds a row. Each of its cells is one line, whatever is in it.
    pub(crate) fn row(&mut self, cells: [String; COLUMNS]) {
        self.rows.push(cells.map(|cell| shown(cell.as_bytes())));
    }

    /// All lines, the header first. A column in which no row has anything is left out where it
    /// is one of `optional`.
    pub(crate) fn render(&self, optional: &[&str]) -> String {
        let shown = |column: &usize| {
            let used = self.rows.iter().any(|row| !row[*column].is_empty());
            used || !optional.contains(&self.header[*column])
        };
        let columns: Vec<usize> = (0..COLUMNS).filter(shown).collect();
        let header = self.header.map(str::to_owned);
        let lines = || std::iter::once(&header).chain(&self.rows);
        let width = |column: usize| lines().map(|row| row[column].chars().count()).max();
        let widths: Vec<usize> = columns.iter().map(|c| width(*c).unwrap_or(0)).collect();
        let mut text = String::new();
        for row in lines() {
            let cells = columns.iter().zip(&widths);
            let cells: Vec<String> =
                cells.map(|(column, width)| format!("{:width$}", row[*column])).collect();
            text.push_str(cells.join(GAP).trim_end());
            text.push('\n');
        }
        text
    }
}

/// Lines of a name and what goes with it, one under the other. Each is one line, whatever is in it.
pub(crate) fn pairs(pairs: &[(&str, String)]) -> String {
    let width = pairs.iter().map(|(name, _)| name.len() + 1).max().unwrap_or(0);
    let line = |(name, value): &(&str, String)| {
        format!("{:width$} {}\n", format!("{name}:"), shown(value.as_bytes()))
    };
    pairs.iter().map(line).collect()
}

/// Writes a line of text.
pub(crate) fn line(text: impl AsRef<str>) -> Result<(), CommandError> {
    Ok(writeln!(anstream::stdout().lock(), "{}", plain(text.as_ref()))?)
}

/// Writes a line that begins with a word in this style.
pub(crate) fn styled(style: anstyle::Style, word: &str, rest: &str) -> Result<(), CommandError> {
    let rest = plain(rest);
    Ok(writeln!(anstream::stdout().lock(), "{style}{word}{style:#}{rest}")?)
}

/// Writes text that has its line ends.
pub(crate) fn text(text: &str) -> Result<(), CommandError> {
    let mut stdout = anstream::stdout().lock();
    stdout.write_all(plain(text).as_bytes())?;
    Ok(stdout.flush()?)
}

/// Writes a value as JSON.
pub(crate) fn json(value: &impl Serialize) -> Result<(), CommandError> {
    let text = serde_json::to_string_pretty(value).map_err(anyhow::Error::from)?;
    line(escaped_json(&text))
}

/// Writes a value as JSON on a line of its own.
pub(crate) fn json_line(value: &impl Serialize) -> Result<(), CommandError> {
    let text = serde_json::to_string(value).map_err(anyhow::Error::from)?;
    line(escaped_json(&text))
}

/// The same JSON: what would steer a terminal is in strings only, and can be written by its number.
fn escaped_json(text: &str) -> String {
    let escaped = |c: char| match steers(c) && c != '\n' {
        true => format!("\\u{:04x}", u32::from(c)),
        false => c.to_string(),
    };
    text.chars().map(escaped).collect()
}

/// Says something that is no data, on standard error. Nobody there to read it is no failure.
pub(crate) fn notice(text: &str) {
    // A terminal may be raw at this moment: then a line does not begin at the left by itself.
    let end = if banger_host::terminal::is_terminal(std::io::stderr()) { "\r\n" } else { "\n" };
    let _ = write!(anstream::stderr().lock(), "banger: {}{end}", plain(text));
}

/// What others say, as it can be shown in one line of a terminal.
pub(crate) fn shown(text: &[u8]) -> String {
    escaped(&String::from_utf8_lossy(text), "")
}

/// What others say, as it can be shown on a terminal: with its lines and tabs.
pub(crate) fn plain(text: &str) -> String {
    escaped(text, "\n\t")
}

fn escaped(text: &str, kept: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match steers(c) && !kept.contains(c) {
            true => escaped.extend(c.escape_default()),
            false => escaped.push(c),
        }
    }
    escaped
}

/// Whether a terminal obeys this character, or shows what is around it in another order (Unicode
/// Standard Annex 9, "Directional Formatting Characters") or on another line.
pub(crate) fn steers(c: char) -> bool {
    let directs = matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}')
        || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    c.is_control() || directs || matches!(c, '\u{2028}' | '\u{2029}')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(rows: &[[&str; 3]]) -> String {
        let mut table = Table::new(["NAME", "AGE", "EXPIRES"]);
        for row in rows {
            table.row(row.map(str::to_owned));
        }
        table.render(&["EXPIRES"])
    }

    #[test]
    fn columns_are_as_wide_as_their_widest_cell_and_lines_have_no_tail() {
        assert_eq!(
            table(&[["a", "1d 2h", "soon"], ["grüße-an-alle", "3s", ""]]),
            "NAME           AGE    EXPIRES\n\
             a              1d 2h  soon\n\
             grüße-an-alle  3s\n"
        );
    }

    #[test]
    fn a_column_that_says_nothing_is_left_out_only_where_it_may() {
        assert_eq!(table(&[["a", "", ""]]), "NAME  AGE\na\n");
        assert_eq!(table(&[]), "NAME  AGE\n");
    }

    #[test]
    fn pairs_stand_under_each_other() {
        let text = pairs(&[("name", "web".to_owned()), ("id", "0".to_owned())]);
        assert_eq!(text, "name: web\nid:   0\n");
    }

    #[test]
    fn what_could_steer_a_terminal_is_shown_instead() {
        assert_eq!(shown(b"a\x1b[2J\r\n\xc2\x9bz"), "a\\u{1b}[2J\\r\\n\\u{9b}z");
        let evil = "a\x1b]0;x\x07\tb\n\u{7f}\u{9b}\u{202e}\u{2066}\u{2028}grün";
        let kept = "a\\u{1b}]0;x\\u{7}\tb\n\\u{7f}\\u{9b}\\u{202e}\\u{2066}\\u{2028}grün";
        assert_eq!(plain(evil), kept);
        assert_eq!(plain(&plain(evil)), kept);
        // A cell is one line, and so is a pair.
        let one_line = shown(evil.as_bytes());
        assert_eq!(table(&[[evil, "", ""]]).lines().nth(1), Some(one_line.as_str()));
        assert_eq!(pairs(&[("x", evil.to_owned())]), format!("x: {one_line}\n"));
    }

    #[test]
    fn json_says_the_same_and_steers_nothing() {
        let evil = "a\x1b[2J\n\u{7f}\u{9b}\u{202e}\u{2028}grün";
        let json = serde_json::to_string_pretty(&[evil]).unwrap();
        let text = escaped_json(&json);
        assert_eq!(plain(&text), text);
        assert_eq!(text, "[\n  \"a\\u001b[2J\\n\\u007f\\u009b\\u202e\\u2028grün\"\n]");
        assert_eq!(serde_json::from_str::<[String; 1]>(&text).unwrap(), [evil]);
    }
}
