//! Keys, signatures and digests as text: hexadecimal digits or base64, of a fixed number of bytes.

use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

/// Longest text that is looked at: a few times what the longest value takes.
pub(crate) const MAX_TEXT: usize = 1024;

/// The usual alphabet. Padding may be missing; bits that say nothing have to be zero, so that one
/// value has few ways to be written.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// The bytes themselves, or their text in hex or base64; `None` for everything else.
pub(crate) fn fixed<const N: usize>(input: &[u8]) -> Option<[u8; N]> {
    if let Ok(raw) = <[u8; N]>::try_from(input) {
        return Some(raw);
    }
    if input.len() > MAX_TEXT {
        return None;
    }
    let text = std::str::from_utf8(input).ok()?.trim_ascii();
    if text.len() == 2 * N
        && let Some(bytes) = unhex(text)
    {
        return bytes.try_into().ok();
    }
    base64_lines(text)?.try_into().ok()
}

/// Base64 whose lines may be broken, as most tools do.
pub(crate) fn base64_lines(text: &str) -> Option<Vec<u8>> {
    let joined: String = text.split(['\n', '\r']).collect();
    BASE64.decode(joined).ok()
}

/// Base64 with padding, in one line.
pub(crate) fn to_base64(bytes: &[u8]) -> String {
    BASE64.encode(bytes)
}

/// Lowercase hex.
pub(crate) fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Hex of either case.
pub(crate) fn unhex(text: &str) -> Option<Vec<u8>> {
    if !text.len().is_multiple_of(2) {
        return None;
    }
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|d| u8::try_from(d).ok());
    let pair = |pair: &[u8]| Some(digit(pair[0])? << 4 | digit(pair[1])?);
    text.as_bytes().chunks_exact(2).map(pair).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_value_in_all_its_forms() {
        let raw: [u8; 32] = std::array::from_fn(|i| u8::try_from(i * 7).unwrap());
        let hex = to_hex(&raw);
        let b64 = to_base64(&raw);
        let wrapped = format!("{}\n{}\n", &b64[..20], &b64[20..]);
        let bare = b64.trim_end_matches('=');
        let forms = [hex.clone(), hex.to_uppercase(), format!(" {hex}\n"), b64.clone(), wrapped];
        for text in forms.iter().map(String::as_str).chain([bare]) {
            assert_eq!(fixed::<32>(text.as_bytes()), Some(raw), "{text:?}");
        }
        assert_eq!(fixed(&raw), Some(raw));
    }

    #[test]
    fn what_has_another_length_or_alphabet_is_nothing() {
        let raw = [0xfb; 32];
        let b64 = to_base64(&raw);
        let (hex, url) = (to_hex(&raw), b64.replace('+', "-").replace('/', "_"));
        let bads = ["", &hex[1..], &format!("{hex}0"), &format!("0x{hex}"), &url, &b64[1..], "é"];
        for bad in bads {
            assert_eq!(fixed::<32>(bad.as_bytes()), None, "{bad:?}");
        }
        assert_eq!(fixed::<32>(&[0; 31]), None);
        assert_eq!(fixed::<32>(&[0; 33]), None);
        assert_eq!(fixed::<32>(&[b' '; MAX_TEXT + 1]), None);
        // The last digit carries bits that no byte has room for.
        let loose = format!("{}9=", &b64[..42]);
        assert_eq!(fixed::<32>(loose.as_bytes()), None);
    }
}
