//! Who the user is to a registry: what `docker login` left in `config.json`, or the programs that
//! it names.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use banger_host::HostError;
use banger_host::command::{Tool, find_program};
use banger_host::fs::read_bounded;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use thiserror::Error;

/// Most bytes of `config.json`.
const MAX_CONFIG: u64 = 1024 * 1024;
/// How long a program may take to find credentials: it may have to ask a person.
const HELPER_PATIENCE: Duration = Duration::from_secs(60);
/// What Docker calls its registry in its configuration.
const DOCKER_HUB: &str = "https://index.docker.io/v1/";
/// The user's name where the secret is a token to get tokens with.
const TOKEN_USER: &str = "<token>";

/// Why credentials cannot be had.
#[derive(Debug, Error)]
pub enum CredentialsError {
    /// The file.
    #[error("cannot read Docker's configuration")]
    Read(#[from] HostError),
    /// What is in it.
    #[error("cannot make sense of {path}", path = .0.display())]
    Json(PathBuf, #[source] serde_json::Error),
    /// An entry of it.
    #[error("cannot make sense of the credentials for {host} in {path}: log in again", path = path.display())]
    Entry {
        /// For which registry.
        host: String,
        /// The file.
        path: PathBuf,
    },
    /// A program's name that is none.
    #[error("{0:?} is no name of a program for credentials")]
    HelperName(String),
    /// A program that is not there.
    #[error("docker-credential-{0} is not installed, but Docker's configuration names it")]
    NoHelper(String),
    /// A program that failed.
    #[error("docker-credential-{name} found no credentials for {host}: {said}")]
    Helper {
        /// Its name.
        name: String,
        /// For which registry.
        host: String,
        /// What it said.
        said: String,
        /// How it ended.
        source: Box<HostError>,
    },
    /// A program that ended well and said nothing of use.
    #[error("cannot make sense of what docker-credential-{0} says")]
    HelperSays(String),
}

/// Something that must not be shown.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Secret(pub(super) String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(secret)")
    }
}

/// Who the user is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Credentials {
    /// Nobody in particular.
    Anonymous,
    /// Name and password.
    Basic(String, Secret),
    /// A token that gets other tokens.
    Refresh(Secret),
}

/// Where credentials are.
#[derive(Debug, PartialEq, Eq)]
enum Place<'a> {
    /// Asked of a program, under this name.
    Helper { name: &'a str, server: String },
    /// In the file.
    Entry(&'a Entry),
    /// Nowhere.
    None,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct DockerConfig {
    auths: BTreeMap<String, Entry>,
    creds_store: String,
    cred_helpers: BTreeMap<String, String>,
}

#[derive(Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
struct Entry {
    auth: String,
    username: String,
    password: String,
    identitytoken: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct HelperAnswer {
    username: String,
    secret: String,
}

impl DockerConfig {
    fn place(&self, host: &str) -> Place<'_> {
        let names = names_of(host);
        let helper = self.cred_helpers.iter().find(|(key, _)| names.contains(&bare(key)));
        if let Some((key, name)) = helper.filter(|(_, name)| !name.is_empty()) {
            return Place::Helper { name, server: key.clone() };
        }
        let entry = self.auths.iter().find(|(key, _)| names.contains(&bare(key)));
        if !self.creds_store.is_empty() {
            // Programs find what was stored under the very name that `docker login` used.
            let usual = if host == "docker.io" { DOCKER_HUB.to_owned() } else { host.to_owned() };
            let server = entry.map_or(usual, |(key, _)| key.clone());
            return Place::Helper { name: &self.creds_store, server };
        }
        entry.map_or(Place::None, |(_, entry)| Place::Entry(entry))
    }
}

/// All that a registry is called in configurations.
fn names_of(host: &str) -> Vec<String> {
    let hub = ["docker.io", "index.docker.io", "registry-1.docker.io"];
    if hub.contains(&host) { hub.map(str::to_owned).to_vec() } else { vec![host.to_owned()] }
}

/// The host of a key, which may be an address.
fn bare(key: &str) -> String {
    let key = key.split_once("://").map_or(key, |(_, rest)| rest);
    key.split('/').next().unwrap_or_default().to_ascii_lowercase()
}

impl Entry {
    /// `None` when it makes no sense; anonymous when it says nothing.
    fn credentials(&self) -> Option<Credentials> {
        if !self.identitytoken.is_empty() {
            return Some(Credentials::Refresh(Secret(self.identitytoken.clone())));
        }
        let (user, password) = if self.auth.is_empty() {
            (self.username.clone(), self.password.clone())
        } else {
            let text = String::from_utf8(STANDARD.decode(self.auth.trim()).ok()?).ok()?;
            let (user, password) = text.split_once(':')?;
            (user.to_owned(), password.trim_end_matches('\0').to_owned())
        };
        if user.is_empty() {
            return Some(Credentials::Anonymous);
        }
        Some(Credentials::Basic(user, Secret(password)))
    }
}

/// Finds the credentials for a host. Blocks while a program looks for them.
pub(super) fn find(
    config: Option<&Path>,
    search_path: &OsStr,
    host: &str,
) -> Result<Credentials, CredentialsError> {
    let Some(path) = config else { return Ok(Credentials::Anonymous) };
    let bytes = match read_bounded(path, MAX_CONFIG) {
        Err(error) if error.is_not_found() => return Ok(Credentials::Anonymous),
        other => other?,
    };
    let config: DockerConfig = serde_json::from_slice(&bytes)
        .map_err(|source| CredentialsError::Json(path.to_owned(), source))?;
    match config.place(host) {
        Place::None => Ok(Credentials::Anonymous),
        Place::Helper { name, server } => ask_helper(name, &server, search_path),
        Place::Entry(entry) => entry.credentials().ok_or_else(|| CredentialsError::Entry {
            host: host.to_owned(),
            path: path.to_owned(),
        }),
    }
}

fn ask_helper(name: &str, server: &str, path: &OsStr) -> Result<Credentials, CredentialsError> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if name.is_empty() || !name.chars().all(plain) {
        return Err(CredentialsError::HelperName(name.chars().take(80).collect()));
    }
    let program = find_program(&format!("docker-credential-{name}"), path)
        .ok_or_else(|| CredentialsError::NoHelper(name.to_owned()))?;
    let answer = Tool::new(program)
        .arg("get")
        .env("PATH", path)
        .input(server.as_bytes())
        .answer(HELPER_PATIENCE)?;
    if let Err(source) = answer.ended {
        let said = String::from_utf8_lossy(&answer.stdout).trim().to_owned();
        // This is how such programs say that there is nothing.
        if said.contains("credentials not found") {
            return Ok(Credentials::Anonymous);
        }
        let (name, host) = (name.to_owned(), server.to_owned());
        let said = said.chars().filter(|c| !c.is_control()).take(200).collect();
        return Err(CredentialsError::Helper { name, host, said, source: source.into() });
    }
    let says: HelperAnswer = serde_json::from_slice(&answer.stdout)
        .map_err(|_| CredentialsError::HelperSays(name.to_owned()))?;
    Ok(match says.username.as_str() {
        "" => Credentials::Anonymous,
        TOKEN_USER => Credentials::Refresh(Secret(says.secret)),
        _ => Credentials::Basic(says.username, Secret(says.secret)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(json: &str) -> DockerConfig {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn registries_are_found_under_all_their_names() {
        let auths = config(
            r#"{"auths": {"https://index.docker.io/v1/": {"auth": "dTpwOnc="},
                "localhost:5000": {"username": "a", "password": "b"}, "x.example.com": {}}}"#,
        );
        let found = |host| match auths.place(host) {
            Place::Entry(entry) => entry.credentials(),
            _ => None,
        };
        let basic = |user: &str, password: &str| {
            Some(Credentials::Basic(user.to_owned(), Secret(password.to_owned())))
        };
        assert_eq!(found("docker.io"), basic("u", "p:w"));
        assert_eq!(found("localhost:5000"), basic("a", "b"));
        assert_eq!(found("x.example.com"), Some(Credentials::Anonymous));
        assert_eq!(auths.place("localhost"), Place::None);
        assert!(!format!("{:?}", basic("u", "hidden")).contains("hidden"));
    }

    #[test]
    fn programs_go_before_the_file() {
        let helpers = config(
            r#"{"auths": {"a.example.com": {}, "https://b.example.com/v2/": {}}, "credsStore": "all",
                "credHelpers": {"a.example.com": "one"}}"#,
        );
        let helper = |name, server: &str| Place::Helper { name, server: server.to_owned() };
        assert_eq!(helpers.place("a.example.com"), helper("one", "a.example.com"));
        assert_eq!(helpers.place("b.example.com"), helper("all", "https://b.example.com/v2/"));
        assert_eq!(helpers.place("docker.io"), helper("all", DOCKER_HUB));
    }

    #[test]
    fn a_program_is_never_a_path() {
        for name in ["../x", "a/b", "", "a b"] {
            let error = ask_helper(name, "h", OsStr::new("/bin")).unwrap_err();
            assert!(matches!(error, CredentialsError::HelperName(_)), "{name}");
        }
    }
}
