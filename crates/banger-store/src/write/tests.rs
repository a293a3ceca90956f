//! Groups of changes against a small model, and every reason to refuse one.

use std::collections::BTreeMap;

use banger_model::OperationStatus;
use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::load::Remembered;
use crate::samples::{any_operation, any_sandbox, large, operation, sandbox};
use crate::store::Store;

fn store() -> (TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("state.db")).unwrap();
    (dir, store)
}

fn one(store: &mut Store, group: Vec<Write>) -> Result<(), Refused> {
    store.write(&[group]).unwrap().pop().unwrap()
}

/// What is to be remembered, kept in memory.
#[derive(Clone, Debug, Default)]
struct Model {
    sandboxes: BTreeMap<SandboxId, SandboxRecord>,
    operations: BTreeMap<OperationId, OperationRecord>,
}

impl Model {
    fn holder(&self, record: &SandboxRecord) -> Option<Refused> {
        let holder = self.sandboxes.values().find(|s| s.name == record.name && s.id != record.id);
        let name = record.name.clone();
        holder.map(|holder| Refused::NameTaken { name, by: holder.id.clone() })
    }

    fn apply(&mut self, change: &Write) -> Result<(), Refused> {
        match change {
            Write::Insert(record) => {
                let exists = self.sandboxes.contains_key(&record.id);
                let exists = exists.then(|| Refused::Exists(record.id.clone()));
                self.holder(record).or(exists).map_or(Ok(()), Err)?;
                self.sandboxes.insert(record.id.clone(), record.clone());
            }
            Write::Update(record) => {
                let unknown = !self.sandboxes.contains_key(&record.id);
                let unknown = unknown.then(|| Refused::Unknown(record.id.clone()));
                self.holder(record).or(unknown).map_or(Ok(()), Err)?;
                self.sandboxes.insert(record.id.clone(), record.clone());
            }
            Write::Remove(id) => {
                self.sandboxes.remove(id).ok_or_else(|| Refused::Unknown(id.clone()))?;
            }
            Write::PutOperation(record) => {
                self.operations.insert(record.id.clone(), record.clone());
            }
            Write::RemoveOperation(id) => {
                self.operations.remove(id);
            }
            Write::PruneOperations { finished_before, keep } => {
                let mut last: Vec<_> = self.operations.values().filter_map(finished).collect();
                last.sort();
                for (_, id) in last.iter().rev().skip(*keep) {
                    self.operations.remove(id);
                }
                self.operations
                    .retain(|_, o| finished(o).is_none_or(|(at, _)| at >= *finished_before));
            }
        }
        Ok(())
    }

    fn groups(&mut self, groups: &[Vec<Write>]) -> Vec<Result<(), Refused>> {
        let whole = |group: &Vec<Write>| {
            let mut after = self.clone();
            group.iter().try_for_each(|change| after.apply(change)).map(|()| *self = after)
        };
        groups.iter().map(whole).collect()
    }

    fn remembered(self) -> Remembered {
        let mut sandboxes: Vec<_> = self.sandboxes.into_values().collect();
        sandboxes.sort_by_key(|s| (s.created, s.id.clone()));
        let mut operations: Vec<_> = self.operations.into_values().collect();
        operations.sort_by_key(|o| (o.started, o.id.clone()));
        Remembered { sandboxes, operations, damaged: Vec::new() }
    }
}

fn finished(operation: &OperationRecord) -> Option<(Timestamp, OperationId)> {
    match operation.status {
        OperationStatus::Succeeded { at } => Some((at, operation.id.clone())),
        _ => None,
    }
}

/// Few ids and names, so that they meet.
fn change() -> impl Strategy<Value = Write> {
    let record = || {
        (0..5u16, "[abc]", 0..9u32)
            .prop_map(|(n, name, restarts)| SandboxRecord { restarts, ..sandbox(n, &name) })
    };
    let put = (0..6u16, prop::option::of(0..8u64)).prop_map(|(n, at)| operation(n, at));
    prop_oneof![
        3 => record().prop_map(Write::Insert),
        2 => record().prop_map(Write::Update),
        1 => record().prop_map(|record| Write::Remove(record.id)),
        3 => put.prop_map(Write::PutOperation),
        1 => (0..6u16).prop_map(|n| Write::RemoveOperation(operation(n, None).id)),
        1 => (0..8u64, 0..4usize).prop_map(|(before, keep)| Write::PruneOperations {
            finished_before: Timestamp(before),
            keep,
        }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn groups_happen_as_a_whole_or_not_at_all(
        batches in prop::collection::vec(
            prop::collection::vec(prop::collection::vec(change(), 0..5), 0..6),
            1..5,
        ),
    ) {
        let (_dir, mut store) = store();
        let mut model = Model::default();
        for groups in batches {
            prop_assert_eq!(store.write(&groups).unwrap(), model.groups(&groups));
        }
        prop_assert_eq!(store.load().unwrap(), model.remembered());
    }

    #[test]
    fn every_record_comes_back_as_it_was(
        sandboxes in prop::collection::vec(any_sandbox(), 0..8),
        operations in prop::collection::vec(any_operation(), 0..8),
    ) {
        let (dir, mut store) = store();
        let puts = operations.iter().cloned().map(Write::PutOperation);
        let mut model = Model::default();
        let groups: Vec<_> = sandboxes.iter().cloned().map(Write::Insert).chain(puts)
            .map(|change| vec![change]).collect();
        prop_assert_eq!(store.write(&groups).unwrap(), model.groups(&groups));
        drop(store);
        let found = Store::open(&dir.path().join("state.db")).unwrap().load().unwrap();
        let mut expected = model.remembered();
        // Beyond what an integer of SQLite holds, times only sort as the last ones.
        expected.sandboxes.sort_by_key(|s| (row::time(s.created), s.id.clone()));
        expected.operations.sort_by_key(|o| (row::time(o.started), o.id.clone()));
        prop_assert_eq!(found, expected);
    }
}

#[test]
fn of_two_inserts_of_one_name_the_first_wins_and_the_second_learns_who() {
    let (_dir, mut store) = store();
    let (first, second) = (sandbox(1, "web"), sandbox(2, "web"));
    let groups = [vec![Write::Insert(first.clone())], vec![Write::Insert(second)]];
    let name = first.name.clone();
    let taken = Refused::NameTaken { name, by: first.id.clone() };
    assert_eq!(store.write(&groups).unwrap(), [Ok(()), Err(taken.clone())]);
    assert_eq!(store.load().unwrap().sandboxes, [first]);
    assert!(taken.to_string().contains("web is taken by sandbox 000000000001"), "{taken}");
}

#[test]
fn a_name_is_free_once_its_sandbox_has_gone_even_in_the_same_group() {
    let (_dir, mut store) = store();
    one(&mut store, vec![Write::Insert(sandbox(1, "web"))]).unwrap();
    let swap = vec![Write::Remove(sandbox(1, "web").id), Write::Insert(sandbox(2, "web"))];
    one(&mut store, swap).unwrap();
    assert_eq!(store.load().unwrap().sandboxes, [sandbox(2, "web")]);
}

#[test]
fn there_are_only_so_many_sandboxes() {
    let (_dir, mut store) = store();
    let max = u16::try_from(Limits::MAX_SANDBOXES).unwrap();
    let all: Vec<_> = (0..max).map(|n| Write::Insert(sandbox(n, &format!("s{n}")))).collect();
    one(&mut store, all).unwrap();
    let more = || vec![Write::Insert(sandbox(max, "more"))];
    let full = Refused::TooManySandboxes { max: Limits::MAX_SANDBOXES };
    let go = vec![Write::Remove(sandbox(7, "x").id)];
    let groups = [more(), go, more(), more()];
    // The last has an id that is there: it is told that, not that there is no room.
    let exists = Refused::Exists(sandbox(max, "more").id);
    let expected = [Err(full.clone()), Ok(()), Ok(()), Err(exists)];
    assert_eq!(store.write(&groups).unwrap(), expected);
    assert_eq!(one(&mut store, vec![Write::Insert(sandbox(max + 1, "y"))]), Err(full));
    assert_eq!(store.load().unwrap().sandboxes.len(), Limits::MAX_SANDBOXES);
}

#[test]
fn there_are_only_so_many_operations() {
    let (_dir, mut store) = store();
    let max = u16::try_from(MAX_OPERATIONS).unwrap();
    let put = |n| Write::PutOperation(operation(n, Some(u64::from(n))));
    one(&mut store, (0..max).map(put).collect()).unwrap();
    let full = Refused::TooManyOperations { max: MAX_OPERATIONS };
    let prune = Write::PruneOperations { finished_before: Timestamp(0), keep: 10 };
    let groups = [vec![put(max)], vec![put(3)], vec![prune, put(max)]];
    assert_eq!(store.write(&groups).unwrap(), [Err(full), Ok(()), Ok(())]);
    assert_eq!(store.load().unwrap().operations.len(), 11);
}

#[test]
fn what_runs_is_never_pruned() {
    let (_dir, mut store) = store();
    let group = vec![
        Write::PutOperation(operation(1, None)),
        Write::PutOperation(operation(2, Some(5))),
        Write::PutOperation(operation(3, Some(6))),
        Write::PruneOperations { finished_before: Timestamp(6), keep: 9 },
    ];
    one(&mut store, group).unwrap();
    assert_eq!(store.load().unwrap().operations, [operation(1, None), operation(3, Some(6))]);
    one(&mut store, vec![Write::PruneOperations { finished_before: Timestamp(0), keep: 0 }])
        .unwrap();
    assert_eq!(store.load().unwrap().operations, [operation(1, None)]);
}

#[test]
fn a_record_that_is_too_long_is_refused_before_it_is_written() {
    let (_dir, mut store) = store();
    let refused = one(&mut store, vec![Write::Insert(large(1, "a", MAX_RECORD_LEN))]);
    assert!(matches!(refused, Err(Refused::TooLarge { .. })), "{refused:?}");
    one(&mut store, vec![Write::Insert(large(1, "a", MAX_RECORD_LEN - 1000))]).unwrap();
    assert_eq!(store.load().unwrap().sandboxes.len(), 1);
}

/// Changes rows behind the store's back.
fn tamper(store: &Store, sql: &str) {
    store.conn().execute_batch(sql).unwrap();
}

#[test]
fn rows_that_make_no_sense_are_told_and_can_be_removed_or_written_anew() {
    let (_dir, mut store) = store();
    let group = (1..=6u16).map(|n| Write::Insert(sandbox(n, &format!("s{n}")))).collect();
    one(&mut store, group).unwrap();
    one(&mut store, vec![Write::PutOperation(operation(1, None))]).unwrap();
    tamper(&store, "UPDATE sandbox SET record = '{' WHERE id LIKE '%1'");
    tamper(
        &store,
        "UPDATE sandbox SET record = replace(record, '\"s2\"', '\"other\"') WHERE id LIKE '%2'",
    );
    tamper(&store, "UPDATE sandbox SET state = 'running' WHERE id LIKE '%3'");
    tamper(&store, "UPDATE sandbox SET record = CAST(x'ff' AS TEXT) WHERE id LIKE '%4'");
    tamper(
        &store,
        "UPDATE sandbox SET record = record || printf('%200000s', ' ') WHERE id LIKE '%5'",
    );
    tamper(&store, "UPDATE operation SET record = '{\"id\":\"\x1b[31m\"}'");
    let all = store.load().unwrap();
    assert_eq!(all.sandboxes, [sandbox(6, "s6")]);
    assert_eq!(all.operations, []);
    let rows: Vec<_> = all.damaged.iter().map(|damaged| damaged.row.clone()).collect();
    let whose = |n| crate::DamagedRow::Sandbox(Some(sandbox(n, "x").id));
    let broken = crate::DamagedRow::Operation(Some(operation(1, None).id));
    assert_eq!(rows, [whose(1), whose(2), whose(3), whose(4), whose(5), broken]);
    assert!(all.damaged.iter().all(|d| !d.reason.contains(char::is_control)), "{all:?}");

    let taken = one(&mut store, vec![Write::Insert(sandbox(9, "s1"))]);
    assert!(matches!(taken, Err(Refused::NameTaken { .. })), "{taken:?}");
    let heal = vec![
        Write::Remove(sandbox(1, "x").id),
        Write::Update(sandbox(4, "s4")),
        Write::RemoveOperation(operation(1, None).id),
    ];
    one(&mut store, heal).unwrap();
    let all = store.load().unwrap();
    assert_eq!(all.sandboxes, [sandbox(4, "s4"), sandbox(6, "s6")]);
    assert_eq!(all.damaged.len(), 3);
}

#[test]
fn a_full_disk_is_an_error_that_leaves_nothing_behind_and_passes() {
    let (_dir, mut store) = store();
    one(&mut store, vec![Write::Insert(sandbox(1, "a"))]).unwrap();
    let pages: i64 = store.conn().query_row("PRAGMA page_count", [], |row| row.get(0)).unwrap();
    tamper(&store, &format!("PRAGMA max_page_count = {}", pages + 4));
    let groups =
        [vec![Write::Insert(sandbox(2, "b"))], vec![Write::Insert(large(3, "c", 100_000))]];
    let error = store.write(&groups).unwrap_err();
    assert!(matches!(error, crate::StoreError::Full { .. }), "{error:?}");
    assert_eq!(store.load().unwrap().sandboxes, [sandbox(1, "a")]);
    one(&mut store, vec![Write::Insert(sandbox(2, "b"))]).unwrap();
    assert_eq!(store.load().unwrap().sandboxes.len(), 2);
}

#[test]
fn a_table_with_more_rows_than_ever_were_written_is_damaged() {
    let (_dir, mut store) = store();
    one(&mut store, vec![Write::Insert(sandbox(1, "a"))]).unwrap();
    tamper(
        &store,
        "WITH RECURSIVE n(i) AS (SELECT 10 UNION ALL SELECT i + 1 FROM n LIMIT 8192)
         INSERT INTO sandbox SELECT printf('%012x', i), 'n' || i, state, created, record
         FROM n, sandbox WHERE id LIKE '%1'",
    );
    let error = store.load().unwrap_err();
    assert!(matches!(error, crate::StoreError::Damaged { .. }), "{error:?}");
    tamper(&store, "DELETE FROM sandbox WHERE id = (SELECT max(id) FROM sandbox)");
    assert_eq!(store.load().unwrap().damaged.len(), 8191);
}
