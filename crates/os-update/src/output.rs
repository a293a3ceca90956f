//! What is told, and where: results on standard output, everything else on standard error.

use std::io::{self, Write as _};

use banger_host::terminal::is_terminal;
use banger_trust::{Artifact, show_time};
use banger_update::Entry;
use os_update::agent::Outcome;
use os_update::fetch::Progress;
use os_update::status::Status;
use serde_json::json;

use crate::cli::Format;

/// Where things are told.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Output {
    format: Format,
}

impl Output {
    pub(crate) fn new(format: Format) -> Self {
        Self { format }
    }

    /// Text that is the result itself. Whoever does not read on is not told.
    pub(crate) fn plain(&self, text: &str) {
        let mut stdout = io::stdout().lock();
        let _ = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
    }

    pub(crate) fn warn(&self, text: &str) {
        let _ = writeln!(io::stderr(), "os-update: warning: {text}");
    }

    pub(crate) fn error(&self, error: &anyhow::Error) {
        let chain: Vec<String> = error.chain().map(ToString::to_string).collect();
        let _ = writeln!(io::stderr(), "os-update: {}", chain.join(": "));
    }

    pub(crate) fn outcome(&self, outcome: &Outcome) {
        let (name, version, text) = match outcome {
            Outcome::UpToDate(v) => ("up-to-date", Some(v), format!("{v} is the newest")),
            Outcome::Available(v) => ("available", Some(v), format!("{v} can be installed")),
            Outcome::Unverified(v) => {
                let text = format!("{v} is offered; without a key nobody knows by whom");
                ("unverified", Some(v), text)
            }
            Outcome::Staged(v) => {
                ("staged", Some(v), format!("{v} is in its slot; `os-update activate` tries it"))
            }
            Outcome::OnTrial(v) => ("on-trial", Some(v), format!("{v} is tried at the next boot")),
            Outcome::Committed(v) => ("committed", Some(v), format!("{v} has proved itself")),
            Outcome::Healthy(_) => ("healthy", None, "all is well".to_owned()),
            Outcome::Returned(v) => {
                ("returned", Some(v), format!("{v} has proved itself again, and stays"))
            }
            Outcome::Dropped(v) => ("dropped", Some(v), format!("{v} is not staged any more")),
            Outcome::RolledBack => (
                "rolled-back",
                None,
                "the other system is selected; restart the machine if it does not run".to_owned(),
            ),
            Outcome::Returning { slot, from } => {
                let text = format!(
                    "the system in slot {slot} is tried at the next boot: restart the machine; {from} \
                     goes on if it does not prove itself"
                );
                ("returning", Some(from), text)
            }
        };
        match self.format {
            Format::Text => self.plain(&format!("{text}\n")),
            Format::Json => {
                let version = version.map(ToString::to_string);
                self.plain(&format!("{}\n", json!({"outcome": name, "version": version})));
            }
        }
    }

    pub(crate) fn status(&self, status: &Status) {
        match self.format {
            Format::Text => self.plain(&status.to_text()),
            Format::Json => {
                let text = serde_json::to_string_pretty(status).unwrap_or_default();
                self.plain(&format!("{text}\n"));
            }
        }
    }

    pub(crate) fn history(&self, entries: &[Entry]) {
        match self.format {
            Format::Json => {
                let text = serde_json::to_string(entries).unwrap_or_default();
                self.plain(&format!("{text}\n"));
            }
            Format::Text => {
                for entry in entries {
                    let time = show_time(entry.time);
                    self.plain(&format!("{time}  {:<11}  {}\n", entry.state, entry.text));
                }
            }
        }
    }

    /// Where downloads are told of.
    pub(crate) fn progress(self) -> Shown {
        Shown { on_terminal: is_terminal(io::stderr()), told: None }
    }
}

/// Downloads: a line that changes on a terminal, else one line for each file.
#[derive(Debug)]
pub(crate) struct Shown {
    on_terminal: bool,
    told: Option<banger_trust::ArtifactName>,
}

impl Progress for Shown {
    fn at(&mut self, artifact: &Artifact, bytes: u64) {
        let mib = bytes >> 20;
        let whole = artifact.size.map(|size| format!(" of {} MiB", size >> 20)).unwrap_or_default();
        let name = artifact.name.file_name();
        if self.on_terminal {
            let end = if artifact.size == Some(bytes) { "\n" } else { "" };
            let _ = write!(io::stderr(), "\r{name}: {mib} MiB{whole}\x1b[K{end}");
        } else if self.told != Some(artifact.name) {
            self.told = Some(artifact.name);
            let _ = writeln!(io::stderr(), "fetching {name}{whole}");
        }
    }
}
