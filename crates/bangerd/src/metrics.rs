//! What is counted, in Prometheus' text format.

use std::fmt;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use banger_model::lifecycle::State;
use banger_model::{OperationRecord, OperationStatus, Timestamp};
use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry as Metered, Unit};

use crate::driver::View;
use crate::operations::now;
use crate::stats;

/// Upper bounds of the start latency's buckets, in seconds: from a restore to a boot that is
/// given up.
const START_BUCKETS: [f64; 12] = [0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 3.0, 5.0, 10.0, 30.0, 60.0, 120.0];

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByState {
    state: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByOutcome {
    action: String,
    outcome: &'static str,
}

/// What is counted.
pub(crate) struct Metrics {
    registry: Metered,
    sandboxes: Family<ByState, Gauge>,
    operations: Family<ByOutcome, Counter>,
    starts: Histogram,
    link_faults: Gauge,
    spares: Gauge,
    vmm_memory: Gauge<f64, AtomicU64>,
    since: Timestamp,
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Metered::with_prefix("banger");
        let sandboxes = Family::default();
        registry.register("sandboxes", "Sandboxes by state", sandboxes.clone());
        let operations = Family::default();
        registry.register("operations", "Operations that have ended", operations.clone());
        let starts = Histogram::new(START_BUCKETS);
        let help = "Time from the decision to start a sandbox to its agent's answer";
        registry.register_with_unit("start", help, Unit::Seconds, starts.clone());
        let link_faults = Gauge::default();
        let help = "Connections to guests that broke the protocol, of the sandboxes that run";
        registry.register("link_faults", help, link_faults.clone());
        let spares = Gauge::default();
        registry.register("spares", "Machines that wait to become sandboxes", spares.clone());
        let vmm_memory = Gauge::default();
        let help = "Memory of all virtual machine monitors that is in RAM";
        registry.register_with_unit("vmm_memory", help, Unit::Bytes, vmm_memory.clone());
        let since = now();
        Self { registry, sandboxes, operations, starts, link_faults, spares, vmm_memory, since }
    }
}

impl Metrics {
    /// Since when is counted: the daemon's start.
    pub(crate) fn since(&self) -> Timestamp {
        self.since
    }

    /// A sandbox was started in this time.
    pub(crate) fn started(&self, took: Duration) {
        self.starts.observe(took.as_secs_f64());
    }

    /// An operation has ended.
    pub(crate) fn operation_ended(&self, operation: &OperationRecord) {
        let outcome = match operation.status {
            OperationStatus::Running => return,
            OperationStatus::Succeeded { .. } => "succeeded",
            OperationStatus::Failed { .. } => "failed",
            OperationStatus::Cancelled { .. } => "cancelled",
        };
        // The same words as in the API.
        let action = serde_json::to_value(operation.action).ok();
        let action = action.and_then(|word| Some(word.as_str()?.to_owned())).unwrap_or_default();
        self.operations.get_or_create(&ByOutcome { action, outcome }).inc();
    }

    /// Everything, for these sandboxes and so many spare machines. It reads a file of /proc for each that runs.
    ///
    /// # Errors
    /// Never for want of anything but memory.
    pub(crate) fn render<'a>(
        &self,
        views: impl Iterator<Item = &'a View>,
        spares: usize,
    ) -> Result<String, fmt::Error> {
        let mut counts = [0i64; State::NAMES.len()];
        let (mut faults, mut memory) = (0, 0);
        for view in views {
            let name = view.record.state.name();
            if let Some(at) = State::NAMES.iter().position(|known| *known == name) {
                counts[at] += 1;
            }
            if let Some(live) = &view.live {
                faults += live.link.faults();
                memory += stats::memory(live.machine.identity()).unwrap_or(0);
            }
        }
        for (state, count) in State::NAMES.into_iter().zip(counts) {
            self.sandboxes.get_or_create(&ByState { state }).set(count);
        }
        self.spares.set(i64::try_from(spares).unwrap_or(i64::MAX));
        self.link_faults.set(i64::try_from(faults).unwrap_or(i64::MAX));
        #[expect(clippy::cast_precision_loss, reason = "no host has 2^53 bytes of memory")]
        self.vmm_memory.set(memory as f64);
        let mut text = String::new();
        text::encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use banger_model::policy::{Action, Goal};
    use banger_model::{OperationId, SandboxId, Timestamp};

    #[test]
    fn what_was_counted_is_rendered() {
        let metrics = Metrics::default();
        metrics.started(Duration::from_millis(150));
        metrics.operation_ended(&OperationRecord {
            id: OperationId::from_random([0; 8]),
            sandbox: SandboxId::from_random([0; 6]),
            action: Action::DeleteForced,
            goal: Goal::Gone,
            started: Timestamp(0),
            status: OperationStatus::Succeeded { at: Timestamp(1) },
            tag: None,
        });
        let text = metrics.render(std::iter::empty(), 3).unwrap();
        for line in [
            "banger_sandboxes{state=\"running\"} 0",
            "banger_spares 3",
            "banger_operations_total{action=\"delete_forced\",outcome=\"succeeded\"} 1",
            "banger_start_seconds_bucket{le=\"0.2\"} 1",
            "# EOF",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
    }
}
