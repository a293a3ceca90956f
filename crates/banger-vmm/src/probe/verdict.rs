//! What is concluded from a trial of KVM. Pure.

use std::io;

use banger_model::Accelerator;
use serde::{Deserialize, Serialize};

use crate::vmm::EndReason;

/// What a verdict holds for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Key {
    pub(super) boot_id: String,
    pub(super) guest: String,
    pub(super) vmm: String,
}

/// Whether KVM is any good here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum KvmVerdict {
    /// It has run a guest.
    Usable,
    /// It is there, but does not run guests.
    NotUsable {
        /// What happened when it was tried.
        reason: String,
    },
    /// This host has no `/dev/kvm`.
    Absent,
    /// This user may not open it.
    NoPermission,
}

impl KvmVerdict {
    /// What guests are run with.
    pub fn accelerator(&self) -> Accelerator {
        match self {
            Self::Usable => Accelerator::Kvm,
            Self::NotUsable { .. } | Self::Absent | Self::NoPermission => Accelerator::Tcg,
        }
    }

    /// One line for the user when guests are to be emulated; `None` when they are not.
    pub fn notice(&self) -> Option<String> {
        let why = match self {
            Self::Usable => return None,
            Self::NotUsable { reason } => format!("KVM is there but does not work ({reason})"),
            Self::Absent => "this machine has no /dev/kvm".to_owned(),
            Self::NoPermission => {
                "you may not open /dev/kvm (join its group, mostly \"kvm\")".to_owned()
            }
        };
        Some(format!("{why}: sandboxes are emulated, which is several times slower"))
    }
}

/// What came of a trial.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The marker was printed.
    Marked,
    /// The machine ended without it.
    Ended(EndReason),
    /// The processors could not go on.
    Broken,
    /// Nothing happened in time.
    Silent { seconds: u64 },
    /// It did not even start.
    NotStarted(String),
}

pub(super) fn judge(outcome: Outcome) -> KvmVerdict {
    let reason = match outcome {
        Outcome::Marked => return KvmVerdict::Usable,
        Outcome::Broken => "it cannot execute the guest's instructions".to_owned(),
        Outcome::Silent { seconds } => format!("a guest did not boot within {seconds} s"),
        Outcome::NotStarted(why) => why,
        Outcome::Ended(EndReason::Panicked(message)) => {
            format!("the guest's kernel panicked: {message}")
        }
        Outcome::Ended(EndReason::Crashed(message)) => {
            format!("the monitor ended: {message}")
        }
        Outcome::Ended(_) => "the guest ended before it ran a program".to_owned(),
    };
    KvmVerdict::NotUsable { reason }
}

/// What it means that the device cannot be opened.
pub(super) fn of_open_error(error: &io::Error) -> KvmVerdict {
    match error.kind() {
        io::ErrorKind::NotFound => KvmVerdict::Absent,
        io::ErrorKind::PermissionDenied => KvmVerdict::NoPermission,
        _ => KvmVerdict::NotUsable { reason: format!("cannot open /dev/kvm: {error}") },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_marker_proves_that_kvm_works() {
        assert_eq!(judge(Outcome::Marked), KvmVerdict::Usable);
        for outcome in [
            Outcome::Ended(EndReason::PoweredOff),
            Outcome::Ended(EndReason::Reset),
            Outcome::Ended(EndReason::Panicked("x".into())),
            Outcome::Ended(EndReason::Crashed("x".into())),
            Outcome::Ended(EndReason::Unseen),
            Outcome::Broken,
            Outcome::Silent { seconds: 10 },
            Outcome::NotStarted("x".into()),
        ] {
            let verdict = judge(outcome.clone());
            assert!(matches!(verdict, KvmVerdict::NotUsable { .. }), "{outcome:?}");
            assert_eq!(verdict.accelerator(), Accelerator::Tcg);
        }
    }

    #[test]
    fn the_notice_is_one_line_that_says_why() {
        assert_eq!(KvmVerdict::Usable.notice(), None);
        let verdict = judge(Outcome::Silent { seconds: 10 });
        assert_eq!(
            verdict.notice().unwrap(),
            "KVM is there but does not work (a guest did not boot within 10 s): \
             sandboxes are emulated, which is several times slower"
        );
        for verdict in [KvmVerdict::Absent, KvmVerdict::NoPermission] {
            assert!(!verdict.notice().unwrap().contains('\n'));
        }
    }

    #[test]
    fn why_the_device_cannot_be_opened_decides() {
        let of = |kind: io::ErrorKind| of_open_error(&kind.into());
        assert_eq!(of(io::ErrorKind::NotFound), KvmVerdict::Absent);
        assert_eq!(of(io::ErrorKind::PermissionDenied), KvmVerdict::NoPermission);
        assert!(matches!(of(io::ErrorKind::Other), KvmVerdict::NotUsable { .. }));
    }
}
