//! Each gate alone, and which of two is the first.

use super::*;
use crate::SignedDocument as _;
use crate::freshness::Freshness;
use crate::manifest::Manifest;
use crate::rollout::Rollout;
use crate::verified::SignedBy;

const NOW: Timestamp = Timestamp(1_800_000_000_000);

fn version(text: &str) -> Version {
    text.parse().unwrap()
}

fn release(version: &str) -> Manifest {
    let digest = |digit: &str| digit.repeat(64);
    let text = format!(
        r#"{{"version": "{version}", "vmlinuz_url": "k", "vmlinuz_sha256": "{}",
            "initramfs_url": "i", "initramfs_sha256": "{}"}}"#,
        digest("a"),
        digest("b")
    );
    Manifest::parse(text.as_bytes()).unwrap()
}

/// A machine that runs 1.5.0, follows stable and is an amd64.
struct Setting {
    running: Version,
    committed: Option<Version>,
    channel: Channel,
    failed: Vec<Sha256Digest>,
    serials: SerialFloor,
    keys: KeySet,
}

impl Setting {
    fn new() -> Self {
        let key = crate::SecretKey::from_seed([1; 32]).public();
        Self {
            running: version("1.5.0"),
            committed: None,
            channel: Channel::parse("stable").unwrap(),
            failed: Vec::new(),
            serials: SerialFloor::default(),
            keys: KeySet::new([key]).unwrap(),
        }
    }

    fn judge_as(&self, release: &Manifest, role: Role) -> Result<Verdict, Refusal> {
        let machine = Machine {
            running: &self.running,
            committed: self.committed.as_ref(),
            channel: &self.channel,
            architecture: "amd64",
            machine_id: b"machine",
            failed: &self.failed,
            serials: &self.serials,
            keys: Some(&self.keys),
            now: NOW,
        };
        judge_plain(release, &machine, role)
    }

    fn judge(&self, release: &Manifest) -> Result<Verdict, Refusal> {
        self.judge_as(release, Role::Latest)
    }
}

#[test]
fn a_newer_release_without_conditions_is_installed() {
    let setting = Setting::new();
    assert_eq!(setting.judge(&release("v1.5.1")), Ok(Verdict::Install));
    assert_eq!(setting.judge(&release("v1.5.0")), Ok(Verdict::UpToDate));
    assert_eq!(setting.judge(&release("1.10.0")), Ok(Verdict::Install));
}

#[test]
fn t09_nothing_older_than_what_ran_here_is_installed() {
    let mut setting = Setting::new();
    for older in ["1.4.9", "1.5.0-rc.1"] {
        assert!(matches!(setting.judge(&release(older)), Err(Refusal::Rollback { .. })), "{older}");
    }
    setting.committed = Some(version("2.0.0"));
    let refusal = setting.judge(&release("1.9.0")).unwrap_err();
    assert!(matches!(refusal, Refusal::Rollback { floor, .. } if floor == version("2.0.0")));
    assert_eq!(setting.judge(&release("2.0.0")), Ok(Verdict::Install));
    // A floor that was wiped never lies below what runs.
    setting.committed = Some(version("0.1.0"));
    assert!(setting.judge(&release("1.4.0")).is_err());
}

#[test]
fn t08_t09_an_expired_or_replayed_manifest_is_refused_first() {
    let mut setting = Setting::new();
    let mut stale = release("1.4.0");
    stale.freshness = Freshness { serial: None, expires: Some(NOW) };
    let refusal = setting.judge(&stale).unwrap_err();
    assert!(matches!(refusal, Refusal::Stale(Stale::Expired { .. })), "{refusal}");
    let seen = Freshness { serial: Some(9), expires: None };
    let by = SignedBy::Key(setting.keys.iter().next().unwrap().id());
    setting.serials = std::mem::take(&mut setting.serials).raised(&by, seen);
    let mut replayed = release("1.6.0");
    replayed.freshness = Freshness { serial: Some(8), expires: None };
    assert!(matches!(setting.judge(&replayed), Err(Refusal::Stale(Stale::Replayed { .. }))));
    let stone = setting.judge_as(&replayed, Role::SteppingStone);
    assert_eq!(stone, Ok(Verdict::Install), "the newer one that names it vouches for its age");
}

#[test]
fn t14_channel_and_architecture() {
    let setting = Setting::new();
    let mut other = release("1.6.0");
    other.channel = Channel::parse("beta");
    other.architecture = Some("arm64".into());
    assert!(matches!(setting.judge(&other), Err(Refusal::Channel { .. })));
    other.channel = Channel::parse("stable");
    assert!(matches!(setting.judge(&other), Err(Refusal::Architecture { .. })));
    other.architecture = Some("amd64".into());
    assert_eq!(setting.judge(&other), Ok(Verdict::Install));
    // T11: the version that runs, for others, is not authentic here: it would raise the floors.
    let mut same = release("1.5.0");
    same.channel = Channel::parse("beta");
    assert!(matches!(setting.judge(&same), Err(Refusal::Channel { .. })));
    same.channel = None;
    same.architecture = Some("arm64".into());
    assert!(matches!(setting.judge(&same), Err(Refusal::Architecture { .. })));
    same.architecture = None;
    assert_eq!(setting.judge(&same), Ok(Verdict::UpToDate));
}

#[test]
fn a_release_that_needs_a_step_is_blocked_and_says_which() {
    let setting = Setting::new();
    let mut far = release("3.0.0");
    far.min_compatible_version = Some(version("2.0.0"));
    let blocked = |release: &Manifest| match setting.judge(release) {
        Err(Refusal::NeedsStep(step)) => {
            let via = step.via.iter().map(|via| via.version.to_string());
            (step.needs, via.collect::<Vec<_>>().join(" "))
        }
        other => panic!("{other:?}"),
    };
    assert_eq!(blocked(&far), (version("2.0.0"), String::new()));
    let via = |text: &str| Via { version: version(text), url: text.into() };
    far.via = ["1.4.0", "2.1.0", "1.9.0", "3.0.0", "4.0.0"].map(via).into();
    assert_eq!(blocked(&far), (version("2.0.0"), "1.9.0 2.1.0".to_owned()));
    far.min_compatible_version = Some(version("v1.5.0"));
    assert_eq!(setting.judge(&far), Ok(Verdict::Install));
    far.min_compatible_version = Some(version("1.5.1-rc.1"));
    assert_eq!(blocked(&far).0, version("1.5.1-rc.1"));
    far.min_compatible_version = Some(version("1.5.0-rc.1"));
    assert_eq!(setting.judge(&far), Ok(Verdict::Install));
}

#[test]
fn rollout_comes_before_the_memory_of_failures() {
    let mut setting = Setting::new();
    let mut new = release("1.6.0");
    setting.failed = vec![new.fingerprint()];
    new.rollout = Some(Rollout { start: Timestamp(NOW.0 + 1), hours: 0, percent: 100 });
    assert!(matches!(setting.judge(&new), Err(Refusal::NotYet { .. })));
    new.rollout = Some(Rollout { start: NOW, hours: 0, percent: 100 });
    assert!(matches!(setting.judge(&new), Err(Refusal::FailedBefore { .. })), "f13");
    new.kernel.sha256 = Sha256Digest::of(b"rebuilt");
    assert_eq!(setting.judge(&new), Ok(Verdict::Install), "other files under the same version");
}

#[test]
fn f16_force_opens_the_window_and_no_other_gate() {
    let closed: Window = "03:00-03:00".parse().unwrap();
    let zone = Zone::default();
    assert!(window(closed, zone, NOW, Hours::Keep).is_err());
    assert_eq!(window(closed, zone, NOW, Hours::Ignore), Ok(()));
    // `judge` does not even have an argument for it.
    let _: fn(&Verified<Manifest>, &Machine<'_>, Role) -> Result<Verdict, Refusal> = judge;
}
