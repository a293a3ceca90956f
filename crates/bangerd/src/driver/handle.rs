//! The way to a sandbox's driver: what it can be told, and what it shows.

use std::sync::Arc;

use banger_model::policy::{Action, Denial};
use banger_model::{OperationId, SnapshotName, SnapshotTag};
use banger_store::Write;
use banger_vmm::answered;
use tokio::sync::{mpsc, oneshot, watch};

use super::View;
use crate::store::NotStored;

/// Why a sandbox does not do what it is asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AskError {
    /// It may not.
    #[error(transparent)]
    Denied(#[from] Denial),
    /// Too much waits for it.
    #[error("too many requests wait for it already")]
    Busy,
    /// It is gone.
    #[error("it is gone")]
    Gone,
    /// It could not be written down.
    #[error(transparent)]
    NotStored(#[from] NotStored),
    /// The operation is over, or is one that cannot be called off.
    #[error("only an operation that starts a sandbox and still runs can be cancelled")]
    NotCancellable,
    /// The id is that of another operation.
    #[error("another operation has this id already")]
    IdTaken,
    /// There is a snapshot of this name, or one is being taken.
    #[error("there is a snapshot {0} already")]
    TagTaken(SnapshotName),
}

/// What a sandbox is asked for.
#[derive(Debug)]
pub(crate) struct Wanted {
    /// What.
    pub action: Action,
    /// What the caller calls the operation.
    pub id: OperationId,
    /// The tag of a snapshot; one is made up where none is given.
    pub tag: Option<SnapshotTag>,
    /// What is remembered in the same breath.
    pub with: Vec<Write>,
}

/// Whether the sandbox was asked before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    /// It was not; what was to be remembered is.
    Anew,
    /// It was, with the same operation.
    Before,
}

/// What a driver is told.
pub(super) enum Order {
    Ask { wanted: Wanted, reply: oneshot::Sender<Result<Asked, AskError>> },
    Cancel { operation: OperationId, reply: oneshot::Sender<Result<(), AskError>> },
    LeaseFell,
}

/// The way to a sandbox's driver. Its copies lead to the same one.
#[derive(Clone)]
pub(crate) struct Handle {
    orders: mpsc::Sender<Order>,
    view: watch::Receiver<Arc<View>>,
}

impl Handle {
    pub(super) fn new(orders: mpsc::Sender<Order>, view: watch::Receiver<Arc<View>>) -> Self {
        Self { orders, view }
    }

    /// How the sandbox is.
    pub(crate) fn view(&self) -> Arc<View> {
        self.view.borrow().clone()
    }

    /// How the sandbox is, now and from now on; closed when it is gone.
    pub(crate) fn watch(&self) -> watch::Receiver<Arc<View>> {
        self.view.clone()
    }

    /// Asks it for something under an id that the caller has chosen at random; returns the
    /// operation that this is, once that is remembered. Asked again, it is the same one.
    ///
    /// # Errors
    /// [`AskError`].
    pub(crate) async fn ask(
        &self,
        action: Action,
        id: OperationId,
    ) -> Result<OperationId, AskError> {
        let wanted = Wanted { action, id: id.clone(), tag: None, with: Vec::new() };
        self.ask_for(wanted).await.map(|_| id)
    }

    /// As [`Handle::ask`], for what has more to it.
    ///
    /// # Errors
    /// [`AskError`]; then nothing is remembered.
    pub(crate) async fn ask_for(&self, wanted: Wanted) -> Result<Asked, AskError> {
        let (reply, answer) = oneshot::channel();
        self.orders.try_send(Order::Ask { wanted, reply }).map_err(refused)?;
        answered(&self.orders, answer).await.unwrap_or(Err(AskError::Gone))
    }

    /// Calls an operation off.
    ///
    /// # Errors
    /// [`AskError`].
    pub(crate) async fn cancel(&self, operation: OperationId) -> Result<(), AskError> {
        let (reply, answer) = oneshot::channel();
        self.orders.try_send(Order::Cancel { operation, reply }).map_err(refused)?;
        answered(&self.orders, answer).await.unwrap_or(Err(AskError::Gone))
    }

    /// Tells it that its client is gone.
    pub(crate) fn lease_fell(&self) {
        // A queue that is full is of a sandbox that looks at its lease again after a restart.
        let _ = self.orders.try_send(Order::LeaseFell);
    }
}

fn refused(error: mpsc::error::TrySendError<Order>) -> AskError {
    match error {
        mpsc::error::TrySendError::Full(_) => AskError::Busy,
        mpsc::error::TrySendError::Closed(_) => AskError::Gone,
    }
}
