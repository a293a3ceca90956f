//! What was measured, as a table for people and as JSON for programs.

use std::fmt;
use std::time::Duration;

use serde::Serialize;

/// How a time varies, in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Distribution {
    /// How many were measured.
    pub count: usize,
    /// Half of them are no longer.
    pub p50: f64,
    /// Nine in ten are no longer.
    pub p90: f64,
    /// Ninety-nine in a hundred are no longer.
    pub p99: f64,
    /// The longest.
    pub max: f64,
}

impl Distribution {
    /// Of these times.
    pub(super) fn of(mut times: Vec<Duration>) -> Self {
        times.sort();
        // The nearest rank: the smallest time that so many per cent do not exceed.
        let at = |percent: usize| {
            let rank = (times.len() * percent).div_ceil(100).max(1);
            times.get(rank - 1).map_or(0.0, |time| time.as_secs_f64() * 1e3)
        };
        Self { count: times.len(), p50: at(50), p90: at(90), p99: at(99), max: at(100) }
    }
}

/// Times of one thing.
#[derive(Clone, Debug, Serialize)]
pub struct Times {
    /// What, for programs.
    pub name: &'static str,
    /// What, for people.
    #[serde(skip)]
    pub what: &'static str,
    /// How long it took.
    #[serde(flatten)]
    pub took: Distribution,
    /// What is wanted of it.
    pub bound: Option<Wanted>,
}

/// The longest that is wanted, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Wanted {
    /// Of half of them.
    P50(f64),
    /// Of ninety-nine in a hundred.
    P99(f64),
}

/// How much there is of something.
#[derive(Clone, Debug, Serialize)]
pub struct Amount {
    /// Of what, for programs.
    pub name: &'static str,
    /// Of what, for people.
    #[serde(skip)]
    pub what: &'static str,
    /// How much.
    pub amount: u64,
    /// What it is counted in.
    pub unit: Unit,
    /// The most that is wanted.
    pub most: Option<u64>,
}

/// What an amount is counted in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// Units of 1024 bytes.
    Kib,
    /// Ticks of the clock by which the system counts time of CPUs: a hundred in a second.
    Ticks,
    /// How often something happened.
    Times,
}

impl Unit {
    fn show(self, amount: u64) -> String {
        match self {
            Self::Kib => format!("{}.{} MiB", amount / 1024, amount % 1024 * 10 / 1024),
            Self::Ticks => format!("{amount} ticks"),
            Self::Times => format!("{amount} times"),
        }
    }
}

/// Everything that was measured. Field names are stable.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// Times, in milliseconds.
    pub times: Vec<Times>,
    /// Everything else.
    pub amounts: Vec<Amount>,
}

impl Wanted {
    fn is_met(self, took: &Distribution) -> bool {
        match self {
            Self::P50(most) => took.p50 <= most,
            Self::P99(most) => took.p99 <= most,
        }
    }
}

impl fmt::Display for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::P50(most) => write!(f, "p50 {most}"),
            Self::P99(most) => write!(f, "p99 {most}"),
        }
    }
}

fn verdict(is_met: bool) -> &'static str {
    if is_met { "" } else { "  MISSED" }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:<45}{:>6}", "milliseconds", "times")?;
        writeln!(f, "{:>9}{:>9}{:>9}{:>9}  bound", "p50", "p90", "p99", "max")?;
        for Times { what, took, bound, .. } in &self.times {
            let Distribution { count, p50, p90, p99, max } = took;
            write!(f, "{what:<45}{count:>6}{p50:>9.2}{p90:>9.2}{p99:>9.2}{max:>9.2}")?;
            match bound {
                Some(bound) => writeln!(f, "  {bound}{}", verdict(bound.is_met(took)))?,
                None => writeln!(f)?,
            }
        }
        writeln!(f)?;
        for Amount { what, amount, unit, most, .. } in &self.amounts {
            write!(f, "{what:<45}{:>12}", unit.show(*amount))?;
            match most {
                Some(most) => {
                    writeln!(f, "  at most {}{}", unit.show(*most), verdict(amount <= most))?;
                }
                None => writeln!(f)?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_the_nearest_rank() {
        let took = Distribution::of((1..=200).rev().map(Duration::from_millis).collect());
        let expected = Distribution { count: 200, p50: 100.0, p90: 180.0, p99: 198.0, max: 200.0 };
        assert_eq!(took, expected);
        assert_eq!(Distribution::of(vec![Duration::from_millis(7)]).p99, 7.0);
        assert_eq!(Distribution::of(Vec::new()), Distribution::default());
    }

    #[test]
    fn a_bound_that_is_missed_is_told() {
        let took = Distribution { count: 1, p50: 5.0, p90: 5.0, p99: 11.0, max: 11.0 };
        let times = |bound| Times { name: "a", what: "a", took, bound: Some(bound) };
        let amount =
            |most| Amount { name: "b", what: "b", amount: 2, unit: Unit::Ticks, most: Some(most) };
        let told = |time, most| {
            let report = Report { times: vec![times(time)], amounts: vec![amount(most)] };
            report.to_string().matches("MISSED").count()
        };
        assert_eq!(told(Wanted::P99(11.0), 2), 0);
        assert_eq!(told(Wanted::P99(10.0), 2), 1);
        assert_eq!(told(Wanted::P50(4.0), 1), 2);
    }
}
