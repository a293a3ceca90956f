//! Properties of an entry that its header has no room for (pax): `LENGTH KEY=VALUE\n` again and
//! again.

use super::header::Malformed;

/// What was said about the next entry; it goes before its header.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Properties {
    pub(super) name: Option<Vec<u8>>,
    pub(super) link: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    pub(super) uid: Option<u64>,
    pub(super) gid: Option<u64>,
    /// Seconds and nanoseconds since 1970.
    pub(super) mtime: Option<(u64, u32)>,
}

const BAD: Malformed = Malformed("has properties of an entry that make no sense");

impl Properties {
    /// Takes in records.
    pub(super) fn read(&mut self, mut records: &[u8]) -> Result<(), Malformed> {
        while !records.is_empty() {
            let blank = records.iter().position(|byte| *byte == b' ').ok_or(BAD)?;
            let len = usize::try_from(decimal(&records[..blank])?).map_err(|_| BAD)?;
            let record = records.get(blank + 1..len).ok_or(BAD)?;
            let record = record.strip_suffix(b"\n").ok_or(BAD)?;
            let equals = record.iter().position(|byte| *byte == b'=').ok_or(BAD)?;
            self.set(&record[..equals], &record[equals + 1..])?;
            records = &records[len..];
        }
        Ok(())
    }

    fn set(&mut self, key: &[u8], value: &[u8]) -> Result<(), Malformed> {
        match key {
            b"path" => self.name = Some(value.to_vec()),
            b"linkpath" => self.link = Some(value.to_vec()),
            b"size" => self.size = Some(decimal(value)?),
            b"uid" => self.uid = Some(decimal(value)?),
            b"gid" => self.gid = Some(decimal(value)?),
            b"mtime" => self.mtime = Some(time(value)?),
            // Read as a plain file, it would come out as something else.
            _ if key.starts_with(b"GNU.sparse.") => {
                return Err(Malformed("has a sparse file in pax's form, which is not known here"));
            }
            _ => {}
        }
        Ok(())
    }
}

fn decimal(digits: &[u8]) -> Result<u64, Malformed> {
    let is_number = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
    let text = std::str::from_utf8(digits).ok().filter(|_| is_number).ok_or(BAD)?;
    text.parse().map_err(|_| BAD)
}

/// `SECONDS[.FRACTION]`; before 1970 counts as 1970.
fn time(value: &[u8]) -> Result<(u64, u32), Malformed> {
    if value.starts_with(b"-") {
        return Ok((0, 0));
    }
    let mut parts = value.splitn(2, |byte| *byte == b'.');
    let seconds = decimal(parts.next().unwrap_or_default())?;
    let fraction = parts.next().unwrap_or_default();
    if !fraction.iter().all(u8::is_ascii_digit) {
        return Err(BAD);
    }
    let digits = fraction.iter().copied().chain(std::iter::repeat(b'0')).take(9);
    Ok((seconds, digits.fold(0, |n, digit| n * 10 + u32::from(digit - b'0'))))
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn records_are_read_and_strangers_passed_over() {
        let mut found = Properties::default();
        found.read(b"12 path=a=b\n20 mtime=12.0345678\n13 comment=x\n11 uid=500\n").unwrap();
        let expected = Properties {
            name: Some(b"a=b".to_vec()),
            mtime: Some((12, 34_567_800)),
            uid: Some(500),
            ..Properties::default()
        };
        assert_eq!(found, expected);
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let bad: [&[u8]; 8] = [
            b"99 path=a\n",
            b"10 path=a",
            b"3 x\n",
            b"0 path=a\n",
            b"-1 path=a\n",
            b"10 size=x\n\n",
            b"99999999999999999999999 a=b\n",
            b"25 GNU.sparse.major=1.00\n",
        ];
        for records in bad {
            let text = String::from_utf8_lossy(records);
            assert!(Properties::default().read(records).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_records_are_survived(bytes in vec(prop_oneof![
            any::<u8>(), Just(b' '), Just(b'='), Just(b'\n'), b'0'..=b'9',
        ], 0..200)) {
            let _malformed = Properties::default().read(&bytes);
        }
    }
}
