//! How many spare machines of which kind are wanted. Pure: times and amounts in, what to do out.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// A kind that nobody has started for so long gets no spares.
const KEEP: Duration = Duration::from_secs(600);
/// As many starts as there were in this time may come again at once.
const RECENT: Duration = Duration::from_secs(60);
/// What failed is tried again after this.
const TRY_AGAIN: Duration = Duration::from_secs(60);

/// When sandboxes of one kind were started.
#[derive(Clone, Debug, Default)]
pub(super) struct Demand {
    starts: VecDeque<Instant>,
    failed: Option<Instant>,
}

impl Demand {
    /// One is started now. More than `most` of them are not kept in mind.
    pub(super) fn started(&mut self, now: Instant, most: usize) {
        self.starts.push_back(now);
        while self.starts.len() > most.max(1) {
            self.starts.pop_front();
        }
    }

    /// No spare could be made.
    pub(super) fn failed(&mut self, now: Instant) {
        self.failed = Some(now);
    }

    /// When the last one was started.
    pub(super) fn last(&self) -> Option<Instant> {
        self.starts.back().copied()
    }

    /// How many spares are wanted: one for each recent start, and one while there was any.
    fn wanted(&self, now: Instant) -> usize {
        let since = |start: &Instant| now.saturating_duration_since(*start);
        match self.last() {
            Some(last) if since(&last) < KEEP => {
                self.starts.iter().filter(|start| since(start) < RECENT).count().max(1)
            }
            _ => 0,
        }
    }

    fn may_try(&self, now: Instant) -> bool {
        self.failed.is_none_or(|failed| now.saturating_duration_since(failed) >= TRY_AGAIN)
    }

    /// When less may be wanted than now, or what failed is tried again.
    fn changes(&self, now: Instant) -> Option<Instant> {
        let recent = self.starts.iter().map(|start| *start + RECENT);
        let times = recent.chain(self.last().map(|last| last + KEEP));
        times.chain(self.failed.map(|failed| failed + TRY_AGAIN)).filter(|time| *time > now).min()
    }
}

/// One kind of machine, as far as the plan is concerned.
#[derive(Clone, Copy, Debug)]
pub(super) struct Kind<'a> {
    /// How often it is started.
    pub demand: &'a Demand,
    /// How many spares of it there are.
    pub ready: usize,
}

/// What is to be done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Plan {
    /// How many spares of each kind are too many.
    pub surplus: Vec<usize>,
    /// The kind that one more is to be made of.
    pub make: Option<usize>,
    /// When to look again, if nothing happens before.
    pub again: Option<Instant>,
}

/// Plans for these kinds, of which there are to be no more than `most` spares in all.
pub(super) fn plan(kinds: &[Kind<'_>], most: usize, now: Instant) -> Plan {
    let mut by_use: Vec<usize> = (0..kinds.len()).collect();
    by_use.sort_by_key(|&at| std::cmp::Reverse(kinds[at].demand.last()));
    let mut plan = Plan { surplus: vec![0; kinds.len()], make: None, again: None };
    let mut left = most;
    for at in by_use {
        let Kind { demand, ready } = kinds[at];
        let wanted = demand.wanted(now).min(left);
        left -= wanted;
        plan.surplus[at] = ready.saturating_sub(wanted);
        if plan.make.is_none() && ready < wanted && demand.may_try(now) {
            plan.make = Some(at);
        }
    }
    plan.again = kinds.iter().filter_map(|kind| kind.demand.changes(now)).min();
    plan
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn demand(now: Instant, ages: &[u64]) -> Demand {
        let mut demand = Demand::default();
        for age in ages {
            demand.started(now - Duration::from_secs(*age), 8);
        }
        demand
    }

    fn now() -> Instant {
        Instant::now() + 2 * KEEP
    }

    #[test]
    fn as_many_are_wanted_as_were_started_lately_and_one_for_a_while_after() {
        let now = now();
        let wanted = |ages: &[u64]| demand(now, ages).wanted(now);
        assert_eq!([wanted(&[]), wanted(&[1]), wanted(&[3, 2, 1])], [0, 1, 3]);
        assert_eq!([wanted(&[90, 80, 70]), wanted(&[601]), wanted(&[599])], [1, 0, 1]);
    }

    #[test]
    fn what_was_used_last_comes_first_and_what_is_too_much_goes() {
        let now = now();
        let (old, new) = (demand(now, &[30, 29, 28]), demand(now, &[3, 2]));
        let kinds = |a, b| [Kind { demand: &old, ready: a }, Kind { demand: &new, ready: b }];
        let made = |a, b| plan(&kinds(a, b), 4, now).make;
        assert_eq!(
            [made(0, 0), made(0, 1), made(0, 2), made(2, 2)],
            [Some(1), Some(1), Some(0), None]
        );
        assert_eq!(plan(&kinds(3, 3), 4, now).surplus, [1, 1]);
        assert_eq!(plan(&kinds(1, 1), 0, now).surplus, [1, 1], "none are wanted at all");
    }

    #[test]
    fn what_failed_is_tried_again_later_and_others_meanwhile() {
        let now = now();
        let (mut failed, other) = (demand(now, &[1]), demand(now, &[2]));
        failed.failed(now);
        let kinds = [Kind { demand: &failed, ready: 0 }, Kind { demand: &other, ready: 0 }];
        assert_eq!(plan(&kinds, 4, now).make, Some(1));
        assert_eq!(plan(&kinds, 4, now + TRY_AGAIN).make, Some(0));
    }

    #[test]
    fn a_plan_tells_when_it_changes() {
        let now = now();
        let kind = demand(now, &[20, 10]);
        let again = |at: Instant| plan(&[Kind { demand: &kind, ready: 0 }], 4, at).again;
        assert_eq!(again(now), Some(now + RECENT - Duration::from_secs(20)));
        assert_eq!(again(now + RECENT), Some(now + KEEP - Duration::from_secs(10)));
        assert_eq!(again(now + KEEP), None, "and costs nothing when nothing is wanted");
    }

    proptest! {
        #[test]
        fn there_are_never_more_than_were_allowed(
            ages in prop::collection::vec(prop::collection::vec(0u64..1000, 0..10), 0..5),
            most in 0usize..8,
        ) {
            let now = now();
            let demands: Vec<_> = ages.iter().map(|ages| demand(now, ages)).collect();
            let mut ready = vec![0; demands.len()];
            loop {
                let kinds: Vec<_> = demands.iter().zip(&ready)
                    .map(|(demand, ready)| Kind { demand, ready: *ready }).collect();
                let plan = plan(&kinds, most, now);
                prop_assert!(plan.surplus.iter().all(|surplus| *surplus == 0));
                let Some(make) = plan.make else { break };
                ready[make] += 1;
                prop_assert!(ready.iter().sum::<usize>() <= most);
            }
        }
    }
}
