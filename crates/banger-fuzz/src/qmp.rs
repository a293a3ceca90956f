//! QEMU's control protocol: what a monitor that a guest has taken over may say.

use crate::codec::Decoder;

/// Where the bytes are cut on their way does not matter, and an error is the last word.
pub(crate) fn qmp(bytes: &[u8]) {
    let Some((cut, bytes)) = bytes.split_first() else { return };
    let whole = decode(&[bytes]);
    let (head, tail) = bytes.split_at(usize::from(*cut).min(bytes.len()));
    let parts: Vec<&[u8]> = std::iter::once(head).chain(tail.chunks(7)).collect();
    assert_eq!(whole, decode(&parts), "cuts change what is understood");
}

/// Every message as text, then the error that ended them, if one did.
fn decode(parts: &[&[u8]]) -> Vec<String> {
    let mut decoder = Decoder::default();
    let mut said = Vec::new();
    for part in parts {
        decoder.push(part);
        loop {
            match decoder.next() {
                Ok(Some(message)) => said.push(format!("{message:?}")),
                Ok(None) => break,
                Err(error) => {
                    said.push(error.to_string());
                    return said;
                }
            }
        }
    }
    said
}
