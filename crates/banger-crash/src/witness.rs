//! Asks again and again what has come to its end, until nobody answers: what somebody was told is
//! kept.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use banger_api::client::Client;
use banger_model::{OperationId, OperationStatus};
use tokio::task::JoinHandle;

use crate::daemon::LOOK_AGAIN;

/// Operations that are over, and what they came to.
pub(crate) type Told = BTreeMap<OperationId, OperationStatus>;

/// Asks. Dropped, it does not any more.
pub(crate) struct Witness {
    told: Arc<Mutex<Told>>,
    asks: JoinHandle<()>,
}

impl Witness {
    /// Begins to ask this daemon.
    pub(crate) fn of(client: &Client) -> Self {
        let (told, client) = (Arc::new(Mutex::new(Told::new())), client.clone());
        let asks = tokio::spawn({
            let told = told.clone();
            async move {
                while let Ok(all) = client.operations().await {
                    let over = all.into_iter().filter(|one| one.status.is_final());
                    let over = over.map(|one| (one.id, one.status));
                    told.lock().unwrap_or_else(PoisonError::into_inner).extend(over);
                    tokio::time::sleep(LOOK_AGAIN).await;
                }
            }
        });
        Self { told, asks }
    }

    /// What it was told by now.
    pub(crate) fn told(&self) -> Told {
        self.told.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until it was told of so many more.
    pub(crate) async fn more(&self, count: usize) {
        let wanted = self.told().len() + count;
        while self.told().len() < wanted {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }
}

impl Drop for Witness {
    fn drop(&mut self) {
        self.asks.abort();
    }
}
