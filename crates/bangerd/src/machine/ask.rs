//! Asking a guest for what it does at once, if it does it at all.

use std::time::Duration;

use anyhow::{Result, bail};
use banger_link::{Reply, Request};
use tokio::time::timeout;

use crate::link::Link;

/// How long a guest may take to answer: milliseconds where it was measured, under emulation, times
/// what else the host may have to do. Who has made its agent wait waits no longer.
const PATIENCE: Duration = Duration::from_secs(120);

/// Asks a guest for something and waits for its answer, but not for ever: what is in a guest can
/// keep its agent from answering.
///
/// # Errors
/// When it refuses, does not answer in time, or the link is gone.
pub(crate) async fn ask(link: &Link, request: Request) -> Result<Reply> {
    ask_for_long(link, request, PATIENCE).await
}

/// Asks a guest for what may take so long.
///
/// # Errors
/// As [`ask`].
pub(crate) async fn ask_for_long(
    link: &Link,
    request: Request,
    patience: Duration,
) -> Result<Reply> {
    match timeout(patience, link.request(request)).await {
        Ok(reply) => Ok(reply?),
        Err(_) => bail!("the guest has not answered within {} s", patience.as_secs()),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::net::UnixStream;
    use tokio::sync::mpsc;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_guest_that_never_answers_is_not_waited_for() {
        let (kept, _ends) = mpsc::unbounded_channel();
        let connect = move || {
            let (ours, theirs) = UnixStream::pair().unwrap();
            kept.send(theirs).unwrap();
            Ok(ours)
        };
        let link = Link::begin(Arc::new(move || Box::pin(std::future::ready(connect())))).unwrap();
        let said = ask(&link, Request::Thaw).await.unwrap_err().to_string();
        assert_eq!(said, "the guest has not answered within 120 s");
    }
}
