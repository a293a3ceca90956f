//! A writer killed in the midst of writing has lost nothing that it had called durable.

use banger_model::{OperationRecord, SandboxRecord};
use banger_store::{Remembered, Store};

use crate::scribe::{Scribe, line};

fn number(id: &str) -> u64 {
    u64::from_str_radix(id, 16).unwrap()
}

/// The first and the last group whose traces are there; no group is there in part.
fn range(all: &Remembered) -> (u64, u64) {
    let sandboxes: Vec<_> =
        all.sandboxes.iter().map(|s: &SandboxRecord| number(s.id.as_str())).collect();
    let operations: Vec<_> =
        all.operations.iter().map(|o: &OperationRecord| number(o.id.as_str())).collect();
    assert_eq!(sandboxes, operations);
    assert_eq!(all.damaged, []);
    let (first, last) = (sandboxes[0], sandboxes[sandboxes.len() - 1]);
    assert_eq!(sandboxes, (first..=last).collect::<Vec<_>>());
    (first, last)
}

#[test]
fn what_was_called_durable_is_there_after_a_kill() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state.db");
    let mut next = 0;
    // Some kills hit the first commits after a recovery, some the emptying of the log.
    for lines in [1, 2, 3, 250, 17, 400, 64, 5, 301, 90] {
        let mut scribe = Scribe::start(&["write"], &path, &[&next.to_string()]);
        let mut output = scribe.output();
        let mut said: Vec<u64> = Vec::new();
        while said.len() < lines {
            said.push(line(&mut output).expect("the scribe goes on").parse().unwrap());
        }
        scribe.kill();
        said.extend(std::iter::from_fn(|| line(&mut output)).map(|n| n.parse::<u64>().unwrap()));
        assert_eq!(said, (next..next + said.len() as u64).collect::<Vec<_>>());

        let all = Store::open(&path).unwrap().load().unwrap();
        let (first, last) = range(&all);
        assert!(last >= said[said.len() - 1], "lost {}..={}", last + 1, said[said.len() - 1]);
        assert_eq!(first, (last + 1).saturating_sub(200));
        next = last + 1;
    }
}
