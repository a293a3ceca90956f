//! Asking the server: manifests and their signatures, judged, and stepping stones followed.

use banger_trust::gates::{Machine, Refusal, Role, Verdict, judge, preview};
use banger_trust::{
    KeySet, Manifest, OpenError, Sha256Digest, Signature, SignedDocument as _, Trust, Unverified,
    Verified, Version, Via,
};

use super::session::Session;
use super::{Agent, AgentError, Outcome, Run};
use crate::fetch;
use crate::http::Client;
use crate::machine;
use crate::url::{Rules, Url};

/// The manifest of the newest release, below the server's address.
pub(super) const LATEST: &str = "latest.json";
/// Most stepping stones that are looked at in one run.
const MAX_STEPS: usize = 5;
/// How often manifest and signature are fetched again when they do not fit: they are two files,
/// and somebody may be publishing.
const MAX_RACES: usize = 2;

/// What the server's answer means here.
pub(super) enum Asked {
    UpToDate(Version),
    Install(Box<Verified<Manifest>>),
    Refused(Refusal),
}

impl Agent {
    pub(super) fn server(&self) -> Result<(Client, Rules, Url), AgentError> {
        let server = self.settings.server.clone().ok_or(AgentError::NoServer)?;
        let roots = self.settings.ca_file.as_deref();
        let client = Client::new(roots, self.resolver.clone(), self.patience)?;
        let rules = Rules::new(&server, &self.settings.allowed_hosts);
        Ok((client, rules, server))
    }

    pub(super) async fn check_without_key(
        &self,
        session: &Session<'_>,
    ) -> Result<Outcome, AgentError> {
        let (client, rules, server) = self.server()?;
        let url = server.child(LATEST)?;
        let bytes = fetch::document(&client, &rules, &url, Manifest::MAX_LEN).await?;
        let bytes = bytes.ok_or_else(|| AgentError::NoManifest(url.to_string()))?;
        let manifest = Manifest::parse(&bytes).map_err(|error| untrusted(&url, error.into()))?;
        let record = session.engine.record();
        let id = machine::machine_id(&self.settings.machine_id_file);
        let machine = self.machine(session, record, &id, None)?;
        match preview(&manifest, &machine)? {
            Verdict::UpToDate => Ok(Outcome::UpToDate(manifest.version)),
            Verdict::Install => Ok(Outcome::Unverified(manifest.version)),
        }
    }

    pub(super) fn machine<'a>(
        &'a self,
        session: &'a Session<'_>,
        record: &'a banger_update::Record,
        id: &'a Sha256Digest,
        keys: Option<&'a KeySet>,
    ) -> Result<Machine<'a>, AgentError> {
        Ok(Machine {
            running: &session.seen.running,
            committed: record.committed.as_ref(),
            channel: &self.settings.channel,
            architecture: machine::architecture()?,
            machine_id: id.bytes(),
            failed: &record.failed,
            serials: &record.serials,
            keys,
            now: session.now(),
        })
    }

    /// Fetches and judges the newest manifest, and stepping stones where they are needed.
    pub(super) async fn ask(
        &self,
        session: &mut Session<'_>,
        trust: &Trust,
        run: Run,
    ) -> Result<Asked, AgentError> {
        let (client, rules, server) = self.server()?;
        let mut url = server.child(LATEST)?;
        let mut role = Role::Latest;
        let mut wanted: Option<Via> = None;
        for _ in 0..=MAX_STEPS {
            let manifest = self.manifest(&client, &rules, &url, trust).await?;
            if let Some(via) = wanted.take().filter(|via| via.version != manifest.get().version) {
                let url = url.to_string();
                return Err(AgentError::WrongStep { url, expected: via.version });
            }
            let verdict = self.judge(session, &manifest, role)?;
            if role == Role::Latest && run == Run::Real && is_authentic(&verdict) {
                self.learn(session, &manifest)?;
            }
            match verdict {
                Ok(Verdict::UpToDate) => {
                    return Ok(Asked::UpToDate(manifest.get().version.clone()));
                }
                Ok(Verdict::Install) => return Ok(Asked::Install(Box::new(manifest))),
                Err(Refusal::NeedsStep(step)) if step.via.is_some() => {
                    let Some(via) = step.via.clone() else { continue };
                    url = url.join(&via.url)?;
                    (role, wanted) = (Role::SteppingStone, Some(via));
                }
                Err(refusal) => return Ok(Asked::Refused(refusal)),
            }
        }
        Err(AgentError::NoManifest(format!(
            "a release that can be installed, {MAX_STEPS} steps on"
        )))
    }

    pub(super) fn judge(
        &self,
        session: &Session<'_>,
        manifest: &Verified<Manifest>,
        role: Role,
    ) -> Result<Result<Verdict, Refusal>, AgentError> {
        let record = session.engine.record();
        let id = machine::machine_id(&self.settings.machine_id_file);
        let machine = self.machine(session, record, &id, self.settings.keys.as_ref())?;
        Ok(judge(manifest, &machine, role))
    }

    /// Raises the floors by a manifest that passed every check.
    pub(super) fn learn(
        &self,
        session: &mut Session<'_>,
        manifest: &Verified<Manifest>,
    ) -> Result<(), AgentError> {
        let freshness = manifest.get().freshness;
        let now = session.now();
        let keys = self.settings.keys.clone();
        session.engine.remember(|record| {
            let mut serials = std::mem::take(&mut record.serials);
            if let Some(keys) = &keys {
                serials = serials.of_only(keys);
            }
            record.serials = serials.raised(manifest.signed_by(), freshness);
            record.last_good = machine::clock(record.last_good).learned(freshness, now).last_good;
            record.last_check = Some(now);
        })?;
        Ok(())
    }

    /// A manifest, verified over exactly the bytes that came.
    pub(super) async fn manifest(
        &self,
        client: &Client,
        rules: &Rules,
        url: &Url,
        trust: &Trust,
    ) -> Result<Verified<Manifest>, AgentError> {
        let mut races = 0;
        loop {
            let bytes = fetch::document(client, rules, url, Manifest::MAX_LEN).await?;
            let bytes = bytes.ok_or_else(|| AgentError::NoManifest(url.to_string()))?;
            let signature = match trust {
                Trust::InsistedWithoutKeys => None,
                Trust::Keys(_) => {
                    let hint = Manifest::signature_url_hint(&bytes);
                    signature(client, rules, url, hint.as_deref()).await?
                }
            };
            match trust.open(&bytes, signature.as_ref()) {
                Ok(manifest) => return Ok(manifest),
                Err(OpenError::Unverified(Unverified::BadSignature)) if races < MAX_RACES => {
                    races += 1;
                }
                Err(error) => return Err(untrusted(url, error)),
            }
        }
    }
}

/// Whether a manifest is one to remember the age of: a refusal for its age, or for what this
/// machine is, raises no floor.
fn is_authentic(verdict: &Result<Verdict, Refusal>) -> bool {
    matches!(verdict, Ok(_) | Err(Refusal::NeedsStep(_) | Refusal::NotYet { .. }))
}

fn untrusted(url: &Url, source: OpenError) -> AgentError {
    AgentError::Untrusted { url: url.to_string(), source }
}

/// The signature beside a file: where the hint says, or else where it is by convention.
pub(super) async fn signature(
    client: &Client,
    rules: &Rules,
    of: &Url,
    hint: Option<&str>,
) -> Result<Option<Signature>, AgentError> {
    let hinted = hint.and_then(|hint| of.join(hint).ok()).filter(|url| rules.admit(url).is_ok());
    let usual =
        Url::parse(&format!("{}.sig", of.to_string().split('?').next().unwrap_or_default()));
    for url in hinted.into_iter().chain(usual) {
        let bytes = fetch::document(client, rules, &url, Signature::MAX_LEN).await?;
        if let Some(bytes) = bytes.filter(|bytes| !bytes.is_empty()) {
            let read = Signature::parse(&bytes);
            let bad = |source| AgentError::Signature { url: url.to_string(), source };
            return read.map(Some).map_err(bad);
        }
    }
    Ok(None)
}
