//! Progress of what takes long: a bar on a terminal, a line for what takes very long elsewhere.

use std::io::Write as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use banger_api::client::{Client, ClientError, Events};
use banger_api::types::{Operation, Stage};
use banger_model::{OperationId, Progress, Silent};
use indicatif::{ProgressBar, ProgressStyle};
use tokio::time::{Instant, sleep_until};

use crate::output::{notice, plain, shown};

/// A spinner turns so often, and so shows that something goes on.
const TICK: Duration = Duration::from_millis(120);
/// What is over within this is not worth a spinner.
const SOON: Duration = Duration::from_millis(300);
/// What is over within this is not worth a line that stays.
const LATE: Duration = Duration::from_secs(10);

/// Set to `none`, nobody is told of what takes long: for scripts that read standard error.
const SWITCH: &str = "BANGER_PROGRESS";

/// Progress for whoever looks at standard error.
#[expect(clippy::disallowed_methods, reason = "one switch, read where it matters")]
pub(crate) fn to_stderr() -> Arc<dyn Progress> {
    if std::env::var_os(SWITCH).is_some_and(|value| value == "none") {
        Arc::new(Silent)
    } else if banger_host::terminal::is_terminal(std::io::stderr()) {
        Arc::new(Bar(Mutex::new(None)))
    } else {
        Arc::new(Lines)
    }
}

/// How long something may take before anybody is told of it.
pub(crate) fn patience() -> Duration {
    if banger_host::terminal::is_terminal(std::io::stderr()) { SOON } else { LATE }
}

/// Waits for the end of an operation and tells how it goes on; returns it as it is then.
///
/// # Errors
/// When the daemon cannot tell.
pub(crate) async fn follow(
    client: &Client,
    id: &OperationId,
    progress: &dyn Progress,
) -> Result<Operation, ClientError> {
    let mut events: Events<Operation> = client.watch_operation(id);
    let mut told = Told::default();
    loop {
        let operation = tokio::select! {
            event = events.next() => event.unwrap_or(Err(ClientError::Closed))?,
            () = told.late() => {
                told.begin(progress);
                continue;
            }
        };
        for line in operation.log.iter().skip(told.log) {
            notice(&format!("{}: {line}", operation.name));
        }
        told.log = operation.log.len();
        if operation.status.is_final() {
            return Ok(operation);
        }
        told.note(&operation.stages, progress);
    }
}

/// What was told of an operation.
#[derive(Debug, Default)]
struct Told {
    /// Lines of its log.
    log: usize,
    /// How many stages there were, and the last, which is told at that time.
    stages: usize,
    stage: Option<(Stage, Instant)>,
    is_begun: bool,
}

impl Told {
    fn note(&mut self, stages: &[Stage], progress: &dyn Progress) {
        let Some(last) = stages.last() else { return };
        if stages.len() != self.stages {
            self.stages = stages.len();
            // After the first that was told, the others belong to what takes long, too.
            let at = if self.is_begun { Instant::now() } else { Instant::now() + patience() };
            self.stage = Some((last.clone(), at));
        }
        if let (Some(so_far), None) = (last.progress, &self.stage) {
            progress.advance(so_far.done, so_far.whole);
        }
    }

    /// Waits until there is something to tell.
    async fn late(&self) {
        match &self.stage {
            Some((_, at)) => sleep_until(*at).await,
            None => std::future::pending().await,
        }
    }

    fn begin(&mut self, progress: &dyn Progress) {
        if let Some((stage, _)) = self.stage.take() {
            progress.stage(&stage.what);
            self.is_begun = true;
        }
    }
}

/// One line for each stage.
#[derive(Debug)]
struct Lines;

impl Progress for Lines {
    fn stage(&self, what: &str) {
        let _ = writeln!(anstream::stderr().lock(), "banger: {}", plain(what));
    }

    fn advance(&self, _done: u64, _whole: Option<u64>) {}
}

/// A bar that is gone when the work is done.
#[derive(Debug)]
struct Bar(Mutex<Option<ProgressBar>>);

impl Progress for Bar {
    fn stage(&self, what: &str) {
        let mut bar = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(old) = bar.take() {
            old.finish_and_clear();
        }
        let new = ProgressBar::new_spinner().with_message(shown(what.as_bytes()));
        new.enable_steady_tick(TICK);
        *bar = Some(new);
    }

    fn advance(&self, done: u64, whole: Option<u64>) {
        let bar = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(bar) = bar.as_ref() else { return };
        let template = match whole {
            Some(whole) if bar.length() != Some(whole) => {
                bar.set_length(whole);
                Some("{spinner} {msg} [{bar:30}] {bytes}/{total_bytes}")
            }
            None if bar.position() == 0 => Some("{spinner} {msg} {bytes}"),
            _ => None,
        };
        if let Some(Ok(style)) = template.map(ProgressStyle::with_template) {
            bar.set_style(style.progress_chars("=> "));
        }
        bar.set_position(done);
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        let bar = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(bar) = bar.as_ref() {
            bar.finish_and_clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use banger_model::Timestamp;

    #[derive(Default)]
    struct Heard(Mutex<Vec<String>>);

    impl Progress for Heard {
        fn stage(&self, what: &str) {
            self.0.lock().unwrap().push(what.to_owned());
        }

        fn advance(&self, done: u64, _whole: Option<u64>) {
            self.0.lock().unwrap().push(done.to_string());
        }
    }

    fn stages(names: &[&str], done: u64) -> Vec<Stage> {
        let progress = Some(banger_api::types::StageProgress { done, whole: None });
        let stage = |what: &&str| Stage { what: (*what).into(), since: Timestamp(0), progress };
        names.iter().map(stage).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn only_what_takes_long_is_told_and_then_all_of_it() {
        let (heard, mut told) = (Heard::default(), Told::default());
        told.note(&stages(&["short"], 1), &heard);
        told.note(&stages(&["short", "long"], 2), &heard);
        assert!(heard.0.lock().unwrap().is_empty());
        told.late().await;
        told.begin(&heard);
        told.note(&stages(&["short", "long"], 3), &heard);
        told.note(&stages(&["short", "long", "next"], 4), &heard);
        told.late().await;
        told.begin(&heard);
        assert_eq!(*heard.0.lock().unwrap(), ["long", "3", "next"]);
    }
}
