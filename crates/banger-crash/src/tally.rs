//! What was done in how many rounds, and what was found.

use std::fmt;
use std::path::PathBuf;

/// Figures of a run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Rounds.
    pub rounds: u64,
    /// Times that a daemon was killed.
    pub kills: u64,
    /// Times that the power was cut.
    pub cuts: u64,
    /// Requests that were sent.
    pub requests: u64,
    /// Of these, how many a kill left without an answer.
    pub unanswered: u64,
    /// Sandboxes that were seen to be made.
    pub sandboxes: u64,
    /// Snapshots that were seen to be taken.
    pub snapshots: u64,
    /// Memories that had to be those of before, in resumed sandboxes and in copies, and were asked.
    pub memories: u64,
    /// Machines that had to live on through a kill, and were looked at.
    pub kept: u64,
    /// Temporary files that a kill left in the directory of a sandbox, where they go with it.
    pub litter: u64,
    /// What should not have been.
    pub violations: Vec<Violation>,
}

/// Something that should not have been.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// In which round, by its name.
    pub round: String,
    /// What, in a sentence.
    pub what: String,
    /// Where everything still lies as it was found, logs included.
    pub place: PathBuf,
}

impl Tally {
    /// Adds another's figures.
    pub fn add(&mut self, other: Self) {
        self.rounds += other.rounds;
        self.kills += other.kills;
        self.cuts += other.cuts;
        self.requests += other.requests;
        self.unanswered += other.unanswered;
        self.sandboxes += other.sandboxes;
        self.snapshots += other.snapshots;
        self.memories += other.memories;
        self.kept += other.kept;
        self.litter += other.litter;
        self.violations.extend(other.violations);
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { rounds, kills, cuts, requests, unanswered, sandboxes, .. } = self;
        let Self { snapshots, memories, kept, litter, violations, .. } = self;
        write!(
            f,
            "{rounds} rounds, {kills} kills, {cuts} cuts, {requests} requests ({unanswered} unanswered), \
             {sandboxes} sandboxes made, {snapshots} snapshots taken, {memories} memories found \
             again, {kept} machines kept through kills, \
             {litter} files left aside, {} violations",
            violations.len()
        )
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} (see {})", self.round, self.what, self.place.display())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_add_up() {
        let violation = Violation { round: "r".into(), what: "w".into(), place: "/p".into() };
        let one = Tally { rounds: 1, kills: 2, violations: vec![violation], ..Tally::default() };
        let mut sum = one.clone();
        sum.add(one);
        assert_eq!((sum.rounds, sum.kills, sum.violations.len()), (2, 4, 2));
        assert!(sum.to_string().ends_with("2 violations"));
        assert_eq!(sum.violations[0].to_string(), "r: w (see /p)");
    }
}
