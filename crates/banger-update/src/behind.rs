//! Verification beside the writing: a thread takes the pieces as they were written, while the next
//! ones are fetched, and has their digest and their signature looked at side by side.

use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::{self, Builder, JoinHandle};

use banger_host::HostError;
use banger_trust::{Check, Content, Job, Unverified, Verified};

/// Pieces that may wait to be verified. With the one that is looked at and the one that is being
/// fetched, they are what a download holds in memory.
const WAITING: usize = 4;

/// A check that is fed by another thread than the one that has the bytes.
#[derive(Debug)]
pub(crate) struct Behind {
    pieces: SyncSender<Vec<u8>>,
    thread: JoinHandle<Result<Check, Unverified>>,
}

impl Behind {
    /// Begins with a check that was fed nothing yet.
    ///
    /// # Errors
    /// When there can be no thread.
    pub(crate) fn begin(mut check: Check) -> Result<Self, HostError> {
        let (pieces, waiting) = sync_channel::<Vec<u8>>(WAITING);
        let verify = move || {
            for piece in waiting {
                check.update_by(&piece, side_by_side)?;
            }
            Ok(check)
        };
        let thread = Builder::new().name("verify".to_owned()).spawn(verify);
        let thread = thread.map_err(|error| HostError::system("start a thread", error))?;
        Ok(Self { pieces, thread })
    }

    /// The next piece. It waits when too many are waiting already.
    pub(crate) fn update(&mut self, piece: Vec<u8>) {
        // A check that is over has its verdict already, and `finish` tells it.
        let _ = self.pieces.send(piece);
    }

    /// The verdict on all pieces.
    ///
    /// # Errors
    /// When they are not what they have to be.
    pub(crate) fn finish(self) -> Result<Verified<Content>, Unverified> {
        drop(self.pieces);
        match self.thread.join() {
            Ok(check) => check?.finish(),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }
}

/// Two jobs at the same time, or one after the other if there can be no more threads. A thread takes
/// a hundredth of the time that a piece does.
fn side_by_side(one: Job<'_>, other: Job<'_>) {
    let both = thread::scope(|scope| {
        let beside = Builder::new().name("digest".to_owned()).spawn_scoped(scope, &mut *one);
        other();
        beside.is_ok()
    });
    if !both {
        one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use banger_trust::{Expected, Sha256Digest, SignedBy, Trust};

    fn behind(content: &[u8]) -> Behind {
        let digest = Some(Sha256Digest::of(content));
        let expected = Expected { max_len: 1 << 20, len: Some(content.len() as u64), digest };
        let trust = Trust::InsistedWithoutKeys;
        Behind::begin(trust.check(&SignedBy::NobodyAsInsisted, None, expected).unwrap()).unwrap()
    }

    #[test]
    fn the_verdict_is_on_all_pieces_in_their_order() {
        let content: Vec<u8> = (0..=255).collect();
        let verdict = |pieces: &[&[u8]]| {
            let mut check = behind(&content);
            pieces.iter().for_each(|piece| check.update(piece.to_vec()));
            check.finish()
        };
        let pieces: Vec<&[u8]> = content.chunks(3).collect();
        assert_eq!(verdict(&pieces).unwrap().get().len, 256);
        let (one, other) = content.split_at(100);
        assert!(matches!(verdict(&[other, one]), Err(Unverified::Digest { .. })));
        assert!(matches!(verdict(&[one]), Err(Unverified::Length { .. })));
        // Far more pieces than may wait, of which the second is too much already.
        let too_much = vec![&content[..]; 20];
        assert!(matches!(verdict(&too_much), Err(Unverified::TooLong { .. })));
    }
}
