//! The config of an image: how it wants to be run, and what its layers unpack to.

use std::collections::BTreeMap;
use std::time::Duration;

use banger_model::Digest;
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};

use super::platform::Spec;
use super::{DocumentError, MAX_CONFIG, Platform, or_default};

/// What an image's config says. Texts are as the image has them: whoever uses one checks it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// `NAME=VALUE`, in the order of the image.
    pub env: Vec<String>,
    /// What is run always, before the arguments.
    pub entrypoint: Vec<String>,
    /// The arguments when none are given; without an entrypoint the command.
    pub cmd: Vec<String>,
    /// Who runs it: `NAME`, `UID`, either with `:GROUP`; empty for root.
    pub user: String,
    /// Where it begins; empty for `/`.
    pub working_dir: String,
    /// Notes of whoever made it.
    pub labels: BTreeMap<String, String>,
    /// The signal that asks it to end, by name or number.
    pub stop_signal: Option<String>,
    /// How to find out whether it does what it should.
    pub health_check: Option<HealthCheck>,
    /// `PORT/PROTOCOL`, sorted.
    pub exposed_ports: Vec<String>,
    /// Paths that are meant to outlive it, sorted.
    pub volumes: Vec<String>,
    /// The digest of each layer's uncompressed tar, the lowest first.
    pub diff_ids: Vec<Digest>,
    platform: Spec,
}

/// Between two checks, and for one of them, where an image does not say: Docker's own.
const HEALTH_TIME: Duration = Duration::from_secs(30);
/// As often a check fails in a row until that counts, where an image does not say.
const HEALTH_RETRIES: u32 = 3;
/// No image has its sandbox checked more often than this, whatever it says...
const MIN_HEALTH_TIME: Duration = Duration::from_secs(1);
/// ...and none less often.
const MAX_HEALTH_TIME: Duration = Duration::from_secs(24 * 60 * 60);

/// How to find out whether a sandbox does what its image is for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthCheck {
    /// The command that tells by its status.
    pub argv: Vec<String>,
    /// Between two checks.
    pub interval: Duration,
    /// How long one may take.
    pub timeout: Duration,
    /// For so long after the start a failure does not count.
    pub start_period: Duration,
    /// As often it fails in a row until that counts.
    pub retries: u32,
}

#[derive(Debug, Deserialize)]
struct RawConfig {
    #[serde(default, deserialize_with = "or_default")]
    architecture: String,
    #[serde(default, deserialize_with = "or_default")]
    os: String,
    #[serde(default)]
    variant: Option<String>,
    #[serde(default, deserialize_with = "or_default")]
    config: RawWishes,
    rootfs: RawRootfs,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct RawWishes {
    #[serde(deserialize_with = "or_default")]
    env: Vec<String>,
    #[serde(deserialize_with = "or_default")]
    entrypoint: Vec<String>,
    #[serde(deserialize_with = "or_default")]
    cmd: Vec<String>,
    #[serde(deserialize_with = "or_default")]
    user: String,
    #[serde(deserialize_with = "or_default")]
    working_dir: String,
    #[serde(deserialize_with = "or_default")]
    labels: BTreeMap<String, String>,
    stop_signal: Option<String>,
    healthcheck: Option<RawHealthCheck>,
    #[serde(deserialize_with = "or_default")]
    exposed_ports: BTreeMap<String, IgnoredAny>,
    #[serde(deserialize_with = "or_default")]
    volumes: BTreeMap<String, IgnoredAny>,
}

/// As Docker writes it; times are nanoseconds, and zero stands for what is usual. Source: the image
/// specification of Docker, version 1.2, `Healthcheck`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct RawHealthCheck {
    #[serde(deserialize_with = "or_default")]
    test: Vec<String>,
    interval: u64,
    timeout: u64,
    start_period: u64,
    retries: u32,
}

impl RawHealthCheck {
    fn checked(self) -> Option<HealthCheck> {
        let (kind, rest) = self.test.split_first()?;
        let argv = match (kind.as_str(), rest) {
            ("CMD", [_, ..]) => rest.to_vec(),
            ("CMD-SHELL", [script]) => {
                ["/bin/sh", "-c", script].into_iter().map(str::to_owned).collect()
            }
            // `NONE`, or what nobody knows.
            _ => return None,
        };
        let time = |ns: u64, usual: Duration| match ns {
            0 => usual,
            ns => Duration::from_nanos(ns).clamp(MIN_HEALTH_TIME, MAX_HEALTH_TIME),
        };
        Some(HealthCheck {
            argv,
            interval: time(self.interval, HEALTH_TIME),
            timeout: time(self.timeout, HEALTH_TIME),
            start_period: Duration::from_nanos(self.start_period).min(MAX_HEALTH_TIME),
            retries: if self.retries == 0 { HEALTH_RETRIES } else { self.retries },
        })
    }
}

#[derive(Debug, Deserialize)]
struct RawRootfs {
    #[serde(default, deserialize_with = "or_default")]
    diff_ids: Vec<Digest>,
}

/// Reads a config.
///
/// # Errors
/// [`DocumentError`] when it is no JSON, too large, or has no digests of layers.
pub fn parse_config(bytes: &[u8]) -> Result<Config, DocumentError> {
    if bytes.len() as u64 > MAX_CONFIG.get() {
        return Err(DocumentError::TooLarge(MAX_CONFIG));
    }
    let raw: RawConfig = serde_json::from_slice(bytes)?;
    let wishes = raw.config;
    Ok(Config {
        env: wishes.env,
        entrypoint: wishes.entrypoint,
        cmd: wishes.cmd,
        user: wishes.user,
        working_dir: wishes.working_dir,
        labels: wishes.labels,
        stop_signal: wishes.stop_signal.filter(|text| !text.is_empty()),
        health_check: wishes.healthcheck.and_then(RawHealthCheck::checked),
        exposed_ports: wishes.exposed_ports.into_keys().collect(),
        volumes: wishes.volumes.into_keys().collect(),
        diff_ids: raw.rootfs.diff_ids,
        platform: Spec { architecture: raw.architecture, os: raw.os, variant: raw.variant },
    })
}

impl Config {
    /// Whether it is for this kind of machine, and has a digest for each of so many layers.
    pub(crate) fn check(&self, platform: &Platform, layers: usize) -> Result<(), DocumentError> {
        if platform.rank(Some(&self.platform)).is_none() {
            return Err(DocumentError::WrongPlatform {
                found: self.platform.to_string(),
                wanted: platform.to_string(),
            });
        }
        if self.diff_ids.len() != layers {
            let diff_ids = self.diff_ids.len();
            return Err(DocumentError::LayersDisagree { layers, diff_ids });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_go_leaves_empty_is_empty() {
        let nulls = r#"{"architecture": "amd64", "os": "linux", "variant": null, "config": {
            "Env": null, "Cmd": null, "Labels": null, "Volumes": null, "ExposedPorts": null,
            "User": "", "StopSignal": ""}, "rootfs": {"type": "layers", "diff_ids": null}}"#;
        let nothing = r#"{"architecture": "amd64", "os": "linux", "rootfs": {}}"#;
        let config = parse_config(nulls.as_bytes()).unwrap();
        assert_eq!(config, parse_config(nothing.as_bytes()).unwrap());
        assert_eq!((config.stop_signal, config.env.len()), (None, 0));
    }

    #[test]
    fn all_of_the_wishes_are_read() {
        let json = r#"{"architecture": "amd64", "os": "linux", "config": {
            "Env": ["B=1", "A=2"], "Entrypoint": ["/e"], "Cmd": ["c", "d"], "User": "u:g",
            "WorkingDir": "/w", "Labels": {"l": "m"}, "StopSignal": "SIGINT",
            "ExposedPorts": {"80/tcp": {}, "53/udp": {}}, "Volumes": {"/v": {}}}, "rootfs": {}}"#;
        let config = parse_config(json.as_bytes()).unwrap();
        assert_eq!(config.env, ["B=1", "A=2"]);
        assert_eq!(
            (config.entrypoint, config.cmd),
            (vec!["/e".into()], vec!["c".into(), "d".into()])
        );
        assert_eq!((config.user.as_str(), config.working_dir.as_str()), ("u:g", "/w"));
        assert_eq!(config.stop_signal.as_deref(), Some("SIGINT"));
        assert_eq!(
            (config.exposed_ports, config.volumes),
            (vec!["53/udp".into(), "80/tcp".into()], vec!["/v".into()])
        );
        assert_eq!(config.labels.get("l").map(String::as_str), Some("m"));
    }

    #[test]
    fn a_config_is_not_read_without_a_bound() {
        let long = vec![b' '; usize::try_from(MAX_CONFIG.get()).unwrap() + 1];
        assert!(matches!(parse_config(&long), Err(DocumentError::TooLarge(_))));
        assert!(matches!(parse_config(b"{}"), Err(DocumentError::Json(_))));
    }

    #[test]
    fn health_checks_are_taken_as_docker_writes_them() {
        let check = |json: &str| {
            let whole = format!(
                r#"{{"architecture": "amd64", "os": "linux", "rootfs": {{"diff_ids": []}},
                    "config": {{"Healthcheck": {json}}}}}"#
            );
            parse_config(whole.as_bytes()).unwrap().health_check
        };
        let shell = check(r#"{"Test": ["CMD-SHELL", "true"], "Interval": 5000000000}"#).unwrap();
        assert_eq!(shell.argv, ["/bin/sh", "-c", "true"]);
        assert_eq!((shell.interval, shell.timeout), (Duration::from_secs(5), HEALTH_TIME));
        let own = check(r#"{"Test": ["CMD", "a", "b"], "Interval": 1, "Retries": 7}"#).unwrap();
        assert_eq!((own.argv.len(), own.interval, own.retries), (2, MIN_HEALTH_TIME, 7));
        for none in
            ["null", "{}", r#"{"Test": ["NONE"]}"#, r#"{"Test": ["CMD"]}"#, r#"{"Test": []}"#]
        {
            assert_eq!(check(none), None, "{none}");
        }
    }
}
