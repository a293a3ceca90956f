//! Spare machines: restored from a template before anybody asks, so that a new sandbox of a kind
//! that was started lately has nothing to wait for but its identity.
//!
//! A spare has the id, directory and addresses of the sandbox that it may become. Nobody remembers
//! it: a daemon that dies leaves it to the next one, which ends what nobody remembers. It stands
//! still and costs no processor, only the memory that it has written to.

mod plan;
mod spare;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Result;
use banger_host::{facts, random};
use banger_model::{BootMode, Bytes, NetworkMode, SandboxId, SandboxSpec, TemplateId};
use tokio::sync::Notify;
use tracing::{debug, warn};

use crate::assets::{Assets, Base};
use crate::machine;
use crate::shared::{MAX_BOOTS, Shared};
use crate::templates::{self, Known, Template};

use plan::{Demand, Kind, plan};
use spare::Recipe;

pub(crate) use spare::Spare;

/// What of the host's memory spares may take where nothing else is said, in parts.
const DEFAULT_PART: u64 = 16;
/// What one takes, about.
const COST: Bytes = Bytes::mib(64);
/// Most spares where nothing else is said, however large the host.
const DEFAULT_CAP: u64 = 24;
/// Most kinds that are kept in mind.
const MAX_KINDS: usize = 64;
/// What of the host's memory must stay free beside a spare, in parts.
const FREE_PART: u64 = 4;
/// Between two looks at whether the host's memory is needed otherwise.
const LOOK_AGAIN: Duration = Duration::from_secs(60);

/// Every spare machine there is, and how many are wanted.
#[derive(Debug)]
pub(crate) struct Spares {
    most: usize,
    lines: Mutex<BTreeMap<Key, Line>>,
    changed: Notify,
}

/// What sandboxes have in common that can be made of the same spare.
type Key = (TemplateId, NetworkMode);

/// Spares of one kind.
#[derive(Debug)]
struct Line {
    recipe: Recipe,
    demand: Demand,
    ready: Vec<Spare>,
}

/// How many spares there are at most where nothing else is said: what a small part of the host's
/// memory is good for, and one at least.
pub fn default_most() -> usize {
    let total = facts::memory().map_or(0, |(total, _)| total);
    usize::try_from((total / DEFAULT_PART / COST.get()).clamp(1, DEFAULT_CAP)).unwrap_or(1)
}

/// What is to be done next.
#[derive(Debug)]
enum Next {
    Make(Key, Recipe),
    Wait(Option<Instant>),
}

impl Spares {
    /// None yet, and never more than `most`.
    pub(crate) fn new(most: usize) -> Self {
        Self { most, lines: Mutex::default(), changed: Notify::new() }
    }

    fn lines(&self) -> MutexGuard<'_, BTreeMap<Key, Line>> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A spare for a sandbox of this spec, if there is one.
    pub(crate) fn take(&self, shared: &Shared, spec: &SandboxSpec) -> Option<Spare> {
        // A spare has no disks but its own.
        if self.most == 0 || spec.boot == BootMode::Cold || !spec.volumes.is_empty() {
            return None;
        }
        let base = Base::Wanted(spec.image.clone());
        let assets = shared.arsenal.at_hand(&base, spec.kernel.as_ref())?;
        let id = templates::shape(&assets, spec).and_then(|shape| shape.template()).ok()?;
        let Known::Ready(template) = shared.templates.known(&id) else { return None };
        let key = (id, spec.network);
        let mut spare = {
            let mut lines = self.lines();
            let line = lines.get_mut(&key)?;
            let at = line.ready.iter().position(|spare| spare.fits(&template))?;
            line.ready.remove(at)
        };
        // Whoever removes the image counts it from now on, and may have done so before.
        if shared.arsenal.at_hand(&base, spec.kernel.as_ref()).is_none() {
            let mut lines = self.lines();
            lines.get_mut(&key)?.ready.push(spare);
            return None;
        }
        spare.hold(template);
        Some(spare)
    }

    /// The ids of those that wait.
    pub(crate) fn ids(&self) -> Vec<SandboxId> {
        let lines = self.lines();
        lines.values().flat_map(|line| &line.ready).map(|spare| spare.id.clone()).collect()
    }

    /// A sandbox was started that is made of this, from this template: others may follow.
    pub(crate) fn started(&self, template: &TemplateId, assets: &Arc<Assets>, spec: &SandboxSpec) {
        let mut lines = self.lines();
        if lines.len() >= MAX_KINDS {
            // What is of use is started again.
            lines.retain(|_, line| !line.ready.is_empty());
        }
        let recipe = Recipe { assets: assets.clone(), spec: spec.clone() };
        let fresh = Line { recipe, demand: Demand::default(), ready: Vec::new() };
        let line = lines.entry((template.clone(), spec.network)).or_insert(fresh);
        line.demand.started(Instant::now(), self.most);
    }

    /// Something has changed: there may be something to do.
    pub(crate) fn look_again(&self) {
        self.changed.notify_one();
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.lines().values().map(|line| line.ready.len()).sum()
    }

    /// How many there are of this template.
    pub(crate) fn ready(&self, template: &TemplateId) -> usize {
        let lines = self.lines();
        let of_it = lines.iter().filter(|((id, _), _)| id == template);
        of_it.map(|(_, line)| line.ready.len()).sum()
    }

    /// What is too much, and what is to be done next.
    fn next(&self, now: Instant) -> (Vec<Spare>, Next) {
        let room = room();
        let mut lines = self.lines();
        let mut surplus = Vec::new();
        for line in lines.values_mut() {
            let useless: Vec<_> = line.ready.extract_if(.., |spare| !spare.is_of_use()).collect();
            if useless.iter().any(|spare| !spare.stands()) {
                // The next one may die as well.
                line.demand.failed(now);
            }
            surplus.extend(useless);
        }
        let ready: usize = lines.values().map(|line| line.ready.len()).sum();
        let most = match room {
            Room::Enough => self.most,
            Room::Tight => ready,
            Room::Short => 0,
        };
        let kinds: Vec<_> = lines
            .values()
            .map(|line| Kind { demand: &line.demand, ready: line.ready.len() })
            .collect();
        let planned = plan(&kinds, most.min(self.most), now);
        let make = planned.make.and_then(|at| lines.iter().nth(at));
        let make = make.map(|(key, line)| Next::Make(key.clone(), line.recipe.clone()));
        for (line, count) in lines.values_mut().zip(planned.surplus) {
            let keep = line.ready.len() - count;
            surplus.extend(line.ready.drain(keep..));
        }
        let look = (ready > 0).then(|| now + LOOK_AGAIN);
        let again = planned.again.into_iter().chain(look).min();
        (surplus, make.unwrap_or(Next::Wait(again)))
    }

    async fn make(&self, key: Key, recipe: Recipe, shared: &Shared) {
        let Known::Ready(template) = shared.templates.known(&key.0) else {
            // Who starts the next has the template made anew.
            let line = self.lines().remove(&key);
            for spare in line.map(|line| line.ready).unwrap_or_default() {
                spare.end().await;
            }
            return;
        };
        let unwanted = match make(shared, &recipe, template).await {
            Ok(spare) => self.put(&key, spare),
            Err(error) => {
                debug!(template = %key.0, error = format!("{error:#}"), "no spare machine");
                if let Some(line) = self.lines().get_mut(&key) {
                    line.demand.failed(Instant::now());
                }
                None
            }
        };
        if let Some(spare) = unwanted {
            spare.end().await;
        }
    }

    /// Has a spare wait with others of its kind; it is returned if nobody has that in mind any more.
    fn put(&self, key: &Key, spare: Spare) -> Option<Spare> {
        let mut lines = self.lines();
        let Some(line) = lines.get_mut(key) else { return Some(spare) };
        debug!(spare = %spare.id, template = %key.0, "a spare machine is ready");
        line.ready.push(spare);
        None
    }

    /// Ends them all.
    async fn end(&self) {
        let lines = std::mem::take(&mut *self.lines());
        let ends = lines.into_values().flat_map(|line| line.ready).map(|s| tokio::spawn(s.end()));
        for end in ends.collect::<Vec<_>>() {
            if let Err(error) = end.await {
                warn!(%error, "a spare machine remains");
            }
        }
    }
}

/// Keeps as many spares as are wanted until the daemon ends; then ends them all.
pub(crate) async fn keep(shared: Arc<Shared>) {
    let ending = shared.clone().ending();
    tokio::pin!(ending);
    let spares = &shared.spares;
    loop {
        let (surplus, next) = spares.next(Instant::now());
        for spare in surplus {
            debug!(spare = %spare.id, "a spare machine is of no use any more");
            spare.end().await;
        }
        let again = match next {
            // Who waits for a sandbox comes first.
            Next::Make(key, recipe) if is_quiet(&shared) => {
                spares.make(key, recipe, &shared).await;
                Some(Instant::now())
            }
            Next::Make(..) => None,
            Next::Wait(again) => again,
        };
        tokio::select! {
            biased;
            () = &mut ending => return spares.end().await,
            () = spares.changed.notified() => {}
            () = until(again) => {}
        }
    }
}

fn is_quiet(shared: &Shared) -> bool {
    shared.boots.available_permits() == MAX_BOOTS
}

async fn make(shared: &Shared, recipe: &Recipe, template: Arc<Template>) -> Result<Spare> {
    machine::check_space(&shared.home.sandboxes())?;
    let id = SandboxId::from_random(random::bytes()?);
    let dir = shared.dir(&id);
    let made = Spare::make((id.clone(), &dir), recipe, template, &shared.relay).await;
    if made.is_err() {
        spare::clear(&id, &dir).await;
    }
    made
}

/// How much of the host's memory there is for machines that nobody uses.
enum Room {
    Enough,
    /// No more of them.
    Tight,
    /// Others need it.
    Short,
}

fn room() -> Room {
    let Ok((total, available)) = facts::memory() else { return Room::Tight };
    let (total, available) = (Bytes::new(total), Bytes::new(available));
    if available.get() < total.get() / (2 * FREE_PART) {
        Room::Short
    } else if available.get() < total.get() / FREE_PART {
        Room::Tight
    } else {
        Room::Enough
    }
}

async fn until(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time.into()).await,
        None => std::future::pending().await,
    }
}
