//! Asking the server: manifests and their signatures, judged, and stepping stones followed.

use banger_trust::gates::{Machine, Refusal, Role, Step, Verdict, judge, preview};
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
    /// This, whose manifest was there.
    Install(Box<Verified<Manifest>>, Url),
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
        let id = self.machine_id(record);
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
        let url = server.child(LATEST)?;
        let manifest = self.manifest(&client, &rules, &url, trust).await?;
        if run == Run::Real {
            self.take_place(session)?;
        }
        let verdict = self.judge(session, &manifest, Role::Latest)?;
        if run == Run::Real && is_authentic(&verdict) {
            self.learn(session, &manifest)?;
        }
        let step = match verdict {
            Ok(Verdict::UpToDate) => return Ok(Asked::UpToDate(manifest.get().version.clone())),
            Ok(Verdict::Install) => return Ok(Asked::Install(Box::new(manifest), url)),
            Err(Refusal::NeedsStep(step)) => step,
            Err(refusal) => return Ok(Asked::Refused(refusal)),
        };
        let stone = self.stone(session, trust, &url, &step).await?;
        Ok(stone.unwrap_or(Asked::Refused(Refusal::NeedsStep(step))))
    }

    /// The furthest stepping stone that can be taken from here; none if none can.
    async fn stone(
        &self,
        session: &Session<'_>,
        trust: &Trust,
        from: &Url,
        step: &Step,
    ) -> Result<Option<Asked>, AgentError> {
        let (client, rules, _) = self.server()?;
        let beside = |url: &Url, step: &Step| -> Result<Vec<(Url, Via)>, AgentError> {
            step.via.iter().map(|via| Ok((url.join(&via.url)?, via.clone()))).collect()
        };
        // The last is tried first: those of a stone lie before those of what comes after it.
        let mut stones = beside(from, step)?;
        for _ in 0..MAX_STEPS {
            let Some((url, via)) = stones.pop() else { return Ok(None) };
            let manifest = match self.manifest(&client, &rules, &url, trust).await {
                // It was withdrawn.
                Err(AgentError::NoManifest(_)) => continue,
                other => other?,
            };
            if manifest.get().version != via.version {
                return Err(AgentError::WrongStep { url: url.to_string(), expected: via.version });
            }
            match self.judge(session, &manifest, Role::SteppingStone)? {
                Ok(Verdict::Install) => return Ok(Some(Asked::Install(Box::new(manifest), url))),
                Ok(Verdict::UpToDate) => {}
                Err(Refusal::NeedsStep(step)) => stones.extend(beside(&url, &step)?),
                Err(refusal) => return Ok(Some(Asked::Refused(refusal))),
            }
        }
        Ok(None)
    }

    pub(super) fn judge(
        &self,
        session: &Session<'_>,
        manifest: &Verified<Manifest>,
        role: Role,
    ) -> Result<Result<Verdict, Refusal>, AgentError> {
        let record = session.engine.record();
        let id = self.machine_id(record);
        let machine = self.machine(session, record, &id, self.settings.keys.as_ref())?;
        Ok(judge(manifest, &machine, role))
    }

    /// A machine that has no id has a place of its own in a rollout nevertheless.
    fn take_place(&self, session: &mut Session<'_>) -> Result<(), AgentError> {
        let known = machine::machine_id(&self.settings.machine_id_file).is_some();
        if known || session.engine.record().place.is_some() {
            return Ok(());
        }
        let place = Sha256Digest::of(&banger_host::random::bytes::<32>()?);
        Ok(session.engine.remember(|record| record.place = Some(place))?)
    }

    /// What tells this machine from others.
    fn machine_id(&self, record: &banger_update::Record) -> Sha256Digest {
        let id = machine::machine_id(&self.settings.machine_id_file).or(record.place);
        id.unwrap_or_else(|| Sha256Digest::of(b""))
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
        let said = machine::signed_after(&manifest.get().release_date, freshness);
        session.engine.remember(|record| {
            let mut serials = std::mem::take(&mut record.serials);
            if let Some(keys) = &keys {
                serials = serials.of_only(keys);
            }
            record.serials = serials.raised(manifest.signed_by(), freshness);
            record.last_good = record.last_good.max(said);
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
            match opened(client, rules, url, trust, &bytes).await {
                Err(AgentError::Untrusted {
                    source: OpenError::Unverified(Unverified::BadSignature),
                    ..
                }) if races < MAX_RACES => races += 1,
                other => return other,
            }
        }
    }
}

/// A manifest by its bytes and one of the signatures that may be its own.
async fn opened(
    client: &Client,
    rules: &Rules,
    url: &Url,
    trust: &Trust,
    bytes: &[u8],
) -> Result<Verified<Manifest>, AgentError> {
    if matches!(trust, Trust::InsistedWithoutKeys) {
        return trust.open(bytes, None).map_err(|error| untrusted(url, error));
    }
    let hint = Manifest::signature_url_hint(bytes);
    let mut refused = untrusted(url, Unverified::NotSigned.into());
    for place in places(rules, url, hint.as_deref()) {
        match signature_at(client, rules, &place).await {
            Ok(None) => {}
            Ok(Some(signature)) => match trust.open(bytes, Some(&signature)) {
                Ok(manifest) => return Ok(manifest),
                Err(error) => refused = untrusted(url, error),
            },
            Err(error @ AgentError::Signature { .. }) => refused = error,
            Err(error) => return Err(error),
        }
    }
    Err(refused)
}

/// Whether a manifest is one to remember the age of: a refusal for its age, or for what this
/// machine is, raises no floor.
fn is_authentic(verdict: &Result<Verdict, Refusal>) -> bool {
    matches!(verdict, Ok(_) | Err(Refusal::NeedsStep(_) | Refusal::NotYet { .. }))
}

fn untrusted(url: &Url, source: OpenError) -> AgentError {
    AgentError::Untrusted { url: url.to_string(), source }
}

/// Where the signature of a file may be: where the hint says, and where it is by convention.
fn places(rules: &Rules, of: &Url, hint: Option<&str>) -> impl Iterator<Item = Url> {
    let hinted = hint.and_then(|hint| of.join(hint).ok()).filter(|url| rules.admit(url).is_ok());
    let usual =
        Url::parse(&format!("{}.sig", of.to_string().split('?').next().unwrap_or_default())).ok();
    let usual = usual.filter(|usual| hinted.as_ref() != Some(usual));
    hinted.into_iter().chain(usual)
}

async fn signature_at(
    client: &Client,
    rules: &Rules,
    url: &Url,
) -> Result<Option<Signature>, AgentError> {
    let bytes = fetch::document(client, rules, url, Signature::MAX_LEN).await?;
    let Some(bytes) = bytes.filter(|bytes| !bytes.is_empty()) else { return Ok(None) };
    let bad = |source| AgentError::Signature { url: url.to_string(), source };
    Signature::parse(&bytes).map(Some).map_err(bad)
}

/// The signature beside a file.
pub(super) async fn signature(
    client: &Client,
    rules: &Rules,
    of: &Url,
    hint: Option<&str>,
) -> Result<Option<Signature>, AgentError> {
    for url in places(rules, of, hint) {
        if let Some(signature) = signature_at(client, rules, &url).await? {
            return Ok(Some(signature));
        }
    }
    Ok(None)
}
