//! What is going on, as JSON and as metrics. Field names are a promise.

use std::fmt::Write as _;

use banger_trust::{SignedBy, show_time};
use banger_update::{BootView, Observed, Record, SlotStatus, State};
use serde::Serialize;

use crate::settings::{Key, Merged};

/// All that `os-update status` tells.
#[derive(Debug, Serialize)]
pub struct Status {
    /// The state by name.
    pub state: &'static str,
    /// The same in one sentence.
    pub summary: String,
    /// Since when, in UTC.
    pub since: String,
    /// The last thing that went wrong or was refused.
    pub last_error: Option<String>,
    /// When the server was last asked.
    pub last_check: Option<String>,
    /// What runs.
    pub running_version: String,
    /// The release that the state is about.
    pub target_version: Option<String>,
    /// The slot that runs.
    pub booted_slot: Option<String>,
    /// The slot that starts next.
    pub next_slot: Option<String>,
    /// What the boot loader does about A and B.
    pub slots: Option<[String; 2]>,
    /// The highest version that proved itself here.
    pub committed_version: Option<String>,
    /// The names of the trusted keys.
    pub keys: Vec<String>,
    /// Every setting with where it comes from.
    pub settings: Vec<Setting>,
}

/// A setting, for people.
#[derive(Debug, Serialize)]
pub struct Setting {
    /// Its name.
    pub name: &'static str,
    /// Its value.
    pub value: String,
    /// `default`, `file` or `flag`.
    pub origin: String,
}

impl Status {
    /// Of all that is known.
    pub fn new(record: &Record, seen: &Observed, merged: &Merged, keys: Vec<String>) -> Self {
        let view = seen.boot.as_ref();
        Self {
            state: record.state.name(),
            summary: record.state.to_string(),
            since: show_time(record.since),
            last_error: record.last_error.clone(),
            last_check: record.last_check.map(show_time),
            running_version: seen.running.to_string(),
            target_version: record.state.release().map(|release| release.version.to_string()),
            booted_slot: seen.booted.slot.map(|slot| slot.to_string()),
            next_slot: view.and_then(BootView::next).map(|slot| slot.to_string()),
            slots: view.map(|view| [show_slot(view.a), show_slot(view.b)]),
            committed_version: record.committed.as_ref().map(ToString::to_string),
            keys,
            settings: merged
                .iter()
                .map(|(key, value, origin)| Setting {
                    name: Key::as_str(key),
                    value: value.to_owned(),
                    origin: origin.to_string(),
                })
                .collect(),
        }
    }

    /// For people.
    pub fn to_text(&self) -> String {
        let mut text = String::new();
        let mut line = |name: &str, value: &str| {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{name:<12} {value}");
        };
        line("state", &format!("{} ({})", self.state, self.summary));
        line("since", &self.since);
        line("running", &self.running_version);
        if let Some(slot) = &self.booted_slot {
            line("slot", slot);
        }
        if let Some(slot) = &self.next_slot {
            line("next slot", slot);
        }
        if let Some(error) = &self.last_error {
            line("last error", error);
        }
        line("keys", if self.keys.is_empty() { "none" } else { "" });
        for key in &self.keys {
            let _ = writeln!(text, "  {key}");
        }
        for setting in &self.settings {
            let _ =
                writeln!(text, "  {:<20} {:<8} {}", setting.name, setting.origin, setting.value);
        }
        text
    }
}

fn show_slot(status: SlotStatus) -> String {
    match status {
        SlotStatus::Good => "good".to_owned(),
        SlotStatus::Bad => "bad".to_owned(),
        SlotStatus::Trial { left } => format!("trial, {left} left"),
    }
}

/// Who signed something, for people.
pub fn show_signer(by: &SignedBy) -> String {
    match by {
        SignedBy::Key(key) => format!("signed by {key}"),
        SignedBy::NobodyAsInsisted => "NOT SIGNED, as you insisted".to_owned(),
    }
}

/// The text that Prometheus reads.
pub fn metrics(record: &Record, seen: &Observed) -> String {
    let mut text = String::new();
    let mut metric = |name: &str, help: &str, rows: &[(String, u64)]| {
        let _ = writeln!(text, "# HELP os_update_{name} {help}\n# TYPE os_update_{name} gauge");
        for (labels, value) in rows {
            let _ = writeln!(text, "os_update_{name}{labels} {value}");
        }
    };
    let states: Vec<_> = State::NAMES
        .iter()
        .map(|name| (format!("{{state=\"{name}\"}}"), u64::from(*name == record.state.name())))
        .collect();
    metric("state", "1 for the state that the update is in.", &states);
    let since = record.since.0 / 1000;
    metric("state_since_seconds", "When that began, in Unix time.", &[(String::new(), since)]);
    if let Some(check) = record.last_check {
        let help = "When the server was last asked, in Unix time.";
        metric("last_check_seconds", help, &[(String::new(), check.0 / 1000)]);
    }
    let info = format!("{{version=\"{}\"}}", seen.running);
    metric("running_info", "What runs.", &[(info, 1)]);
    let failed = u64::from(record.last_error.is_some());
    metric("last_error", "1 if something went wrong or was refused.", &[(String::new(), failed)]);
    if let Some(slot) = seen.booted.slot {
        metric("booted_slot_info", "The slot that runs.", &[(format!("{{slot=\"{slot}\"}}"), 1)]);
    }
    let count = record.failed.len() as u64;
    metric("failed_releases", "Releases that failed here.", &[(String::new(), count)]);
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use banger_trust::Version;
    use banger_update::{CommandLine, Slot};
    use std::collections::BTreeMap;

    fn seen() -> Observed {
        let booted = CommandLine { slot: Some(Slot::A), ..CommandLine::default() };
        let boot = Some(BootView::starting(Slot::A));
        Observed {
            booted,
            boot,
            boot_id: "now".into(),
            running: Version::new(1, 0, 0),
            forgotten: None,
        }
    }

    #[test]
    fn one_state_is_the_one() {
        let text = metrics(&Record::default(), &seen());
        assert!(text.contains("os_update_state{state=\"Idle\"} 1\n"));
        assert_eq!(text.matches("os_update_state{").count(), State::NAMES.len());
        assert_eq!(text.matches("\"} 1\n").count(), 3);
        assert!(text.contains("os_update_running_info{version=\"1.0.0\"} 1"));
    }

    #[test]
    fn every_setting_tells_where_it_comes_from() {
        let merged = Merged::new(&BTreeMap::new(), &crate::settings::parse_conf("channel=beta"));
        let status = Status::new(&Record::default(), &seen(), &merged, vec![]);
        let json = serde_json::to_value(&status).unwrap();
        assert_eq!(json["state"], "Idle");
        assert_eq!(json["slots"][1], "good");
        let channel = json["settings"].as_array().unwrap().iter().find(|s| s["name"] == "channel");
        assert_eq!(channel.unwrap()["origin"], "file");
        assert!(status.to_text().contains("channel              file     beta"));
    }
}
