//! Images of containers made up by tests, and a real registry to fetch them from.
#![expect(missing_docs, reason = "names of the format's own")]
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test ends where something fails")]
#![expect(clippy::disallowed_methods, reason = "tests start programs and write files")]

pub mod images;
pub mod registry;
