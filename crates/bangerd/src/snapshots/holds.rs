//! What a snapshot holds, whether or not all of it can be read: it may be whole again to the next
//! daemon, or the one after an update that was taken back.

use std::io;
use std::path::Path;

use banger_host::HostError;
use banger_host::fs::{list_dir, read_bounded};
use banger_model::{ImageId, KernelName, SnapshotId};
use serde::Deserialize;

use super::snapshot::{ABOUT, MAX_ABOUT_LEN};

/// What a snapshot makes no sense without.
#[derive(Debug, PartialEq, Eq, Deserialize)]
pub(crate) struct Holds {
    /// The image that its disk belongs to.
    pub image: ImageId,
    spec: Wanted,
}

#[derive(Debug, PartialEq, Eq, Deserialize)]
struct Wanted {
    #[serde(default)]
    kernel: Option<KernelName>,
}

impl Holds {
    /// The kernel in its memory, unless it is the image's own.
    pub(crate) fn kernel(&self) -> Option<&KernelName> {
        self.spec.kernel.as_ref()
    }

    /// What the snapshot in a directory holds; nothing where that will never be known.
    fn of(dir: &Path) -> Result<Option<Self>, HostError> {
        match read_bounded(&dir.join(ABOUT), MAX_ABOUT_LEN) {
            Ok(json) => Ok(serde_json::from_slice(&json).ok()),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) if error.io_kind() == Some(io::ErrorKind::NotADirectory) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// What all snapshots below a directory hold.
///
/// # Errors
/// When that cannot be told of one.
pub(super) fn all(root: &Path) -> Result<Vec<(SnapshotId, Holds)>, HostError> {
    let mut all = Vec::new();
    for name in list_dir(root)? {
        let Some(Ok(id)) = name.to_str().map(str::parse::<SnapshotId>) else { continue };
        let holds = Holds::of(&root.join(&name))?;
        all.extend(holds.map(|holds| (id, holds)));
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use banger_host::fs::{ensure_private_dir, write_atomic};
    use banger_model::OperationId;

    use super::*;

    #[test]
    fn what_cannot_be_opened_holds_its_image_all_the_same() {
        let root = tempfile::tempdir().unwrap();
        let image = ImageId::from_random([7; 16]);
        let about = |id: u8, json: String| {
            let id = SnapshotId::of(&OperationId::from_random([id; 8]));
            let dir = root.path().join(id.as_str());
            ensure_private_dir(&dir).unwrap();
            write_atomic(&dir.join(ABOUT), json.as_bytes()).unwrap();
            id
        };
        let later = format!(
            r#"{{ "image": "{image}", "spec": {{ "kernel": "mine", "size": "of later" }}, "new": 1 }}"#
        );
        let later = about(1, later);
        about(2, "no json".to_owned());
        ensure_private_dir(&root.path().join(".half.new")).unwrap();
        let found = all(root.path()).unwrap();
        let [(id, holds)] = &found[..] else { panic!("{found:?}") };
        assert_eq!((id, &holds.image), (&later, &image));
        assert_eq!(holds.kernel().unwrap().as_str(), "mine");
        // One that the host cannot read at the moment may hold anything.
        std::fs::remove_file(root.path().join(later.as_str()).join(ABOUT)).unwrap();
        ensure_private_dir(&root.path().join(later.as_str()).join(ABOUT)).unwrap();
        assert!(all(root.path()).is_err());
    }
}
