//! Whose turn it is to send: no process waits for ever behind a busy one.

use std::collections::BTreeMap;

use crate::message::ProcessId;

/// The processes that take part, beginning behind the one that was served last.
pub(crate) fn in_turn<V>(
    processes: &BTreeMap<ProcessId, V>,
    last_served: Option<ProcessId>,
    takes_part: impl Fn(&V) -> bool,
) -> Vec<ProcessId> {
    let first = ProcessId(last_served.map_or(0, |id| id.0.wrapping_add(1)));
    let order = processes.range(first..).chain(processes.range(..first));
    order.filter(|(_, process)| takes_part(process)).map(|(id, _)| *id).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_turn_goes_round() {
        let processes: BTreeMap<_, _> = [1, 5, 9].map(|id| (ProcessId(id), id)).into();
        let turn = |last: Option<u64>| {
            let order = in_turn(&processes, last.map(ProcessId), |id| *id != 9);
            order.into_iter().map(|id| id.0).collect::<Vec<_>>()
        };
        assert_eq!(turn(None), [1, 5]);
        assert_eq!(turn(Some(1)), [5, 1]);
        assert_eq!(turn(Some(9)), [1, 5]);
        assert_eq!(turn(Some(u64::MAX)), [1, 5]);
    }
}
