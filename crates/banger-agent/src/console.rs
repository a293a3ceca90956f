//! The last resort for saying what went wrong: one line on the guest's console.
//!
//! The kernel starts PID 1 with its standard streams on the console, and the host keeps what
//! appears there. Nothing is written in a boot that goes well.

use std::error::Error;
use std::fmt::Write as _;

use rustix::stdio::stderr;

/// Longest line; the console is slow and its log on the host is bounded.
const MAX_LINE: usize = 1024;

/// Says who speaks and what, in one line.
pub(crate) fn say(text: &str) {
    write_line(&format!("banger-agent: {text}"));
}

/// Writes one line. Whether it arrives cannot be known: there is nobody left to tell.
pub(crate) fn write_line(text: &str) {
    let plain = |c: char| if c.is_control() { ' ' } else { c };
    let mut line: String = text.chars().map(plain).take(MAX_LINE).collect();
    line.push('\n');
    let _nobody_left = rustix::io::write(stderr(), line.as_bytes());
}

/// An error with everything that led to it, in one line.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let _infallible = write!(text, ": {cause}");
        next = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("cannot boot")]
    struct Outer(#[source] std::io::Error);

    #[test]
    fn a_chain_is_one_line_from_the_outside_in() {
        let error = Outer(std::io::Error::other("no disk"));
        assert_eq!(chain(&error), "cannot boot: no disk");
    }
}
