//! Whether what is being done is to be done at all.

use std::future::Future;

use anyhow::{Result, bail};
use tokio::sync::watch;

/// Becomes ready when other work is to be done instead.
#[derive(Clone, Debug)]
pub(crate) struct Superseded(watch::Receiver<bool>);

impl Superseded {
    /// It is so once this is true.
    pub(crate) fn by(other: watch::Receiver<bool>) -> Self {
        Self(other)
    }

    /// Waits until it is so.
    pub(crate) async fn wait(&mut self) {
        // A sender that is gone wants nothing any more.
        if self.0.wait_for(|yes| *yes).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Whether it is so already.
    pub(crate) fn is_so(&self) -> bool {
        *self.0.borrow()
    }

    /// What comes of this work, unless other work is to be done before that.
    ///
    /// # Errors
    /// Those of the work, and when it is cut off.
    pub(crate) async fn or<T, E>(&mut self, work: impl Future<Output = Result<T, E>>) -> Result<T>
    where
        E: Into<anyhow::Error>,
    {
        tokio::select! {
            biased;
            done = work => done.map_err(Into::into),
            () = self.wait() => bail!("something else was asked for meanwhile"),
        }
    }
}
