//! The thread: who is told what, when, and by whom.

use std::sync::Barrier;
use std::sync::mpsc::{Receiver, channel};

use tempfile::TempDir;

use super::*;
use crate::samples::{large, sandbox};

type Outcome = Result<(), WriteFailed>;

fn store() -> (TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("state.db")).unwrap();
    (dir, store)
}

fn insert(n: u16, name: &str) -> Vec<Write> {
    vec![Write::Insert(sandbox(n, name))]
}

fn submit(writer: &Writer, group: Vec<Write>) -> Receiver<Outcome> {
    let (tell, told) = channel();
    writer.submit(group, move |outcome| tell.send(outcome).unwrap());
    told
}

/// Holds the thread up in a `done` until what is answered is dropped.
fn hold_up(writer: &Writer) -> SyncSender<()> {
    let (held, is_held) = channel();
    let (release, released) = sync_channel(0);
    writer.submit(Vec::new(), move |_| {
        held.send(()).unwrap();
        let _dropped = released.recv();
    });
    is_held.recv().unwrap();
    release
}

#[test]
fn when_done_is_called_others_can_read_what_was_written() {
    let (dir, store) = store();
    let writer = Writer::start(store).unwrap();
    let path = dir.path().join("state.db");
    let (tell, told) = channel();
    writer.submit(insert(1, "web"), move |outcome| {
        outcome.unwrap();
        tell.send(Store::open(&path).unwrap().load().unwrap().sandboxes).unwrap();
    });
    assert_eq!(told.recv().unwrap(), [sandbox(1, "web")]);
}

#[test]
fn of_two_threads_that_want_one_name_one_gets_it() {
    let (dir, store) = store();
    let writer = Writer::start(store).unwrap();
    let start = Barrier::new(2);
    for round in 0..20u16 {
        let name = format!("n{round}");
        let ask = |n| {
            start.wait();
            submit(&writer, insert(n, &name)).recv().unwrap()
        };
        let outcomes = thread::scope(|scope| {
            let other = scope.spawn(|| ask(2 * round));
            [ask(2 * round + 1), other.join().unwrap()]
        });
        let lost: Vec<_> = outcomes.iter().filter_map(|outcome| outcome.as_ref().err()).collect();
        let taken =
            |lost: &WriteFailed| matches!(lost, WriteFailed::Refused(Refused::NameTaken { .. }));
        assert!(lost.len() == 1 && taken(lost[0]), "{outcomes:?}");
    }
    writer.close();
    let store = Store::open(&dir.path().join("state.db")).unwrap();
    assert_eq!(store.load().unwrap().sandboxes.len(), 20);
}

#[test]
fn a_full_queue_is_told_at_once_and_what_waited_is_written() {
    let (dir, store) = store();
    let writer = Writer::start(store).unwrap();
    let held = hold_up(&writer);
    let max = u16::try_from(MAX_WAITING_GROUPS).unwrap();
    let waiting: Vec<_> = (0..max).map(|n| submit(&writer, insert(n, &format!("n{n}")))).collect();
    let late = submit(&writer, insert(max, "late")).try_recv();
    assert!(matches!(late, Ok(Err(WriteFailed::Busy))), "{late:?}");
    drop(held);
    assert!(waiting.iter().all(|told| told.recv().unwrap().is_ok()));
    drop(writer);
    let store = Store::open(&dir.path().join("state.db")).unwrap();
    assert_eq!(store.load().unwrap().sandboxes.len(), MAX_WAITING_GROUPS);
}

#[test]
fn dropping_the_writer_writes_what_waits_and_tells_everybody() {
    let (dir, store) = store();
    let writer = Writer::start(store).unwrap();
    let held = hold_up(&writer);
    let told: Vec<_> = (0..50).map(|n| submit(&writer, insert(n, &format!("n{n}")))).collect();
    drop(held);
    drop(writer);
    assert!(told.iter().all(|told| matches!(told.try_recv(), Ok(Ok(())))));
    let store = Store::open(&dir.path().join("state.db")).unwrap();
    assert_eq!(store.load().unwrap().sandboxes.len(), 50);
}

#[test]
fn the_last_owner_may_be_a_done() {
    let (_dir, store) = store();
    let writer = Arc::new(Writer::start(store).unwrap());
    let held = hold_up(&writer);
    let (tell, told) = channel();
    let owner = Arc::clone(&writer);
    writer.submit(insert(1, "web"), move |outcome| {
        drop(owner);
        tell.send(outcome).unwrap();
    });
    drop(writer);
    drop(held);
    assert!(told.recv().unwrap().is_ok());
}

#[test]
fn when_a_commit_fails_all_its_groups_learn_it_and_later_ones_are_written() {
    let (dir, store) = store();
    let conn = store.conn();
    let pages: i64 = conn.query_row("PRAGMA page_count", [], |row| row.get(0)).unwrap();
    conn.execute_batch(&format!("PRAGMA max_page_count = {}", pages + 4)).unwrap();
    let writer = Writer::start(store).unwrap();
    let held = hold_up(&writer);
    let together = [
        submit(&writer, insert(1, "a")),
        submit(&writer, vec![Write::Insert(large(2, "b", 100_000))]),
        submit(&writer, insert(3, "c")),
    ];
    drop(held);
    for told in together {
        let told = told.recv().unwrap();
        let Err(WriteFailed::Store(error)) = &told else { panic!("{told:?}") };
        assert!(matches!(**error, StoreError::Full { .. }), "{error:?}");
    }
    assert!(submit(&writer, insert(4, "d")).recv().unwrap().is_ok());
    drop(writer);
    let store = Store::open(&dir.path().join("state.db")).unwrap();
    assert_eq!(store.load().unwrap().sandboxes, [sandbox(4, "d")]);
}
