//! Settings in three stages: as they are written, merged with where each comes from, valid.
//!
//! Flags go before the file, the file before defaults. The file is `key=value` lines; it is never
//! executed. Nothing in it can have signatures be skipped: only a word on the command line can.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use banger_model::Span;
use banger_trust::{Channel, KeySet, Window, Zone};
use banger_update::{KernelArgs, Tries};
use thiserror::Error;

use crate::url::Url;

/// Where the file is, unless something else is said.
pub const DEFAULT_CONF: &str = "/etc/kubesolo/update.conf";
/// Longest file.
pub const MAX_CONF: u64 = 64 * 1024;
/// Longest value.
const MAX_VALUE: usize = 8192;
/// Stands for a value that cannot be read, and is a value of no setting.
const UNREADABLE: &str = "\u{fffd}";
/// Longest time that a new system can have to prove itself: less than its unit allows it.
const MAX_HEALTH_DEADLINE: Duration = Duration::from_secs(10 * 60);
/// Most items of a list.
const MAX_ITEMS: usize = 32;
/// Longest file with keys.
pub const MAX_KEYS_FILE: u64 = 16 * 1024;

/// A setting by its name in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Key {
    /// Where releases come from.
    Server,
    /// Which of them are followed.
    Channel,
    /// When the machine may be changed.
    MaintenanceWindow,
    /// Whose signatures are believed: a path, or the key itself.
    Pubkey,
    /// Where the window's hours are counted.
    Timezone,
    /// Hosts that files may come from besides the server.
    AllowedHosts,
    /// Certificates to trust instead of the system's.
    CaFile,
    /// Where state is kept.
    StateDir,
    /// Where the boot loader's file system is.
    BootDir,
    /// Which boot loader it is.
    BootLoader,
    /// How often a new system is tried.
    Tries,
    /// What kernels are told, for systemd-boot.
    KernelArgs,
    /// Where the running version is said.
    VersionFile,
    /// Where the kernel's command line is.
    CmdlineFile,
    /// What tells this machine from others.
    MachineIdFile,
    /// How long a new system has to prove itself.
    HealthDeadline,
    /// Whether a route to the network is needed: `yes` or `no`.
    HealthNetwork,
    /// A directory that has to be writable, and not full.
    HealthDisk,
    /// Units of systemd that have to run.
    HealthUnits,
    /// Addresses that have to answer.
    HealthHttp,
    /// A program that has to succeed.
    HealthCommand,
}

impl Key {
    /// All of them.
    pub const ALL: [Self; 21] = [
        Self::Server,
        Self::Channel,
        Self::MaintenanceWindow,
        Self::Pubkey,
        Self::Timezone,
        Self::AllowedHosts,
        Self::CaFile,
        Self::StateDir,
        Self::BootDir,
        Self::BootLoader,
        Self::Tries,
        Self::KernelArgs,
        Self::VersionFile,
        Self::CmdlineFile,
        Self::MachineIdFile,
        Self::HealthDeadline,
        Self::HealthNetwork,
        Self::HealthDisk,
        Self::HealthUnits,
        Self::HealthHttp,
        Self::HealthCommand,
    ];

    /// Its name.
    pub fn as_str(self) -> &'static str {
        self.row().0
    }

    fn default_value(self) -> &'static str {
        self.row().1
    }

    /// Name and default.
    fn row(self) -> (&'static str, &'static str) {
        match self {
            Self::Server => ("server", ""),
            Self::Channel => ("channel", "stable"),
            Self::MaintenanceWindow => ("maintenance_window", ""),
            Self::Pubkey => ("pubkey", ""),
            Self::Timezone => ("timezone", "UTC"),
            Self::AllowedHosts => ("allowed_hosts", ""),
            Self::CaFile => ("ca_file", ""),
            Self::StateDir => ("state_dir", "/var/lib/kubesolo/update"),
            Self::BootDir => ("boot_dir", "/boot"),
            Self::BootLoader => ("boot_loader", "grub"),
            Self::Tries => ("tries", "3"),
            Self::KernelArgs => ("kernel_args", ""),
            Self::VersionFile => ("version_file", "/etc/os-release"),
            Self::CmdlineFile => ("cmdline_file", "/proc/cmdline"),
            Self::MachineIdFile => ("machine_id_file", "/etc/machine-id"),
            Self::HealthDeadline => ("health_deadline", "5m"),
            Self::HealthNetwork => ("health_network", "no"),
            Self::HealthDisk => ("health_disk", ""),
            Self::HealthUnits => ("health_units", ""),
            Self::HealthHttp => ("health_http", ""),
            Self::HealthCommand => ("health_command", ""),
        }
    }

    /// The setting of this name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|key| key.as_str() == name)
    }
}

/// Where a value comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Nobody said anything.
    Default,
    /// The file.
    File,
    /// The command line.
    Flag,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Default => "default",
            Self::File => "file",
            Self::Flag => "flag",
        })
    }
}

/// The values of a file, and what is strange about it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConfFile {
    /// The values; of those that come twice, the last.
    pub values: BTreeMap<Key, String>,
    /// For people.
    pub warnings: Vec<String>,
}

/// Reads the text of a file. Pure; lines that make no sense are warned of and otherwise ignored.
pub fn parse_conf(text: &str) -> ConfFile {
    let mut file = ConfFile::default();
    for (number, line) in text.trim_start_matches('\u{feff}').lines().enumerate() {
        let number = number + 1;
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let Some((name, value)) = line.split_once('=') else {
            file.warnings.push(format!("line {number} is neither key=value nor a comment"));
            continue;
        };
        let (name, value) = (name.trim(), plain(value));
        let Some(key) = Key::parse(name) else {
            let name: String = name.chars().filter(|c| !c.is_control()).take(40).collect();
            file.warnings.push(format!("line {number}: there is no setting {name:?}"));
            continue;
        };
        if value.len() > MAX_VALUE || value.chars().any(char::is_control) {
            file.warnings.push(format!("line {number}: {name} has a value that makes no sense"));
            // Not as if nothing was said: a window that cannot be read is not always open.
            file.values.insert(key, UNREADABLE.to_owned());
            continue;
        }
        if file.values.insert(key, value.to_owned()).is_some() {
            file.warnings.push(format!("line {number}: {name} is set again; the last one counts"));
        }
    }
    file
}

/// A value without what is around it: spaces, a comment behind it, one pair of quotes.
fn plain(value: &str) -> &str {
    let value = value.trim();
    for quote in ['"', '\''] {
        let inner = value.strip_prefix(quote).and_then(|rest| rest.strip_suffix(quote));
        if let Some(inner) = inner.filter(|inner| !inner.contains(quote)) {
            return inner;
        }
    }
    value.split(" #").next().unwrap_or_default().trim_end()
}

/// Why settings are no good.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum SettingsError {
    /// A value.
    #[error("{} ({origin}): {problem}", key.as_str())]
    Value {
        /// Of this setting.
        key: Key,
        /// From there.
        origin: Origin,
        /// What is wrong.
        problem: String,
    },
}

/// Every value with where it comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Merged(BTreeMap<Key, (String, Origin)>);

impl Merged {
    /// Flags over the file over defaults.
    pub fn new(flags: &BTreeMap<Key, String>, file: &ConfFile) -> Self {
        let value = |key: Key| {
            if let Some(value) = flags.get(&key) {
                (value.clone(), Origin::Flag)
            } else if let Some(value) = file.values.get(&key) {
                (value.clone(), Origin::File)
            } else {
                (key.default_value().to_owned(), Origin::Default)
            }
        };
        Self(Key::ALL.into_iter().map(|key| (key, value(key))).collect())
    }

    /// Each with its value and origin.
    pub fn iter(&self) -> impl Iterator<Item = (Key, &str, Origin)> {
        self.0.iter().map(|(key, (value, origin))| (*key, value.as_str(), *origin))
    }

    fn get(&self, key: Key) -> (&str, Origin) {
        self.0.get(&key).map_or(("", Origin::Default), |(value, origin)| (value, *origin))
    }

    fn read<T>(
        &self,
        key: Key,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Result<T, SettingsError> {
        let (value, origin) = self.get(key);
        let readable =
            if value == UNREADABLE { Err("it cannot be read".into()) } else { Ok(value) };
        readable.and_then(parse).map_err(|problem| SettingsError::Value { key, origin, problem })
    }

    /// As little of it as going back to the old system takes. The rest is as nobody said anything.
    #[must_use]
    pub fn least(&self) -> Self {
        let needed = [Key::BootDir, Key::BootLoader, Key::CmdlineFile];
        let kept = |key| Some((key, self.get(key).0.to_owned())).filter(|_| needed.contains(&key));
        let values = Key::ALL.into_iter().filter_map(kept).collect();
        Self::new(&BTreeMap::new(), &ConfFile { values, warnings: vec![] })
    }

    /// The path of the file with the keys, if that is how they are given. A key in base64 may begin
    /// with a slash, too.
    pub fn pubkey_path(&self) -> Option<PathBuf> {
        let (value, _) = self.get(Key::Pubkey);
        let is_path = value.starts_with('/') && KeySet::parse(value.as_bytes()).is_err();
        is_path.then(|| PathBuf::from(value))
    }

    /// Checks everything. `keys_file` is what lies at [`Self::pubkey_path`].
    ///
    /// # Errors
    /// The first value that makes no sense. A key that cannot be read is an error, never none.
    pub fn validate(&self, keys_file: Option<&[u8]>) -> Result<Settings, SettingsError> {
        let list = |text: &str| {
            let items: Vec<String> =
                text.split(',').map(|s| s.trim().to_owned()).filter(|s| !s.is_empty()).collect();
            if items.len() > MAX_ITEMS { Err(format!("more than {MAX_ITEMS}")) } else { Ok(items) }
        };
        let path = |key| self.read(key, absolute);
        let optional = |key| self.read(key, |text| some(text).map(absolute).transpose());
        Ok(Settings {
            server: self.read(Key::Server, |text| some(text).map(url).transpose())?,
            channel: self.read(Key::Channel, |text| {
                Channel::parse(text).ok_or_else(|| format!("{text:?} is no plain word"))
            })?,
            window: self.read(Key::MaintenanceWindow, |t| t.parse::<Window>().map_err(said))?,
            zone: self.read(Key::Timezone, |text| text.parse::<Zone>().map_err(said))?,
            keys: self.read(Key::Pubkey, |text| keys(text, keys_file))?,
            allowed_hosts: self.read(Key::AllowedHosts, list)?,
            ca_file: optional(Key::CaFile)?,
            state_dir: path(Key::StateDir)?,
            boot_dir: path(Key::BootDir)?,
            loader: self.read(Key::BootLoader, |text| match text {
                "grub" => Ok(Loader::Grub),
                "systemd-boot" => Ok(Loader::SystemdBoot),
                _ => Err("there are grub and systemd-boot".to_owned()),
            })?,
            tries: self.read(Key::Tries, |text| {
                let tries = text.parse().ok().and_then(Tries::new);
                tries.ok_or_else(|| "a number from 1 to 9".to_owned())
            })?,
            kernel_args: self.read(Key::KernelArgs, |t| KernelArgs::parse(t).map_err(said))?,
            version_file: path(Key::VersionFile)?,
            cmdline_file: path(Key::CmdlineFile)?,
            machine_id_file: path(Key::MachineIdFile)?,
            health: Health {
                deadline: self.read(Key::HealthDeadline, |text| {
                    let deadline = text.parse::<Span>().map_err(said)?.as_duration();
                    let most = Some(deadline).filter(|deadline| *deadline <= MAX_HEALTH_DEADLINE);
                    most.ok_or_else(|| "at most 10m".to_owned())
                })?,
                network: self.read(Key::HealthNetwork, |text| match text {
                    "yes" => Ok(Network::Needed),
                    "no" => Ok(Network::NotNeeded),
                    _ => Err("yes or no".to_owned()),
                })?,
                disk: optional(Key::HealthDisk)?,
                units: self.read(Key::HealthUnits, list)?,
                http: self
                    .read(Key::HealthHttp, |text| list(text)?.iter().map(|t| url(t)).collect())?,
                command: optional(Key::HealthCommand)?,
                ca_file: optional(Key::CaFile)?,
            },
        })
    }
}

/// Which boot loader a machine has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loader {
    /// GRUB with an environment block.
    Grub,
    /// systemd-boot with counted entries.
    SystemdBoot,
}

/// Whether a healthy machine has a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Network {
    /// It has a default route.
    Needed,
    /// It may do without.
    NotNeeded,
}

/// What a healthy system is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    /// How long it may take to become so.
    pub deadline: Duration,
    /// Whether there has to be a network.
    pub network: Network,
    /// A directory that can be written to.
    pub disk: Option<PathBuf>,
    /// Units that are active.
    pub units: Vec<String>,
    /// Addresses that answer with 2xx.
    pub http: Vec<Url>,
    /// A program that succeeds.
    pub command: Option<PathBuf>,
    /// Certificates to trust when addresses are asked.
    pub ca_file: Option<PathBuf>,
}

/// Valid settings.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where releases come from.
    pub server: Option<Url>,
    /// Which are followed.
    pub channel: Channel,
    /// When the machine may be changed.
    pub window: Window,
    /// Where its hours are counted.
    pub zone: Zone,
    /// Whose signatures are believed.
    pub keys: Option<KeySet>,
    /// Other hosts that files may come from.
    pub allowed_hosts: Vec<String>,
    /// Certificates to trust.
    pub ca_file: Option<PathBuf>,
    /// Where state is kept.
    pub state_dir: PathBuf,
    /// Where the boot loader's file system is.
    pub boot_dir: PathBuf,
    /// Which loader.
    pub loader: Loader,
    /// How often a new system is tried.
    pub tries: Tries,
    /// What kernels are told.
    pub kernel_args: KernelArgs,
    /// Where the running version is said.
    pub version_file: PathBuf,
    /// Where the kernel's command line is.
    pub cmdline_file: PathBuf,
    /// What tells this machine from others.
    pub machine_id_file: PathBuf,
    /// What a healthy system is.
    pub health: Health,
}

fn some(text: &str) -> Option<&str> {
    Some(text).filter(|text| !text.is_empty())
}

fn said(error: impl fmt::Display) -> String {
    error.to_string()
}

fn url(text: &str) -> Result<Url, String> {
    Url::parse(text).map_err(said)
}

fn absolute(text: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(text);
    if path.is_absolute() { Ok(path) } else { Err(format!("{text:?} is no absolute path")) }
}

fn keys(text: &str, file: Option<&[u8]>) -> Result<Option<KeySet>, String> {
    let input = match (text, file) {
        ("", _) => return Ok(None),
        (_, Some(file)) => file,
        (inline, None) => inline.as_bytes(),
    };
    let read = KeySet::parse(input).map(Some);
    read.map_err(|error| match file {
        None if text.starts_with('/') => format!("the key {text} cannot be read"),
        _ => said(error),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn merged(flags: &[(Key, &str)], conf: &str) -> Merged {
        let flags = flags.iter().map(|(key, value)| (*key, (*value).to_owned())).collect();
        Merged::new(&flags, &parse_conf(conf))
    }

    #[test]
    fn files_are_read_as_people_write_them() {
        let text = "\u{feff}# a comment\r\n server = https://a.example.com/os \r\n\
                    channel=\"beta\"\nmaintenance_window='22:00-04:00' \n\
                    pubkey=abc= # the new one\nchannel=stable\nnonsense\ncolour=red\n\
                    state_dir=/a\u{7}\n=x\n";
        let file = parse_conf(text);
        let get = |key| file.values.get(&key).map(String::as_str);
        assert_eq!(get(Key::Server), Some("https://a.example.com/os"));
        assert_eq!(get(Key::Channel), Some("stable"), "the last one counts");
        assert_eq!(get(Key::MaintenanceWindow), Some("22:00-04:00"));
        assert_eq!(get(Key::Pubkey), Some("abc="));
        assert_eq!(get(Key::StateDir), Some(UNREADABLE));
        assert_eq!(file.warnings.len(), 5, "{:?}", file.warnings);
        assert_eq!(parse_conf(""), ConfFile::default());
    }

    #[test]
    fn flags_go_before_the_file_and_the_file_before_defaults() {
        let merged = merged(&[(Key::Channel, "beta")], "channel=edge\ntries=5\n");
        let origin = |key: Key| merged.iter().find(|(k, _, _)| *k == key).map(|(_, v, o)| (v, o));
        assert_eq!(origin(Key::Channel), Some(("beta", Origin::Flag)));
        assert_eq!(origin(Key::Tries), Some(("5", Origin::File)));
        assert_eq!(origin(Key::BootDir), Some(("/boot", Origin::Default)));
        let settings = merged.validate(None).unwrap();
        assert_eq!((settings.channel.as_str(), settings.tries.get()), ("beta", 5));
        assert_eq!(settings.keys, None);
    }

    #[test]
    fn values_that_make_no_sense_are_refused_with_where_they_come_from() {
        for (conf, key) in [
            ("server=a.example.com", Key::Server),
            ("server=http://u@a.example.com/", Key::Server),
            ("channel=a b", Key::Channel),
            ("maintenance_window=22-23", Key::MaintenanceWindow),
            ("timezone=CET", Key::Timezone),
            ("tries=0", Key::Tries),
            ("boot_loader=lilo", Key::BootLoader),
            ("state_dir=here", Key::StateDir),
            ("health_deadline=5", Key::HealthDeadline),
            ("health_http=x", Key::HealthHttp),
            ("kernel_args=a;b", Key::KernelArgs),
            ("pubkey=AAAA", Key::Pubkey),
            ("health_deadline=11m", Key::HealthDeadline),
            // Not always open, because nobody could read it.
            ("maintenance_window=02:00\t-04:00", Key::MaintenanceWindow),
            ("allowed_hosts=a\u{7}", Key::AllowedHosts),
        ] {
            let SettingsError::Value { key: found, origin, .. } =
                merged(&[], conf).validate(None).unwrap_err();
            assert_eq!((found, origin), (key, Origin::File), "{conf}");
        }
    }

    #[test]
    fn f11_settings_that_make_no_sense_still_say_where_the_boot_loader_is() {
        let bad =
            merged(&[], "boot_dir=/efi\nboot_loader=systemd-boot\ntries=x\npubkey=/nowhere\n");
        assert!(bad.validate(None).is_err());
        let least = bad.least().validate(None).unwrap();
        assert_eq!((least.boot_dir, least.loader), ("/efi".into(), Loader::SystemdBoot));
    }

    #[test]
    fn t06_a_key_that_cannot_be_read_is_an_error_and_never_no_key() {
        let named = merged(&[], "pubkey=/etc/key.pem");
        assert_eq!(named.pubkey_path(), Some("/etc/key.pem".into()));
        assert!(named.validate(None).is_err());
        assert!(named.validate(Some(b"")).is_err());
        let key = banger_trust::SecretKey::from_seed([1; 32]).public();
        assert!(named.validate(Some(key.to_pem().as_bytes())).unwrap().keys.is_some());
        let inline = format!("pubkey={}", key.to_base64());
        assert!(merged(&[], &inline).validate(None).unwrap().keys.is_some());
        // One key in 64 looks like a path at first.
        let like_a_path = banger_trust::SecretKey::from_seed([9; 32]).public().to_base64();
        assert!(like_a_path.starts_with('/'));
        let inline = merged(&[], &format!("pubkey={like_a_path}"));
        assert_eq!(inline.pubkey_path(), None);
        assert!(inline.validate(None).unwrap().keys.is_some());
    }

    #[test]
    fn t06_no_line_of_a_file_skips_signatures() {
        let file = parse_conf("insecure-skip-verify=true\ninsecure_skip_verify=1\nforce=yes\n");
        assert!(file.values.is_empty());
        assert_eq!(file.warnings.len(), 3);
    }

    proptest::proptest! {
        #[test]
        fn no_text_panics(text in "[ -~\n\r\t=#\"'é]{0,200}") {
            let file = parse_conf(&text);
            let _ = Merged::new(&BTreeMap::new(), &file).validate(None);
        }
    }
}
