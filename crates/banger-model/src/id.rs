//! Names of hex digits, chosen at random or from a digest: of sandboxes, operations, leases,
//! templates, snapshots, images.

/// Makes the type of a name of so many bytes, written in lowercase hex digits, and of the
/// error for a text that is none.
macro_rules! random_id {
    ($(#[$doc:meta])* $name:ident, $error:ident, $what:literal, $bytes:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        #[doc = concat!("A text that is not ", $what, ".")]
        #[derive(Debug, thiserror::Error, PartialEq, Eq)]
        #[error("not {what}: {0:?} is not {len} lowercase hex digits", what = $what, len = $name::LEN)]
        pub struct $error(String);

        impl $name {
            /// Digits of it.
            pub const LEN: usize = 2 * $bytes;

            /// What these bytes make.
            pub fn from_random(bytes: [u8; $bytes]) -> Self {
                Self(bytes.iter().map(|b| format!("{b:02x}")).collect())
            }

            /// The digits.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl std::str::FromStr for $name {
            type Err = $error;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                let hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
                if text.len() == Self::LEN && text.bytes().all(hex) {
                    Ok(Self(text.to_owned()))
                } else {
                    Err($error(text.to_owned()))
                }
            }
        }

        impl TryFrom<String> for $name {
            type Error = $error;

            fn try_from(text: String) -> Result<Self, Self::Error> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> Self {
                id.0
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl std::fmt::Debug for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

random_id!(
    /// The identity of a sandbox, for ever: twelve lowercase hex digits.
    SandboxId, ParseIdError, "a sandbox id", 6
);
random_id!(
    /// The id of an operation: sixteen lowercase hex digits.
    OperationId, ParseOperationError, "an operation's id", 8
);
random_id!(
    /// The name of a lease, a file whose lock says that a sandbox's client lives: thirty-two
    /// lowercase hex digits, one path component.
    LeaseId, ParseLeaseError, "a lease", 16
);

random_id!(
    /// The name of a template: the beginning of a digest of everything that shaped it, sixteen
    /// lowercase hex digits.
    TemplateId, ParseTemplateError, "a template", 8
);

random_id!(
    /// The id of an image on this host, chosen when it is made: names may come to mean others, an
    /// id never. Thirty-two lowercase hex digits, one path component.
    ImageId, ParseImageIdError, "an image's id", 16
);

random_id!(
    /// The id of a snapshot, that of the operation that takes it: sixteen lowercase hex digits.
    SnapshotId, ParseSnapshotIdError, "a snapshot's id", 8
);

impl SnapshotId {
    /// The id of the snapshot that this operation takes: asked for again, it is the same one.
    pub fn of(operation: &OperationId) -> Self {
        Self(operation.0.clone())
    }

    /// The operation that takes it.
    pub fn operation(&self) -> OperationId {
        OperationId(self.0.clone())
    }
}

impl SandboxId {
    /// The random bytes that the id was made from.
    pub fn bytes(&self) -> [u8; Self::LEN / 2] {
        std::array::from_fn(|i| u8::from_str_radix(&self.0[2 * i..2 * i + 2], 16).unwrap_or(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_comes_back_as_it_was() {
        let bytes = [0, 1, 0xab, 0xff, 0x10, 0x7f];
        let id = SandboxId::from_random(bytes);
        assert_eq!(id.as_str(), "0001abff107f");
        assert_eq!(id.bytes(), bytes);
        assert_eq!(id.as_str().parse(), Ok(id));
    }

    #[test]
    fn a_snapshot_is_known_by_the_operation_that_takes_it() {
        let operation = OperationId::from_random([7; 8]);
        assert_eq!(SnapshotId::of(&operation).operation(), operation);
    }

    #[test]
    fn nothing_but_twelve_hex_digits_is_an_id() {
        for bad in
            ["", "0001abff107", "0001abff107ff", "0001ABFF107F", "../../../etc", "0001abff107g"]
        {
            assert!(bad.parse::<SandboxId>().is_err(), "{bad}");
        }
    }
}
