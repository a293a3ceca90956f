//! One request to the daemon, and what its answer means.

use anyhow::{Result, anyhow};
use banger_api::client::{Client, ClientError, Force, SandboxAction};
use banger_api::types::{CreateFrom, CreateSandbox, ForkSandbox, ProblemCode};
use banger_model::{
    Disposal, Labels, Lifetime, Limits, NetworkMode, OperationId, SandboxSpec, SnapshotName,
};

use crate::book::{Afterwards, Entry, Heard, Made, Wish};

/// Something that is asked, about the sandbox of this name.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) name: String,
    pub(crate) wish: Wish,
    pub(crate) with: With,
}

/// What else belongs to a request.
#[derive(Clone, Debug)]
pub(crate) enum With {
    Nothing,
    /// What is to be made.
    Spec(Box<CreateSandbox>),
    /// The snapshot that is taken or dropped, by its name.
    Snapshot(String),
    /// So many copies that are called so, with a number behind it.
    Copies(String, u16),
}

impl Request {
    /// One that says everything by its wish.
    pub(crate) fn plain(name: &str, wish: Wish) -> Self {
        Self { name: name.to_owned(), wish, with: With::Nothing }
    }

    /// To be there, as this entry says.
    pub(crate) fn create(name: &str, entry: &Entry, wish: Wish) -> Result<Self> {
        let with = With::Spec(Box::new(wanted(name, entry, wish)?));
        Ok(Self { name: name.to_owned(), wish, with })
    }

    /// That a snapshot is taken, with this tag.
    pub(crate) fn snapshot(name: &str, tag: &str) -> Self {
        let with = With::Snapshot(format!("{name}@{tag}"));
        Self { name: name.to_owned(), wish: Wish::Snapshot, with }
    }

    /// That a snapshot goes.
    pub(crate) fn drop_snapshot(source: &str, snapshot: &str) -> Self {
        let with = With::Snapshot(snapshot.to_owned());
        Self { name: source.to_owned(), wish: Wish::DropSnapshot, with }
    }

    /// That copies are made.
    pub(crate) fn fork(name: &str, prefix: &str, count: u16) -> Self {
        let with = With::Copies(prefix.to_owned(), count);
        Self { name: name.to_owned(), wish: Wish::Fork, with }
    }

    /// The names of the copies that it makes.
    pub(crate) fn copies(&self) -> Vec<String> {
        match &self.with {
            With::Copies(prefix, count) => (1..=*count).map(|n| format!("{prefix}-{n}")).collect(),
            _ => Vec::new(),
        }
    }

    /// Asks.
    pub(crate) async fn send(&self, client: &Client) -> Heard {
        let asked = match &self.with {
            With::Spec(wanted) => client.create(wanted).await.map(|made| made.operation),
            With::Snapshot(snapshot) => match (snapshot.parse::<SnapshotName>(), self.wish) {
                (Ok(snapshot), Wish::Snapshot) => {
                    let taken = client.snapshot(&self.name, Some(&snapshot.tag)).await;
                    taken.map(|operation| Some(operation.id))
                }
                (Ok(snapshot), _) => return dropped(client.delete_snapshot(&snapshot).await),
                (Err(_), _) => return Heard::No,
            },
            With::Copies(prefix, count) => {
                let wanted = ForkSandbox { count: *count, name: prefix.parse().ok() };
                client.fork(&self.name, &wanted).await.map(|forked| Some(forked.operation.id))
            }
            With::Nothing => return self.send_plain(client).await,
        };
        heard(asked)
    }

    async fn send_plain(&self, client: &Client) -> Heard {
        let act = async |action| client.act(&self.name, action).await;
        let asked = match self.wish {
            Wish::Start => act(SandboxAction::Start).await,
            Wish::Stop => act(SandboxAction::Stop).await,
            Wish::Kill => act(SandboxAction::Kill).await,
            Wish::Restart => act(SandboxAction::Restart).await,
            Wish::Pause => act(SandboxAction::Pause).await,
            Wish::Resume => act(SandboxAction::Resume).await,
            Wish::Delete => client.delete(&self.name, Force::No).await,
            Wish::DeleteForced => client.delete(&self.name, Force::Yes).await,
            Wish::LeaseFell => return Heard::Yes(None),
            _ => return Heard::No,
        };
        heard(asked.map(|operation| Some(operation.id)))
    }
}

/// What an answer means. The daemon's own no is one; anything else leaves it open.
pub(crate) fn heard(answer: Result<Option<OperationId>, ClientError>) -> Heard {
    match answer {
        Ok(operation) => Heard::Yes(operation),
        Err(ClientError::Problem(_) | ClientError::Connect(_)) => Heard::No,
        Err(_) => Heard::Nothing,
    }
}

/// What an answer about the end of a snapshot means. Who hears that there is none may have asked
/// twice.
fn dropped<T>(answer: Result<T, ClientError>) -> Heard {
    match answer {
        Err(error) if error.code() == Some(ProblemCode::NotFound) => Heard::Nothing,
        answer => heard(answer.map(|_| None)),
    }
}

/// The sandbox that this entry is about.
pub(crate) fn wanted(name: &str, entry: &Entry, wish: Wish) -> Result<CreateSandbox> {
    let parse = |error: &dyn std::fmt::Display| anyhow!("{error}");
    let from = match &entry.made {
        Made::FromSnapshot(snapshot, part) => Some(CreateFrom {
            snapshot: snapshot.parse().map_err(|e| parse(&e))?,
            part: *part,
            network: None,
        }),
        Made::Anew | Made::Copy(_) => None,
    };
    let spec = SandboxSpec {
        memory: "256M".parse().map_err(|e| parse(&e))?,
        disk: Some(Limits::MIN_DISK.try_into().map_err(|e| parse(&e))?),
        network: NetworkMode::None,
        ..SandboxSpec::of("debian-bookworm".parse().map_err(|e| parse(&e))?)
    };
    let disposal = match entry.afterwards {
        Afterwards::Stays => Disposal::Keep,
        Afterwards::Goes => Disposal::Remove,
    };
    Ok(CreateSandbox {
        name: Some(name.parse().map_err(|e| parse(&e))?),
        spec: from.is_none().then_some(spec),
        from,
        labels: Labels::default(),
        lifetime: Lifetime { disposal, lease: entry.lease.clone(), ..Lifetime::default() },
        start: wish == Wish::CreateAndStart,
    })
}
