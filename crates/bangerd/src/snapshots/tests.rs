//! Which snapshots stay, for whom and how long.

use banger_host::fs::{create_new, is_there, write_atomic};
use banger_host::staged::Staged;
use banger_model::policy::{Action, Goal};
use banger_model::{
    Accelerator, OperationId, OperationRecord, OperationStatus, SandboxSpec, Timestamp,
};

use super::*;
use crate::saved;
use crate::templates::shape_for_tests as shape;

fn about(tag: Option<&str>) -> About {
    About {
        sandbox: "web".parse().unwrap(),
        tag: tag.map(|tag| tag.parse().unwrap()),
        image: banger_model::ImageId::from_random([7; 16]),
        spec: SandboxSpec::of("an-image".parse().unwrap()),
        shape: shape(),
        accelerator: Accelerator::Tcg,
        origin: None,
        created: Timestamp(7),
        devices_sha256: String::new(),
    }
}

fn id(byte: u8) -> SnapshotId {
    SnapshotId::of(&OperationId::from_random([byte; 8]))
}

fn sandbox(byte: u8) -> SandboxId {
    SandboxId::from_random([byte; 6])
}

/// Makes a snapshot with nothing in it.
fn make(root: &Path, id: &SnapshotId, tag: Option<&str>) -> Snapshot {
    let staged = Staged::begin(&root.join(id.as_str())).unwrap();
    let (dir, about) = (staged.path().to_owned(), about(tag));
    let files = saved::files(&dir);
    write_atomic(&files.devices, b"devices").unwrap();
    create_new(&files.memory).unwrap().set_len(about.shape.memory.bytes().get()).unwrap();
    create_new(&saved::disk(&dir)).unwrap().set_len(about.shape.disk.bytes().get()).unwrap();
    let devices_sha256 = saved::digest(&dir).unwrap();
    About { devices_sha256, ..about }.write(&dir).unwrap();
    staged.commit().unwrap();
    Snapshot::open(&root.join(id.as_str())).unwrap()
}

/// Everything that is below the directory of snapshots.
fn names(root: &Path) -> Vec<String> {
    let names = list_dir(root).unwrap().into_iter();
    names.map(|name| name.into_string().unwrap()).collect()
}

/// Waits for what is removed without anybody waiting.
async fn until_gone(path: &Path) {
    while is_there(path) {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn what_nobody_can_name_goes_with_the_last_who_needs_it() {
    let root = tempfile::tempdir().unwrap();
    let snapshots = Snapshots::below(root.path().to_owned());
    snapshots.need(&id(1), &sandbox(1)).keep();
    snapshots.need(&id(1), &sandbox(2)).keep();
    assert_eq!(snapshots.add(make(root.path(), &id(1), None)), Added::Yes);
    assert!(snapshots.list().is_empty(), "it is not shown");
    snapshots.need_no_more(&id(1), &sandbox(1));
    snapshots.need_no_more(&id(1), &sandbox(1));
    assert!(snapshots.get(&id(1)).is_some());
    snapshots.need_no_more(&id(1), &sandbox(2));
    assert!(snapshots.get(&id(1)).is_none());
    until_gone(&root.path().join(id(1).as_str())).await;
    // All for whom it was taken are gone by the time that it is there.
    assert_eq!(snapshots.add(make(root.path(), &id(2), None)), Added::Yes);
    assert!(snapshots.get(&id(2)).is_none());
    until_gone(&root.path().join(id(2).as_str())).await;
}

#[tokio::test]
async fn a_snapshot_with_a_tag_stays_until_its_user_removes_it() {
    let root = tempfile::tempdir().unwrap();
    let snapshots = Snapshots::below(root.path().to_owned());
    assert_eq!(snapshots.add(make(root.path(), &id(1), Some("a"))), Added::Yes);
    let name: SnapshotName = "web@a".parse().unwrap();
    assert_eq!(snapshots.tags_of(&name.sandbox), [name.tag.clone()].into());
    let (found, need) = snapshots.need_named(&name, &sandbox(1)).unwrap();
    assert_eq!(found.name(), Some(name.clone()));
    let refused = snapshots.remove(&name, &Operations::default()).await.unwrap_err();
    assert!(matches!(refused, NotRemoved::InUse(_, by) if by == sandbox(1)));
    // The sandbox was never remembered.
    drop(need);
    snapshots.sweep();
    assert!(snapshots.get(&id(1)).is_some());
    assert!(snapshots.need_named(&"web@b".parse().unwrap(), &sandbox(1)).is_none());
    snapshots.remove(&name, &Operations::default()).await.unwrap();
    assert!(matches!(
        snapshots.remove(&name, &Operations::default()).await,
        Err(NotRemoved::Missing(_))
    ));
    assert_eq!(names(root.path()), [""; 0]);
}

#[tokio::test]
async fn what_was_given_up_is_not_taken_in_and_what_is_there_is_not_given_up() {
    let root = tempfile::tempdir().unwrap();
    let snapshots = Snapshots::below(root.path().to_owned());
    assert_eq!(snapshots.give_up(&id(1)), GivenUp::Yes);
    assert_eq!(snapshots.add(make(root.path(), &id(1), Some("a"))), Added::GivenUp);
    until_gone(&root.path().join(id(1).as_str())).await;
    assert!(snapshots.get(&id(1)).is_none());
    assert_eq!(snapshots.add(make(root.path(), &id(2), Some("b"))), Added::Yes);
    assert_eq!(snapshots.give_up(&id(2)), GivenUp::TooLate);
    for _ in 0..=MAX_GIVEN_UP {
        assert_eq!(snapshots.give_up(&id(3)), GivenUp::Yes);
    }
    assert!(snapshots.lock().given_up.len() <= MAX_GIVEN_UP);
}

#[tokio::test]
async fn a_snapshot_that_is_being_taken_is_not_removed() {
    let root = tempfile::tempdir().unwrap();
    let snapshots = Snapshots::below(root.path().to_owned());
    assert_eq!(snapshots.add(make(root.path(), &id(1), Some("a"))), Added::Yes);
    let operations = Operations::default();
    let record = OperationRecord {
        id: id(1).operation(),
        sandbox: sandbox(1),
        action: Action::Snapshot,
        goal: Goal::Taken,
        started: Timestamp(1),
        status: OperationStatus::Running,
        tag: None,
    };
    let name: SnapshotName = "web@a".parse().unwrap();
    let taking = operations.track(record, &name.sandbox);
    let refused = snapshots.remove(&name, &operations).await.unwrap_err();
    assert!(matches!(refused, NotRemoved::BeingTaken(_)), "{refused}");
    taking.finish(taking.ended(OperationStatus::Succeeded { at: Timestamp(2) }));
    snapshots.remove(&name, &operations).await.unwrap();
}

#[test]
fn a_daemon_finds_what_is_whole_and_removes_what_was_not_finished() {
    let root = tempfile::tempdir().unwrap();
    make(root.path(), &id(1), Some("a"));
    make(root.path(), &id(2), Some("b"));
    // One that is not whole is not used, and not removed.
    remove_all(&saved::files(&root.path().join(id(2).as_str())).devices).unwrap();
    // One was being taken, another being removed.
    ensure_private_dir(&aside(root.path(), &id(3))).unwrap();
    make(root.path(), &id(4), None);
    rename(&root.path().join(id(4).as_str()), &aside(root.path(), &id(4))).unwrap();
    let found = settle(root.path()).unwrap();
    assert_eq!(found.whole.iter().map(|found| found.id.clone()).collect::<Vec<_>>(), [id(1)]);
    assert_eq!(found.damaged.iter().map(|found| found.id.clone()).collect::<Vec<_>>(), [id(2)]);
    assert_eq!(names(root.path()), [id(1).as_str(), id(2).as_str()]);
    assert!(Snapshot::open(&root.path().join(id(1).as_str())).unwrap().check().is_ok());
}

#[tokio::test]
async fn what_is_damaged_is_called_as_it_was_as_far_as_that_is_known() {
    let root = tempfile::tempdir().unwrap();
    let dir = |byte| root.path().join(id(byte).as_str());
    for (byte, tag) in [(1, Some("7")), (2, Some("b")), (3, None), (4, None), (5, Some("e"))] {
        make(root.path(), &id(byte), tag);
    }
    write_atomic(&saved::files(&dir(1)).devices, b"another").unwrap();
    // What a later banger wrote, perhaps.
    write_atomic(&dir(2).join(snapshot::ABOUT), br#"{ "sandbox": "web", "tag": "b" }"#).unwrap();
    remove_all(&saved::disk(&dir(3))).unwrap();
    remove_all(&saved::disk(&dir(4))).unwrap();
    remove_all(&dir(5).join(snapshot::ABOUT)).unwrap();
    write_atomic(&dir(6), b"no directory").unwrap();
    let snapshots = Snapshots::below(root.path().to_owned());
    let found = settle(root.path()).unwrap();
    assert!(found.whole.is_empty(), "{found:?}");
    found.damaged.into_iter().for_each(|damaged| snapshots.add_damaged(damaged));
    // Those of forks go with those who need them, and only then.
    snapshots.need(&id(3), &sandbox(1)).keep();
    snapshots.need(&id(1), &sandbox(1)).keep();
    snapshots.sweep();
    until_gone(&dir(4)).await;
    assert!(is_there(&dir(3)));
    snapshots.need_no_more(&id(3), &sandbox(1));
    until_gone(&dir(3)).await;

    let name = |byte| format!("damaged@{}", id(byte)).parse::<SnapshotName>().unwrap();
    let names = ["web@7".parse().unwrap(), "web@b".parse().unwrap(), name(5), name(6)];
    let all = snapshots.damaged();
    assert_eq!(all.iter().map(|damaged| damaged.name()).collect::<Vec<_>>(), names);
    let tags = snapshots.tags_of(&"web".parse().unwrap());
    assert_eq!(tags.iter().map(SnapshotTag::as_str).collect::<Vec<_>>(), ["7", "b"]);
    assert!(snapshots.need_named(&names[0], &sandbox(2)).is_none());
    for name in names {
        let gone = snapshots.remove(&name, &Operations::default()).await.unwrap();
        assert!(matches!(gone, Removed::Damaged(_)), "{gone:?}");
        let again = snapshots.remove(&name, &Operations::default()).await;
        assert!(matches!(again, Err(NotRemoved::Missing(_))), "{again:?}");
    }
    assert_eq!(self::names(root.path()), [""; 0]);
}

#[tokio::test]
async fn a_snapshot_whose_files_are_gone_already_is_removed() {
    let root = tempfile::tempdir().unwrap();
    let snapshots = Snapshots::below(root.path().to_owned());
    assert_eq!(snapshots.add(make(root.path(), &id(1), Some("a"))), Added::Yes);
    remove_all(&root.path().join(id(1).as_str())).unwrap();
    snapshots.remove(&"web@a".parse().unwrap(), &Operations::default()).await.unwrap();
}
