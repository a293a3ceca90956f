//! Control messages on their way: cut into frames, put together again.

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::limits::MAX_MESSAGE;
use crate::stream::Violation;

/// The bytes of a message.
pub(crate) fn encode<T: Serialize>(message: &T) -> Vec<u8> {
    // postcard fails only for types it cannot represent; ours are pinned by a test.
    postcard::to_stdvec(message).unwrap_or_default()
}

/// Puts messages together from their frames.
#[derive(Debug, Default)]
pub(crate) struct Assembly(Vec<u8>);

impl Assembly {
    /// A piece that is not the last.
    pub(crate) fn part(&mut self, bytes: &[u8]) -> Result<(), Violation> {
        if self.0.len() + bytes.len() > MAX_MESSAGE {
            self.clear();
            return Err(Violation("sent a message that is too large"));
        }
        self.0.extend_from_slice(bytes);
        Ok(())
    }

    /// The last piece: the message, or none when it is no message that this build knows.
    pub(crate) fn last<T: DeserializeOwned>(
        &mut self,
        bytes: &[u8],
    ) -> Result<Option<T>, Violation> {
        if self.0.is_empty() {
            return Ok(postcard::from_bytes(bytes).ok());
        }
        self.part(bytes)?;
        let message = postcard::from_bytes(&self.0).ok();
        self.clear();
        Ok(message)
    }

    /// Forgets what was begun.
    pub(crate) fn clear(&mut self) {
        self.0 = Vec::new();
    }
}
