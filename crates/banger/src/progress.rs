//! Progress of what takes long: a bar on a terminal, one line a stage elsewhere.

use std::io::Write as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use banger_model::Progress;
use indicatif::{ProgressBar, ProgressStyle};

/// A spinner turns so often, and so shows that something goes on.
const TICK: Duration = Duration::from_millis(120);

/// Progress for whoever looks at standard error.
pub(crate) fn to_stderr() -> Arc<dyn Progress> {
    if banger_host::terminal::is_terminal(std::io::stderr()) {
        Arc::new(Bar(Mutex::new(None)))
    } else {
        Arc::new(Lines)
    }
}

/// One line for each stage.
#[derive(Debug)]
struct Lines;

impl Progress for Lines {
    fn stage(&self, what: &str) {
        let _ = writeln!(anstream::stderr().lock(), "banger: {what}");
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
        let new = ProgressBar::new_spinner().with_message(what.to_owned());
        new.enable_steady_tick(TICK);
        *bar = Some(new);
    }

    fn advance(&self, done: u64, whole: Option<u64>) {
        let bar = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(bar) = bar.as_ref() else { return };
        if let Some(whole) = whole
            && bar.length() != Some(whole)
        {
            let template = "{spinner} {msg} [{bar:30}] {bytes}/{total_bytes}";
            if let Ok(style) = ProgressStyle::with_template(template) {
                bar.set_style(style.progress_chars("=> "));
            }
            bar.set_length(whole);
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
