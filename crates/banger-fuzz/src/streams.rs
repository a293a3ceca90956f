//! What daemon and client send each other while a command runs: frames, and events.

use banger_api::attach::{self, ClientFrame, DaemonFrame, Frame};
use banger_api::sse;

/// Where the bytes are cut on their way does not matter, and what was understood says the same
/// when it is sent on. Both directions read the same bytes.
pub(crate) fn attach(bytes: &[u8]) {
    let Some((piece, bytes)) = bytes.split_first() else { return };
    frames::<ClientFrame>(bytes, usize::from(*piece));
    frames::<DaemonFrame>(bytes, usize::from(*piece));
}

fn frames<F: Frame + PartialEq + std::fmt::Debug>(bytes: &[u8], piece: usize) {
    let whole = attach::decode_all::<F>(bytes, usize::MAX);
    assert_eq!(attach::decode_all::<F>(bytes, piece), whole, "cuts change what is understood");
    let sent = encoded(&whole.0);
    let (again, error) = attach::decode_all::<F>(&sent, usize::MAX);
    assert_eq!(error, None, "what is sent on is not understood");
    // Sentences that are too long are cut, and data of no bytes are no frame: once.
    assert_eq!(encoded(&again), sent, "what is sent on says something else");
}

fn encoded<F: Frame>(frames: &[F]) -> Vec<u8> {
    let mut out = Vec::new();
    for frame in frames {
        frame.encode(&mut out);
    }
    out
}

/// Where the text is cut on its way does not matter, no event is longer than all of it, and what
/// was understood says the same when it is sent on.
pub(crate) fn events(bytes: &[u8]) {
    let Some((piece, bytes)) = bytes.split_first() else { return };
    let whole = sse::decode_all(bytes, usize::MAX);
    assert_eq!(
        sse::decode_all(bytes, usize::from(*piece)),
        whole,
        "cuts change what is understood"
    );
    let mut sent = String::new();
    for event in &whole.0 {
        assert!(event.name.len() <= sse::MAX_NAME && !event.name.contains(['\r', '\n']));
        assert!(event.id.as_ref().is_none_or(|id| id.len() <= sse::MAX_ID && !id.contains('\0')));
        assert!(event.data.len() <= bytes.len());
        event.encode(&mut sent);
    }
    let (mut again, error) = sse::decode_all(sent.as_bytes(), usize::MAX);
    assert_eq!(error, None, "what is sent on is not understood");
    assert_eq!(again.len(), whole.0.len());
    for (again, first) in again.iter_mut().zip(&whole.0) {
        // A name that nobody may have is left out.
        if first.name.contains('\0') {
            again.name.clone_from(&first.name);
        }
    }
    assert_eq!(again, whole.0, "what is sent on says something else");
}
