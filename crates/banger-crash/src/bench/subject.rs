//! What is done to the daemon while it is measured.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use banger_host::clock::Deadline;

use super::asks::{self, Answer, request};
use crate::ask::wanted;
use crate::book::{Afterwards, Entry, Wish};
use crate::daemon::{Daemon, LOOK_AGAIN, PATIENCE};
use crate::place::Place;

/// Bytes of a write to compare with: a page of the database.
const PAGE: usize = 4096;

/// A home with a daemon.
pub(super) struct Subject {
    pub(super) place: Place,
}

impl Subject {
    /// Asks for all of them at once; how long each waited for the answer.
    pub(super) fn create(&self, names: &[String], wish: Wish) -> Result<Vec<Duration>> {
        let entry = Entry::new(Afterwards::Stays, None);
        let ask = |name: &String| {
            let body = serde_json::to_vec(&wanted(name, &entry, wish)?)?;
            Ok(request("POST", "/v1/sandboxes", &body))
        };
        self.ask(&names.iter().map(ask).collect::<Result<Vec<_>>>()?)
    }

    /// Removes all of them at once, and waits until there are none at all.
    pub(super) async fn delete(&self, daemon: &Daemon, names: &[String]) -> Result<()> {
        let target = |name: &String| format!("/v1/sandboxes/{name}?force=true");
        let ask = |name: &String| request("DELETE", &target(name), b"");
        self.ask(&names.iter().map(ask).collect::<Vec<_>>())?;
        until(daemon, <[String]>::is_empty).await
    }

    /// How long the list of all takes to come.
    pub(super) fn list(&self) -> Result<Duration> {
        let took = self.ask(&[request("GET", "/v1/sandboxes", b"")])?;
        took.first().copied().context("no list came")
    }

    /// How long the command line takes to list so many, from its start to its end.
    pub(super) fn list_by_command(&self, count: usize) -> Result<Duration> {
        let program = self.place.tools().daemon.with_file_name("banger");
        let begun = Instant::now();
        let output = Command::new(&program)
            .args(["vm", "list"])
            .env_clear()
            .env("PATH", self.place.path())
            .env("HOME", self.place.root())
            .env("BANGER_HOME", self.place.banger_home())
            .stdin(Stdio::null())
            .output()
            .with_context(|| format!("cannot run {}", program.display()))?;
        let took = begun.elapsed();
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "banger cannot list them: {said}");
        let lines = output.stdout.iter().filter(|byte| **byte == b'\n').count();
        ensure!(lines == count + 1, "banger lists {lines} lines");
        Ok(took)
    }

    fn ask(&self, requests: &[Vec<u8>]) -> Result<Vec<Duration>> {
        let answers = asks::all(&self.place.home().socket(), requests)?;
        for Answer { status, body, .. } in &answers {
            let said = String::from_utf8_lossy(body);
            ensure!((200..300).contains(status), "the daemon says {status}: {said}");
        }
        Ok(answers.into_iter().map(|answer| answer.took).collect())
    }
}

/// Waits for the states of all sandboxes to be so.
pub(super) async fn until(daemon: &Daemon, is_so: impl Fn(&[String]) -> bool) -> Result<()> {
    let deadline = Deadline::after(PATIENCE);
    loop {
        let sandboxes = daemon.client().list(&[]).await?;
        let states: Vec<_> = sandboxes.into_iter().map(|sandbox| sandbox.state).collect();
        if is_so(&states) {
            return Ok(());
        }
        ensure!(!deadline.passed(), "the sandboxes stay as they are: {states:?}");
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// The least that remembering something can take: a page appended to a file and made durable.
pub(super) fn floor(path: &Path, times: usize) -> Result<Vec<Duration>> {
    let mut file = OpenOptions::new().create(true).append(true).open(path)?;
    let page = [b'x'; PAGE];
    let write = || {
        let begun = Instant::now();
        file.write_all(&page)?;
        file.sync_data()?;
        Ok(begun.elapsed())
    };
    std::iter::repeat_with(write).take(times).collect()
}
