//! The fake of the command line's `output` module: nobody is told anything.

/// A name in a message.
pub(crate) fn shown(name: &[u8]) -> String {
    String::from_utf8_lossy(name).into_owned()
}

/// Something that people should know.
pub(crate) fn notice(_what: &str) {}
