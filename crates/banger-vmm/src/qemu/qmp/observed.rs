//! What QEMU has told of its machine by events, folded into one small value.

use serde_json::Value;

/// Why a machine is shutting down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shutdown {
    /// The guest switched itself off.
    PowerOff,
    /// The guest reset itself, by will or after a panic.
    Reset,
    /// Somebody on the host asked for it.
    Host,
}

/// Everything of importance that has happened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Observed {
    /// How often the processors were stopped or set going. A change means that the machine's
    /// state is to be asked for again.
    pub(crate) turns: u64,
    /// The first reason for a shutdown that was given.
    pub(crate) shutdown: Option<Shutdown>,
    /// Whether what was saved has been loaded, once that is decided.
    pub(crate) loaded: Option<Loaded>,
}

/// How the loading of a saved machine came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Loaded {
    /// The machine is what was saved.
    Whole,
    /// It is not.
    Failed,
}

impl Observed {
    /// Takes note of one event; tells whether that changed anything.
    pub(crate) fn fold(&mut self, name: &str, data: &Value) -> bool {
        match name {
            "STOP" | "RESUME" => self.turns += 1,
            "SHUTDOWN" if self.shutdown.is_none() => {
                self.shutdown = Some(match data.get("reason").and_then(Value::as_str) {
                    Some("guest-shutdown") => Shutdown::PowerOff,
                    Some("guest-reset" | "guest-panic") => Shutdown::Reset,
                    _ => Shutdown::Host,
                });
            }
            "MIGRATION" => match data.get("status").and_then(Value::as_str) {
                Some("completed") => self.loaded = Some(Loaded::Whole),
                Some("failed") => self.loaded = Some(Loaded::Failed),
                _ => return false,
            },
            _ => return false,
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_first_reason_for_a_shutdown_counts() {
        let mut observed = Observed::default();
        assert!(!observed.fold("RTC_CHANGE", &json!({})));
        assert!(observed.fold("STOP", &Value::Null));
        assert!(observed.fold("SHUTDOWN", &json!({"guest": true, "reason": "guest-reset"})));
        assert!(!observed.fold("SHUTDOWN", &json!({"guest": false, "reason": "host-signal"})));
        assert!(!observed.fold("MIGRATION", &json!({"status": "active"})));
        assert!(observed.fold("MIGRATION", &json!({"status": "completed"})));
        let loaded = Some(Loaded::Whole);
        assert_eq!(observed, Observed { turns: 1, shutdown: Some(Shutdown::Reset), loaded });
    }

    #[test]
    fn a_reason_that_nobody_knows_is_the_hosts() {
        for data in [json!({"reason": "host-signal"}), json!({"reason": 7}), Value::Null] {
            let mut observed = Observed::default();
            observed.fold("SHUTDOWN", &data);
            assert_eq!(observed.shutdown, Some(Shutdown::Host));
        }
    }
}
