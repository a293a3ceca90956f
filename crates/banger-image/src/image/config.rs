//! How a sandbox runs what is in an image.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Who is the first process once the root is in place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum InitMode {
    /// Our agent stays the first process: for images without an init of their own.
    #[default]
    Agent,
    /// The image's own `/sbin/init`, with our agent as one of its services.
    Systemd,
}

/// An image's own wishes, which the user's go before.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageConfig {
    /// Environment of every process. `HOME` is not among it: it depends on the user.
    pub env: BTreeMap<String, String>,
    /// Who runs processes: a name or a number from the image's own `/etc/passwd`.
    pub user: String,
    /// Where processes begin.
    pub workdir: String,
    /// What runs when no command is given, with its arguments.
    pub shell: Vec<String>,
    /// Who is the first process.
    pub init: InitMode,
}

impl ImageConfig {
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
            init: InitMode::Agent,
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
