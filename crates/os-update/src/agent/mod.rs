//! One run of each command: what is asked, what is let happen, and in which order.
//!
//! A run holds the lock of the state directory, so that two never meet. Whatever fails is written
//! down as what went wrong, and nothing that runs has changed then.

mod ask;
mod error;

mod install;
mod restart;
mod rollback;
mod session;
mod undecided;
mod verdict;

use banger_host::fs::read_bounded;
use banger_host::random;
use banger_trust::gates::{Hours, Refusal, window};
use banger_trust::{
    ArtifactName, KeyId, Manifest, Sha256Digest, SignedBy, Trust, Verified, Version, Window,
};
use banger_update::{
    BootLoader, Event, Grub, HostFiles, Layout, Observed, Passive, ReleaseId, Slot, State,
    SystemdBoot,
};

use crate::dns::Resolver;
use crate::fetch::{self, Progress};
use crate::health::Finding;
use crate::http::Patience;
use crate::machine;
use crate::settings::{Loader, MAX_KEYS_FILE, Merged, Settings};
use crate::url::Url;
use ask::{Asked, signature};
pub use error::AgentError;
pub use install::install;
pub use restart::Restart;
use session::Session;

/// What one run is told besides its settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Orders {
    /// Whether the maintenance window counts.
    pub hours: Hours,
    /// Whether signatures have to be there.
    pub signatures: Signatures,
    /// Whether anything is done.
    pub run: Run,
    /// Whether what was given up may be gone back to.
    pub given_up: GivenUp,
}

/// Whether what was given up here may be gone back to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GivenUp {
    /// No.
    Refused,
    /// `--given-up` was given: somebody knows better.
    Wanted,
}

/// Whether signatures have to be there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signatures {
    /// Yes.
    Required,
    /// `--insecure-skip-verify` was given, and there is no key.
    Insecure,
}

/// Whether anything is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Run {
    /// Yes.
    Real,
    /// Only told: `--dry-run`.
    Dry,
}

/// Whether the machine starts again when it should.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reboot {
    /// At once.
    Now,
    /// Whoever called sees to it.
    Later,
}

/// How a run went.
#[derive(Debug)]
pub enum Outcome {
    /// There is nothing newer.
    UpToDate(Version),
    /// This can be installed.
    Available(Version),
    /// This would be offered, if only it could be verified: there is no key.
    Unverified(Version),
    /// This lies in the passive slot.
    Staged(Version),
    /// This is tried at the next boot.
    OnTrial(Version),
    /// This has proved itself.
    Committed(Version),
    /// There was nothing to prove; what was checked is well.
    Healthy(Vec<Finding>),
    /// The other one was selected, without a trial.
    RolledBack,
    /// The old one, of this version, was gone back to and has proved itself.
    Returned(Version),
    /// The old one is tried at the next boot.
    Returning {
        /// Where it is.
        slot: Slot,
        /// What goes on if that one is not well.
        from: Version,
    },
    /// This was staged, and is not any more. What runs goes on running.
    Dropped(Version),
}

/// The agent of this machine, with valid settings.
#[derive(Clone, Debug)]
pub struct Agent {
    settings: Settings,
    patience: Patience,
    resolver: Resolver,
    restart: Restart,
}

/// Reads the key if it lies in a file, and checks all settings.
///
/// # Errors
/// When anything makes no sense, or the key cannot be read.
pub fn settle(merged: &Merged) -> Result<Settings, AgentError> {
    let keys = merged.pubkey_path().map(|path| read_bounded(&path, MAX_KEYS_FILE)).transpose()?;
    Ok(merged.validate(keys.as_deref())?)
}

impl Agent {
    /// With these settings.
    pub fn new(settings: Settings, patience: Patience, resolver: Resolver) -> Self {
        Self { settings, patience, resolver, restart: Restart::default() }
    }

    /// With another way to start the machine again.
    #[must_use]
    pub fn restarted(self, by: Restart) -> Self {
        Self { restart: by, ..self }
    }

    /// Its settings.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    fn layout(&self) -> Layout {
        Layout::under(&self.settings.boot_dir)
    }

    /// The boot loader of this machine.
    pub fn loader(&self) -> Box<dyn BootLoader> {
        match self.settings.loader {
            Loader::Grub => Box::new(Grub::new(&HostFiles, self.layout())),
            Loader::SystemdBoot => {
                let args = self.settings.kernel_args.clone();
                Box::new(SystemdBoot::new(&HostFiles, self.layout(), args))
            }
        }
    }

    /// Asks the server what there is.
    ///
    /// # Errors
    /// When it cannot be asked, or what it says is refused.
    pub async fn check(&self, orders: Orders) -> Result<Outcome, AgentError> {
        let loader = self.loader();
        let session = Session::begin(self, loader.as_ref(), orders.run)?;
        if self.settings.keys.is_none() && orders.signatures == Signatures::Required {
            return self.check_without_key(&session).await;
        }
        let trust = self.trust(orders)?;
        if orders.run == Run::Dry {
            let mut session = session;
            return match self.ask(&mut session, &trust, Run::Dry).await? {
                Asked::UpToDate(version) => Ok(Outcome::UpToDate(version)),
                Asked::Install(manifest, _) => {
                    Ok(Outcome::Available(manifest.get().version.clone()))
                }
                Asked::Refused(refusal) => Err(refusal.into()),
            };
        }
        session.free()?;
        let mut session = session;
        match self.find(&mut session, &trust).await? {
            None => Ok(Outcome::UpToDate(session.seen.running.clone())),
            Some((manifest, _)) => Ok(Outcome::Available(manifest.get().version.clone())),
        }
    }

    /// Has the newest release in the passive slot.
    ///
    /// # Errors
    /// When that did not come about. What runs has not changed.
    pub async fn apply(
        &self,
        orders: Orders,
        progress: &mut dyn Progress,
    ) -> Result<Outcome, AgentError> {
        let loader = self.loader();
        let mut session = Session::begin(self, loader.as_ref(), orders.run)?;
        session.free()?;
        session.refusable(|_| self.gate_window(orders))?;
        let trust = self.trust(orders).inspect_err(|error| drop(session.remember_why(error)))?;
        if orders.run == Run::Dry {
            return match self.ask(&mut session, &trust, Run::Dry).await? {
                Asked::UpToDate(version) => Ok(Outcome::UpToDate(version)),
                Asked::Install(manifest, _) => {
                    Ok(Outcome::Available(manifest.get().version.clone()))
                }
                Asked::Refused(refusal) => Err(refusal.into()),
            };
        }
        let Some((manifest, base)) = self.find(&mut session, &trust).await? else {
            return Ok(Outcome::UpToDate(session.seen.running.clone()));
        };
        let version = manifest.get().version.clone();
        if !matches!(session.engine.record().state, State::Staged(..)) {
            let staged = self.stage(&mut session, &trust, &manifest, &base, progress).await;
            session.or_failed(staged)?;
        }
        Ok(Outcome::Staged(version))
    }

    /// Has the boot loader try what was staged. The slot is read once more before that.
    ///
    /// # Errors
    /// When nothing is staged, or it is damaged, or this is not the time.
    pub fn activate(&self, orders: Orders, reboot: Reboot) -> Result<Outcome, AgentError> {
        let loader = self.loader();
        let mut session = Session::begin(self, loader.as_ref(), orders.run)?;
        session.free()?;
        session.refusable(|_| self.gate_window(orders))?;
        let State::Staged(release, slot) = session.engine.record().state.clone() else {
            let state = session.engine.record().state.to_string();
            return Err(AgentError::NothingStaged(state));
        };
        let passive = self.passive(&session)?;
        let there = passive.fingerprint();
        let whole = matches!(&there, Ok(Some(found)) if *found == release.fingerprint);
        if !whole || passive.slot() != slot {
            let damaged = Err(AgentError::Corrupted { slot: slot.to_string() });
            return session.or_failed(damaged);
        }
        if !self.trusts(session.engine.record().staged_by.as_ref()) {
            let unsigned = Err(AgentError::StagedUntrusted { slot: slot.to_string() });
            return session.or_failed(unsigned);
        }
        if orders.run == Run::Dry {
            return Ok(Outcome::Staged(release.version));
        }
        // It may have taken a while to read it.
        session.refusable(|_| self.gate_window(orders))?;
        let (nonce, boot_id) = (nonce()?, session.seen.boot_id.clone());
        session.happen(Event::Activate { nonce, boot_id })?;
        if reboot == Reboot::Now {
            self.restart.carry_out()?;
        }
        Ok(Outcome::OnTrial(release.version))
    }

    /// What can be seen, without changing anything.
    ///
    /// # Errors
    /// When the machine does not say what runs.
    pub fn observe(&self) -> Result<Observed, AgentError> {
        Ok(machine::observe(&self.settings, self.loader().as_ref())?)
    }

    /// By the clock as people see it: a time that is merely not earlier than another opens nothing.
    fn gate_window(&self, orders: Orders) -> Result<(), Refusal> {
        let (hours, zone) = (self.settings.window, self.settings.zone);
        match machine::wall_time() {
            Some(now) => window(hours, zone, now, orders.hours),
            None if hours == Window::Always || orders.hours == Hours::Ignore => Ok(()),
            None => Err(Refusal::WindowClosed { window: hours, zone }),
        }
    }

    /// Whether whoever signed is believed now: keys may have changed since.
    fn trusts(&self, signer: Option<&KeyId>) -> bool {
        let Some(keys) = &self.settings.keys else { return true };
        signer.is_some_and(|signer| keys.get(signer).is_some())
    }

    fn trust(&self, orders: Orders) -> Result<Trust, AgentError> {
        match (&self.settings.keys, orders.signatures) {
            (Some(keys), Signatures::Required) => Ok(Trust::Keys(keys.clone())),
            (Some(_), Signatures::Insecure) => Err(AgentError::KeyAnyway),
            (None, Signatures::Insecure) => Ok(Trust::InsistedWithoutKeys),
            (None, Signatures::Required) => Err(AgentError::NoKey),
        }
    }

    fn passive(&self, session: &Session<'_>) -> Result<Passive<'static, HostFiles>, AgentError> {
        let booted = session.seen.booted.slot.ok_or(AgentError::NoSlot)?;
        Ok(Passive::beside(&HostFiles, self.layout(), booted)?)
    }

    /// The release that is to be installed and where its manifest was, with the state saying so;
    /// none if there is none.
    async fn find(
        &self,
        session: &mut Session<'_>,
        trust: &Trust,
    ) -> Result<Option<Found>, AgentError> {
        let before = session.engine.record().state.clone();
        session.happen(Event::Check)?;
        let asked = self.ask(session, trust, Run::Real).await;
        let (manifest, base) = match session.or_as_before(asked, &before)? {
            Asked::UpToDate(_) => {
                session.happen(Event::UpToDate)?;
                session.engine.remember(|record| record.last_error = None)?;
                return Ok(None);
            }
            Asked::Refused(refusal) => {
                session.happen(after_refusal(&refusal, before))?;
                session.remember_why(&refusal)?;
                return Err(refusal.into());
            }
            Asked::Install(manifest, base) => (manifest, base),
        };
        let release = ReleaseId {
            version: manifest.get().version.clone(),
            fingerprint: manifest.get().fingerprint(),
        };
        let event = match before {
            State::Staged(known, slot)
                if known == release && self.lies_there(session, &release) =>
            {
                Event::FoundStaged(release, slot)
            }
            _ => Event::Found(release),
        };
        session.happen(event)?;
        // What lies there is what this manifest's digests say, whoever signed it first.
        let signer = signer(&manifest);
        session.engine.remember(|record| {
            record.last_error = None;
            record.staged_by = signer;
        })?;
        Ok(Some((manifest, base)))
    }

    fn lies_there(&self, session: &Session<'_>, release: &ReleaseId) -> bool {
        let there = self.passive(session).and_then(|passive| Ok(passive.fingerprint()?));
        matches!(there, Ok(Some(found)) if found == release.fingerprint)
    }

    async fn stage(
        &self,
        session: &mut Session<'_>,
        trust: &Trust,
        manifest: &Verified<Manifest>,
        base: &Url,
        progress: &mut dyn Progress,
    ) -> Result<(), AgentError> {
        let (client, rules, _) = self.server()?;
        let passive = self.passive(session)?;
        let into = passive.slot();
        session.happen(Event::Fetch { into })?;
        let mut files = Vec::new();
        for name in ArtifactName::ALL {
            let artifact = manifest.get().artifact(name);
            let url = base.join(&artifact.url)?;
            let signature = match trust {
                Trust::InsistedWithoutKeys => None,
                Trust::Keys(_) => {
                    let hint = artifact.signature_url.as_deref();
                    signature(&client, &rules, &url, hint).await?
                }
            };
            let incoming = passive.incoming(artifact, trust, manifest.signed_by(), signature)?;
            let file = fetch::file(&client, &rules, &url, artifact, incoming, progress).await?;
            files.push((name, file));
        }
        session.happen(Event::Received { into })?;
        for (name, file) in &files {
            passive.read_back(*name, file)?;
        }
        session.happen(Event::Same { into })?;
        passive.place(&files)?;
        session.happen(Event::Placed { into })?;
        Ok(())
    }
}

/// A release to install, and the address of its manifest, which others in it are relative to.
type Found = (Box<Verified<Manifest>>, Url);

/// What only the boot loader is told, and what it passes on.
fn nonce() -> Result<String, AgentError> {
    Ok(Sha256Digest::of(&random::bytes::<16>()?).to_string()[..16].to_owned())
}

fn signer(manifest: &Verified<Manifest>) -> Option<KeyId> {
    match manifest.signed_by() {
        SignedBy::Key(id) => Some(id.clone()),
        SignedBy::NobodyAsInsisted => None,
    }
}

/// What a refusal means: nothing has changed. What was staged is not what the server wants, though.
fn after_refusal(refusal: &Refusal, before: State) -> Event {
    match (refusal, before) {
        (Refusal::NeedsStep(step), _) => {
            Event::Needs { offered: step.offered.clone(), needs: step.needs.clone() }
        }
        (_, before @ (State::Committed(..) | State::RolledBack { .. })) => {
            Event::Kept(Box::new(before))
        }
        _ => Event::UpToDate,
    }
}
