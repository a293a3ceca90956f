//! One spare machine: restored from a template, warm, standing still, and nobody's.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use banger_host::fs::remove_all;
use banger_host::random;
use banger_model::{InitMode, NetworkMode, SandboxId, SandboxSpec, generate_name};
use banger_net::user::{WaysOut, ways_out};
use banger_vmm::RunState;
use tokio::task::spawn_blocking;
use tracing::warn;

use crate::assets::Assets;
use crate::checkpoint::Checkpoints;
use crate::machine::memory::stand_still;
use crate::machine::{self, Blueprint, HelperProgram, Live, Raised, Source};
use crate::templates::{Processes, Template, rehearse};

/// What a spare machine is made from.
#[derive(Clone, Debug)]
pub(super) struct Recipe {
    pub(super) assets: Arc<Assets>,
    pub(super) spec: SandboxSpec,
}

/// A machine that waits to become a sandbox.
#[derive(Debug)]
pub(crate) struct Spare {
    /// The sandbox that it can become: its directory and its addresses are chosen.
    pub(crate) id: SandboxId,
    dir: PathBuf,
    raised: Box<Raised>,
    /// Not held: a template that nothing but spares was made from may go, and they go with it.
    template: Weak<Template>,
    /// How its host was connected when its network was started, if it has one.
    ways_out: Option<WaysOut>,
}

impl Spare {
    /// Restores a machine and has it do what every sandbox does first, so that this is in its
    /// memory and, under emulation, translated. Then it stands still.
    ///
    /// # Errors
    /// When it does not come up; what there is of it then is in `dir`, for the caller to remove.
    pub(super) async fn make(
        (id, dir): (SandboxId, &Path),
        recipe: &Recipe,
        template: Arc<Template>,
        relay: &HelperProgram,
    ) -> Result<Self> {
        let dir = machine::make_dir(dir)?;
        let Recipe { assets, spec } = recipe;
        let nobody = generate_name(random::bytes()?, 0);
        let weak = Arc::downgrade(&template);
        let ways_out = (spec.network == NetworkMode::User).then(ways_out).transpose()?;
        if ways_out.as_ref().is_some_and(WaysOut::is_empty) {
            bail!("its network would lead nowhere");
        }
        let (volumes, source) = (Default::default(), Source::Template(template));
        let blueprint =
            Blueprint { id: &id, name: &nobody, dir: &dir, spec, assets, relay, volumes, source };
        let prepared = machine::prepare(&blueprint, &Checkpoints::default()).await?;
        let mut raised = machine::raise(&dir, prepared).await?;
        let processes = match assets.init(spec) {
            InitMode::Agent => Processes::Go,
            InitMode::Systemd => Processes::Stand,
        };
        rehearse(&raised.link, processes).await.context("it does not rehearse")?;
        stand_still(&*raised.machine).await?;
        raised.template = None;
        Ok(Self { id, dir, raised: Box::new(raised), template: weak, ways_out })
    }

    /// Whether it can become a sandbox that is made from this template.
    pub(super) fn fits(&self, template: &Arc<Template>) -> bool {
        Weak::ptr_eq(&self.template, &Arc::downgrade(template)) && self.is_of_use()
    }

    /// Whether it can become a sandbox.
    pub(super) fn is_of_use(&self) -> bool {
        self.template.strong_count() > 0 && self.stands() && self.leads_somewhere()
    }

    /// Whether its machine is still there.
    pub(super) fn stands(&self) -> bool {
        *self.raised.machine.watch().borrow() == RunState::Paused
    }

    /// A network goes where its host went when it was started.
    fn leads_somewhere(&self) -> bool {
        let Some(then) = &self.ways_out else { return true };
        ways_out().is_ok_and(|now| now == *then)
    }

    /// From now on its template is in use.
    pub(super) fn hold(&mut self, template: Arc<Template>) {
        self.raised.template = Some(template);
    }

    /// It becomes the sandbox that it was made for.
    ///
    /// # Errors
    /// When it does not go on or does not take its identity.
    pub(crate) async fn become_sandbox(mut self, blueprint: &Blueprint<'_>) -> Result<Live> {
        let begin = Instant::now();
        self.raised.machine.resume().await?;
        self.raised.phases = machine::Phases { answered: begin.elapsed(), ..Default::default() };
        machine::become_sandbox(blueprint, *self.raised).await
    }

    /// It is not wanted after all: it ends, and nobody waits for that.
    pub(crate) fn discard(self) {
        tokio::spawn(self.end());
    }

    /// Ends it; nothing of it is left.
    pub(super) async fn end(self) {
        let Self { id, dir, raised, .. } = self;
        drop(raised);
        clear(&id, &dir).await;
    }
}

/// Removes whatever there is of a spare machine that is of no use.
pub(super) async fn clear(id: &SandboxId, dir: &Path) {
    let cleared = async {
        machine::clear(dir).await?;
        let dir = dir.to_owned();
        Ok::<_, anyhow::Error>(spawn_blocking(move || remove_all(&dir)).await??)
    };
    if let Err(error) = cleared.await {
        // The next daemon finds what nobody remembers.
        warn!(spare = %id, error = format!("{error:#}"), "a spare machine remains");
    }
}
