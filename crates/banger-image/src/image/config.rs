//! How a sandbox runs what is in an image.

use std::collections::BTreeMap;

use crate::oci::HealthCheck;
use banger_model::{DiskSize, InitMode};
use serde::{Deserialize, Serialize};

/// An image's own wishes, which the user's go before. Source: the OCI image specification,
/// `config.md`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageConfig {
    /// Environment of every process. `HOME` is not among it: it depends on the user.
    pub env: BTreeMap<String, String>,
    /// Who runs processes: a name or a number from the image's own `/etc/passwd`, with a group
    /// behind a colon or without.
    pub user: String,
    /// Where processes begin.
    pub workdir: String,
    /// An interactive shell of the image, with its arguments; empty when it has none.
    pub shell: Vec<String>,
    /// Who is the first process.
    pub init: InitMode,
    /// What goes before every command.
    #[serde(default)]
    pub entrypoint: Vec<String>,
    /// The command where a user gives none.
    #[serde(default)]
    pub cmd: Vec<String>,
    /// The signal that asks its command to end, as a name or number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop_signal: Option<String>,
    /// How to find out whether it does what it should.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health_check: Option<HealthCheck>,
    /// Ports that it serves, such as `80/tcp`.
    #[serde(default)]
    pub ports: Vec<String>,
    /// Directories whose content is meant to outlive a sandbox.
    #[serde(default)]
    pub volumes: Vec<String>,
    /// The writable disk of its sandboxes, if its maker said how large.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk: Option<DiskSize>,
    /// What its maker wrote on it.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
}

impl ImageConfig {
    /// What nearly every system has, for one that nobody has looked into.
    pub(super) fn unknown() -> Self {
        let env = Self::debian().env.into_iter().filter(|(name, _)| name == "PATH").collect();
        Self { env, shell: vec!["/bin/sh".to_owned(), "-l".to_owned()], ..Self::default() }
    }

    /// What a plain Debian has.
    pub(super) fn debian() -> Self {
        let own = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
        let env = [
            ("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
            // Part of libc itself: UTF-8 without the package `locales`.
            ("LANG", "C.UTF-8"),
        ];
        Self {
            env: env.map(own).into(),
            user: "root".to_owned(),
            workdir: "/root".to_owned(),
            shell: vec!["/bin/bash".to_owned(), "-l".to_owned()],
            ..Self::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_config_comes_back_as_it_was() {
        let config = ImageConfig::debian();
        let json = serde_json::to_string(&config).unwrap();
        assert_eq!(serde_json::from_str::<ImageConfig>(&json).unwrap(), config);
        assert!(json.contains(r#""init":"agent""#), "{json}");
    }
}
