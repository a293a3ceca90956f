//! A typed client of the daemon: one method for each request.
//!
//! What may be repeated without harm is, when the daemon is restarted meanwhile; streams go on
//! where they were. Everything that the daemon sends is bounded.

mod attachment;
mod connect;
mod error;
mod events;
mod http;
mod patience;
mod session;
mod target;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use banger_model::{
    KernelName, LabelFilter, OperationId, SnapshotName, SnapshotTag, Timestamp, VolumeName,
};
use hyper::Method;
use serde::de::DeserializeOwned;

pub use attachment::{Attachment, AttachmentReader, AttachmentWriter};
pub use connect::{BoxFuture, Connect, ConnectError, SocketPath};
pub use error::ClientError;
pub use events::Events;
pub use session::{MAX_SIGNALS, ProcessSession, SessionControl, SessionError, SessionEvent};

use crate::attach::PROTOCOL;
use crate::types::{
    CachedBlob, CreateSandbox, CreateVolume, Created, ForkSandbox, Forked, GuestProcess, Image,
    ImportKernel, Kernel, LogChunk, LogSource, Operation, PathKind, ProblemCode, ProcessId,
    PruneCacheRequest, PruneRequest, PruneTemplatesRequest, Pruned, PrunedCache, PrunedTemplates,
    PullImage, ResizeVolume, Sandbox, Snapshot, StartProcess, StartedProcess, Stats, Template,
    Version, Volume,
};
use events::{Ending, Resume};
use http::Ask;
use patience::Patience;
use target::Target;

/// Longest time for the import of a kernel, whose files may be on a slow disk: the daemon gives up what does
/// not go on.
const IMPORT_TIME: Duration = Duration::from_secs(60 * 60);

/// Talks to a daemon. A clone talks to the same one.
#[derive(Clone)]
pub struct Client {
    connector: Arc<dyn Connect>,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").finish_non_exhaustive()
    }
}

/// What may be asked of a sandbox that is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SandboxAction {
    /// To run.
    Start,
    /// To stop with its disk in order.
    Stop,
    /// To stop at once.
    Kill,
    /// To stop and start again.
    Restart,
    /// To save its memory and end its machine.
    Pause,
    /// To go on with its saved memory.
    Resume,
}

/// Whether a sandbox is deleted though it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Force {
    /// It is not.
    No,
    /// It is.
    Yes,
}

/// Whether a log goes on as it is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Follow {
    /// What is there, and no more.
    #[default]
    No,
    /// What is there, and what comes.
    Yes,
}

/// Which part of which log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogQuery {
    /// Which log.
    pub source: LogSource,
    /// Whether to wait for more.
    pub follow: Follow,
    /// Only what was written since then.
    pub since: Option<Timestamp>,
    /// Only so many of the last lines.
    pub tail: Option<u64>,
}

/// All methods fail with a [`ClientError`]; where the daemon says no, that is its own problem.
/// A sandbox is named by its name, its id or the beginning of its id.
impl Client {
    /// A client that gets its connections there.
    pub fn new(connector: Arc<dyn Connect>) -> Self {
        Self { connector }
    }

    /// What the daemon is.
    pub async fn version(&self) -> Result<Version, ClientError> {
        self.fetch(Ask::get(Target::new("version"))).await
    }

    /// The document that describes the API.
    pub async fn openapi(&self) -> Result<serde_json::Value, ClientError> {
        self.fetch(Ask::get(Target::new("openapi.json"))).await
    }

    /// The sandboxes with all of these labels.
    pub async fn list(&self, labels: &[LabelFilter]) -> Result<Vec<Sandbox>, ClientError> {
        let target = labels.iter().fold(Target::new("sandboxes"), |to, l| to.with("label", l));
        self.fetch(Ask::get(target)).await
    }

    /// One sandbox, with its details.
    pub async fn show(&self, sandbox: &str) -> Result<Sandbox, ClientError> {
        self.fetch(Ask::get(sandbox_target(sandbox))).await
    }

    /// Makes a sandbox. Not repeated by itself: it could be made twice.
    pub async fn create(&self, wanted: &CreateSandbox) -> Result<Created, ClientError> {
        self.fetch(Ask::post(Target::new("sandboxes")).json(wanted)?).await
    }

    /// Asks something of a sandbox; the operation tells what becomes of it. Where the daemon dies
    /// meanwhile, the next one is asked: by the operation's id it knows whether it was done.
    pub async fn act(
        &self,
        sandbox: &str,
        action: SandboxAction,
    ) -> Result<Operation, ClientError> {
        let action = match action {
            SandboxAction::Start => "start",
            SandboxAction::Stop => "stop",
            SandboxAction::Kill => "kill",
            SandboxAction::Restart => "restart",
            SandboxAction::Pause => "pause",
            SandboxAction::Resume => "resume",
        };
        let target = sandbox_target(sandbox).at(action).with("operation", new_id()?);
        self.fetch(Ask::post(target).repeatable()).await
    }

    /// Has a snapshot taken of a sandbox that runs; the operation tells its tag. Where the daemon
    /// dies meanwhile, the next one is asked, and takes no second one.
    pub async fn snapshot(
        &self,
        sandbox: &str,
        tag: Option<&SnapshotTag>,
    ) -> Result<Operation, ClientError> {
        let target = sandbox_target(sandbox).at("snapshot");
        let target = target.with_some("tag", tag.map(SnapshotTag::as_str));
        let target = target.with("operation", new_id()?);
        self.fetch(Ask::post(target).repeatable()).await
    }

    /// Makes copies of a sandbox that runs. Where the daemon dies meanwhile, the next one is asked,
    /// and makes no more of them.
    pub async fn fork(&self, sandbox: &str, wanted: &ForkSandbox) -> Result<Forked, ClientError> {
        let target = sandbox_target(sandbox).at("fork").with("operation", new_id()?);
        self.fetch(Ask::post(target).json(wanted)?.repeatable()).await
    }

    /// The snapshots that there are.
    pub async fn snapshots(&self) -> Result<Vec<Snapshot>, ClientError> {
        self.fetch(Ask::get(Target::new("snapshots"))).await
    }

    /// Removes a snapshot; answers with it as it was, or with nothing where a daemon that died over it
    /// has done it already.
    pub async fn delete_snapshot(
        &self,
        snapshot: &SnapshotName,
    ) -> Result<Option<Snapshot>, ClientError> {
        self.remove(Target::new("snapshots").at(&snapshot.to_string())).await
    }

    /// Deletes a sandbox and its disk.
    pub async fn delete(&self, sandbox: &str, force: Force) -> Result<Operation, ClientError> {
        let force = (force == Force::Yes).then_some(true);
        let target = sandbox_target(sandbox).with_some("force", force);
        let target = target.with("operation", new_id()?);
        self.fetch(Ask::new(Method::DELETE, target).repeatable()).await
    }

    /// Deletes stopped sandboxes, or tells which it would.
    pub async fn prune(&self, request: &PruneRequest) -> Result<Pruned, ClientError> {
        self.fetch(Ask::post(Target::new("prune")).json(request)?).await
    }

    /// The templates that there are.
    pub async fn templates(&self) -> Result<Vec<Template>, ClientError> {
        self.fetch(Ask::get(Target::new("templates"))).await
    }

    /// Removes a template, named by its id or the beginning of it; answers with it as it was, or with
    /// nothing where a daemon that died over it has done it already.
    pub async fn delete_template(&self, template: &str) -> Result<Option<Template>, ClientError> {
        self.remove(Target::new("templates").at(template)).await
    }

    /// Removes the templates that are not in use, or tells which it would.
    pub async fn prune_templates(
        &self,
        request: &PruneTemplatesRequest,
    ) -> Result<PrunedTemplates, ClientError> {
        let target = Target::new("templates").at("prune");
        self.fetch(Ask::post(target).json(request)?).await
    }

    /// The images that there are.
    pub async fn images(&self) -> Result<Vec<Image>, ClientError> {
        self.fetch(Ask::get(Target::new("images"))).await
    }

    /// Has an image fetched; the operation tells how that goes. Where the daemon dies meanwhile, the
    /// next one is asked, and goes on from what is here.
    pub async fn pull(
        &self,
        wanted: &PullImage,
        id: &OperationId,
    ) -> Result<Operation, ClientError> {
        let target = Target::new("images").with("operation", id);
        self.fetch(Ask::post(target).json(wanted)?.repeatable()).await
    }

    /// An image, by its name or by where it is in a registry.
    pub async fn image(&self, image: &str) -> Result<Image, ClientError> {
        self.fetch(Ask::get(Target::new("images").at(image))).await
    }

    /// Removes an image; answers with it as it was. Where the daemon dies meanwhile, the next one is
    /// asked if it is still there: the same, by the same name.
    pub async fn delete_image(&self, image: &str) -> Result<Image, ClientError> {
        let delete = |name: &str| Ask::new(Method::DELETE, Target::new("images").at(name));
        // One that is damaged can be removed, and not be looked at.
        let Ok(known) = self.image(image).await else { return self.fetch(delete(image)).await };
        let name = known.name.as_str();
        let mut answer = self.fetch(delete(name)).await;
        for _ in 0..MAX_REMOVALS {
            if !matches!(answer, Err(ClientError::Interrupted { .. })) {
                break;
            }
            match self.image(name).await {
                Ok(same) if same.id == known.id => answer = self.fetch(delete(name)).await,
                Err(gone) if gone.code() == Some(ProblemCode::NotFound) => return Ok(known),
                _ => break,
            }
        }
        answer
    }

    /// The kernels that there are.
    pub async fn kernels(&self) -> Result<Vec<Kernel>, ClientError> {
        self.fetch(Ask::get(Target::new("kernels"))).await
    }

    /// Makes a kernel of files on this host.
    pub async fn import_kernel(&self, wanted: &ImportKernel) -> Result<Kernel, ClientError> {
        let ask = Ask::post(Target::new("kernels")).within(IMPORT_TIME);
        self.fetch(ask.json(wanted)?).await
    }

    /// Has a kernel fetched; asked again with the same id, it is the same operation.
    pub async fn pull_kernel(
        &self,
        name: &KernelName,
        id: &OperationId,
    ) -> Result<Operation, ClientError> {
        let target = Target::new("kernels").at(name.as_str()).at("pull").with("operation", id);
        self.fetch(Ask::post(target).repeatable()).await
    }

    /// One kernel.
    pub async fn kernel(&self, name: &KernelName) -> Result<Kernel, ClientError> {
        self.fetch(Ask::get(Target::new("kernels").at(name.as_str()))).await
    }

    /// Removes a kernel; answers with it as it was. Not repeated by itself: another may have its name
    /// by then.
    pub async fn delete_kernel(&self, name: &KernelName) -> Result<Kernel, ClientError> {
        let target = Target::new("kernels").at(name.as_str());
        self.fetch(Ask::new(Method::DELETE, target)).await
    }

    /// The volumes that there are.
    pub async fn volumes(&self) -> Result<Vec<Volume>, ClientError> {
        self.fetch(Ask::get(Target::new("volumes"))).await
    }

    /// Makes a volume.
    pub async fn create_volume(&self, wanted: &CreateVolume) -> Result<Volume, ClientError> {
        self.fetch(Ask::post(Target::new("volumes")).json(wanted)?).await
    }

    /// One volume.
    pub async fn volume(&self, name: &VolumeName) -> Result<Volume, ClientError> {
        self.fetch(Ask::get(Target::new("volumes").at(name.as_str()))).await
    }

    /// Makes a volume larger.
    pub async fn resize_volume(
        &self,
        name: &VolumeName,
        wanted: &ResizeVolume,
    ) -> Result<Volume, ClientError> {
        let target = Target::new("volumes").at(name.as_str()).at("resize");
        self.fetch(Ask::post(target).json(wanted)?).await
    }

    /// Removes a volume and what is in it; answers with it as it was. Not repeated by itself: another
    /// may have its name by then, with what somebody has written to it.
    pub async fn delete_volume(&self, name: &VolumeName) -> Result<Volume, ClientError> {
        let target = Target::new("volumes").at(name.as_str());
        self.fetch(Ask::new(Method::DELETE, target)).await
    }

    /// What was fetched.
    pub async fn image_cache(&self) -> Result<Vec<CachedBlob>, ClientError> {
        self.fetch(Ask::get(Target::new("image-cache"))).await
    }

    /// Removes what was fetched and is not being used.
    pub async fn prune_image_cache(
        &self,
        request: &PruneCacheRequest,
    ) -> Result<PrunedCache, ClientError> {
        let target = Target::new("image-cache").at("prune");
        self.fetch(Ask::post(target).json(request)?).await
    }

    /// One operation as it is now.
    pub async fn operation(&self, id: &OperationId) -> Result<Operation, ClientError> {
        self.fetch(Ask::get(operation_target(id))).await
    }

    /// All operations that are remembered.
    pub async fn operations(&self) -> Result<Vec<Operation>, ClientError> {
        self.fetch(Ask::get(Target::new("operations"))).await
    }

    /// Calls an operation off; answers with it as it is then.
    pub async fn cancel(&self, id: &OperationId) -> Result<Operation, ClientError> {
        self.fetch(Ask::post(operation_target(id).at("cancel"))).await
    }

    /// The operation as it is now and after every change; the last one is final.
    pub fn watch_operation(&self, id: &OperationId) -> Events<Operation> {
        let ending = Ending::With(|operation: &Operation| operation.status.is_final());
        let target = operation_target(id).at("events");
        Events::new(self.clone(), Resume::again(target), ending)
    }

    /// A log, piece by piece, without gap or repeat.
    pub fn logs(&self, sandbox: &str, query: &LogQuery) -> Events<LogChunk> {
        let source = match query.source {
            LogSource::Console => "console",
            LogSource::Agent => "agent",
            LogSource::Vmm => "vmm",
        };
        let follow = (query.follow == Follow::Yes).then_some(true);
        let target = sandbox_target(sandbox).at("logs").with("source", source);
        let later = target.with_some("follow", follow);
        let first = later.clone().with_some("since", query.since.map(|since| since.0));
        let first = first.with_some("tail", query.tail);
        Events::new(self.clone(), Resume::behind(first, later), Ending::AtEnd)
    }

    /// What a sandbox uses now.
    pub async fn stats(&self, sandbox: &str) -> Result<Stats, ClientError> {
        self.fetch(Ask::get(sandbox_target(sandbox).at("stats"))).await
    }

    /// What a sandbox uses, again and again.
    pub fn watch_stats(&self, sandbox: &str) -> Events<Stats> {
        let target = sandbox_target(sandbox).at("stats").with("watch", true);
        Events::new(self.clone(), Resume::again(target), Ending::AtEnd)
    }

    /// What a path in a sandbox is.
    pub async fn look(&self, sandbox: &str, path: &[u8]) -> Result<PathKind, ClientError> {
        let target = sandbox_target(sandbox).at("path").with_bytes("path", path);
        self.fetch(Ask::get(target)).await
    }

    /// What was started in a sandbox from outside.
    pub async fn processes(&self, sandbox: &str) -> Result<Vec<GuestProcess>, ClientError> {
        self.fetch(Ask::get(sandbox_target(sandbox).at("processes"))).await
    }

    /// Starts a process under an id that the caller has made up, so that asking again, which this
    /// does by itself, does not start it twice.
    pub async fn start_process(
        &self,
        sandbox: &str,
        process: ProcessId,
        what: &StartProcess,
    ) -> Result<StartedProcess, ClientError> {
        self.fetch(Ask::new(Method::PUT, process_target(sandbox, process)).json(what)?).await
    }

    /// Forgets a process that has ended, with its output. One that is not there is forgotten
    /// already, so this is repeated without harm.
    pub async fn release(&self, sandbox: &str, process: ProcessId) -> Result<(), ClientError> {
        let ask = Ask::new(Method::DELETE, process_target(sandbox, process));
        match self.fetch_bytes(ask.repeatable()).await {
            Err(error) if error.code() == Some(ProblemCode::NotFound) => Ok(()),
            result => result.map(drop),
        }
    }

    /// The streams of a process from these offsets on, as frames on a connection of their own.
    /// [`ProcessSession`] does that and survives lost connections.
    pub async fn attach(
        &self,
        sandbox: &str,
        process: ProcessId,
        stdout: u64,
        stderr: u64,
    ) -> Result<Attachment, ClientError> {
        let target = process_target(sandbox, process).at("attach");
        let ask = Ask::get(target.with("stdout", stdout).with("stderr", stderr)).upgrade(PROTOCOL);
        let answer = ask.open(&*self.connector).await?;
        let ask = answer.ask().clone();
        let (stream, received) = answer.upgraded(PROTOCOL).await?;
        Ok(Attachment::new(ask, stream, received))
    }

    async fn fetch<T: DeserializeOwned>(&self, ask: Ask) -> Result<T, ClientError> {
        let bytes = self.fetch_bytes(ask.clone()).await?;
        read(&ask, &bytes)
    }

    /// Has something removed. A daemon that dies may have done it: that the next one finds nothing
    /// is what was wanted.
    async fn remove<T: DeserializeOwned>(&self, target: Target) -> Result<Option<T>, ClientError> {
        let ask = Ask::new(Method::DELETE, target).repeatable();
        let mut done = Done::No;
        match self.ask(ask.clone(), &mut done).await {
            Err(error) if done == Done::Maybe && error.code() == Some(ProblemCode::NotFound) => {
                Ok(None)
            }
            answer => read(&ask, &answer?).map(Some),
        }
    }

    async fn fetch_bytes(&self, ask: Ask) -> Result<Vec<u8>, ClientError> {
        self.ask(ask, &mut Done::No).await
    }

    /// Asks. What may be asked twice is asked again when the daemon was restarted; what
    /// the daemon turned down because it ends was not done, so that goes for everything.
    async fn ask(&self, ask: Ask, done: &mut Done) -> Result<Vec<u8>, ClientError> {
        let mut patience = Patience::default();
        let mut broken: Option<ClientError> = None;
        loop {
            let error = match ask.clone().fetch_bytes(&*self.connector).await {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            let again = match &error {
                // Who has never been there is not on the way back.
                ClientError::Connect(_) => broken.is_some() && error.is_restart(),
                ClientError::Interrupted { .. } => {
                    *done = Done::Maybe;
                    ask.may_be_repeated()
                }
                error => error.is_restart(),
            };
            // What was asked once may have been done: that is what its asker has to know.
            let first = match (&error, broken.take()) {
                (ClientError::Connect(_), Some(first)) if ask.changes() => first,
                _ => error,
            };
            if !again || !patience.wait().await {
                return Err(first);
            }
            broken = Some(first);
        }
    }
}

/// Most daemons that may die over one removal of an image.
const MAX_REMOVALS: usize = 8;

/// Whether an attempt that had no answer may have done what was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Done {
    No,
    Maybe,
}

fn read<T: DeserializeOwned>(ask: &Ask, bytes: &[u8]) -> Result<T, ClientError> {
    serde_json::from_slice(bytes).map_err(|error| ask.protocol(error.to_string()))
}

/// An id for an operation: with it, asking twice is asking once.
fn new_id() -> Result<OperationId, ClientError> {
    let mut random = [0; 8];
    getrandom::fill(&mut random).map_err(|error| ConnectError::Failed {
        what: "the system has no random numbers to name the operation".to_owned(),
        source: Some(Box::new(error)),
    })?;
    Ok(OperationId::from_random(random))
}

fn sandbox_target(sandbox: &str) -> Target {
    Target::new("sandboxes").at(sandbox)
}

fn process_target(sandbox: &str, process: ProcessId) -> Target {
    sandbox_target(sandbox).at("processes").at(&process.to_string())
}

fn operation_target(id: &OperationId) -> Target {
    Target::new("operations").at(id.as_str())
}
