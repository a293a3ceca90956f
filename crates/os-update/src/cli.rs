//! The command line.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use os_update::settings::{DEFAULT_CONF, Key};

/// Updates the kernel and the initramfs of this appliance from a signed server.
///
/// Exit status: 0 done, or nothing to do; 1 failed; 2 wrong usage or settings; 3 refused by a gate, or not before
/// a restart;
/// 4 blocked, another release has to come first; 5 not signed or damaged; 6 not well; 7 another
/// os-update is at work.
#[derive(Debug, Parser)]
#[command(name = "os-update", version, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) common: Common,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What every command takes.
#[derive(Debug, Args)]
pub(crate) struct Common {
    /// Where releases come from
    #[arg(long, global = true, value_name = "URL")]
    server: Option<String>,
    /// Which releases are followed
    #[arg(long, global = true, value_name = "NAME")]
    channel: Option<String>,
    /// Whose signatures are believed: a file, or the key itself in hex or base64
    #[arg(long, global = true, value_name = "KEY")]
    pubkey: Option<String>,
    /// When the machine may be changed, such as 22:00-04:00; empty is always
    #[arg(long, global = true, value_name = "HH:MM-HH:MM")]
    maintenance_window: Option<String>,
    /// The file with the settings
    #[arg(long, global = true, value_name = "FILE", default_value = DEFAULT_CONF)]
    pub(crate) conf: PathBuf,
    /// Do not wait for the maintenance window. Nothing else is skipped
    #[arg(long, global = true)]
    pub(crate) force: bool,
    /// Tell what would be done, and change nothing
    #[arg(long, global = true)]
    pub(crate) dry_run: bool,
    /// How results are written
    #[arg(short, long, global = true, value_name = "FORMAT", default_value = "text")]
    pub(crate) output: Format,
}

/// How results are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people.
    Text,
    /// For programs.
    Json,
}

impl Common {
    /// The settings among them.
    pub(crate) fn flags(&self) -> BTreeMap<Key, String> {
        let pairs = [
            (Key::Server, &self.server),
            (Key::Channel, &self.channel),
            (Key::Pubkey, &self.pubkey),
            (Key::MaintenanceWindow, &self.maintenance_window),
        ];
        pairs.into_iter().filter_map(|(key, value)| Some((key, value.clone()?))).collect()
    }
}

/// Whether the machine starts again.
#[derive(Debug, Args)]
pub(crate) struct Restart {
    /// Start the machine again at once
    #[arg(long)]
    pub(crate) reboot: bool,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Ask the server what there is
    Check,
    /// Have the newest release in the slot that does not run
    Apply {
        /// Install although there is no key that could verify it. Digests are still checked
        #[arg(long)]
        insecure_skip_verify: bool,
    },
    /// Have the boot loader try what was applied
    Activate(Restart),
    /// Try the system that ran before at the next boot, and stay with it if it proves itself
    Rollback {
        /// Try it even if it was given up here
        #[arg(long)]
        given_up: bool,
        #[command(flatten)]
        restart: Restart,
    },
    /// Have the system that was just booted prove itself, and keep it or give it up
    Healthcheck {
        /// Do not start the machine again when the system is given up
        #[arg(long)]
        no_reboot: bool,
    },
    /// Tell what is going on, and where each setting comes from
    Status,
    /// Tell what happened lately
    History,
    /// Sign files: the signature of FILE is FILE.sig
    Sign {
        /// The private key
        #[arg(long, value_name = "FILE")]
        key: PathBuf,
        /// Write base64 instead of 64 bytes
        #[arg(long)]
        text: bool,
        /// What to sign
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
    },
    /// Make a key: NAME.key to sign with, NAME.pub to verify with
    Genkey {
        /// The name
        #[arg(value_name = "NAME")]
        name: PathBuf,
    },
    /// Publish a directory of releases
    Serve {
        /// Where to listen
        #[arg(long, default_value = "127.0.0.1:8080", value_name = "ADDRESS")]
        listen: SocketAddr,
        /// The directory with latest.json
        #[arg(value_name = "DIR")]
        dir: PathBuf,
    },
    /// Write the state as Prometheus reads it
    Metrics,
    /// Take the block `updates` of a cloud-init file into the settings, where they say nothing yet
    CloudInit {
        /// The file with user data
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
    /// Write GRUB's script to standard output
    GrubConfig {
        /// What the kernel is told, besides
        #[arg(long, default_value = "", allow_hyphen_values = true)]
        args: String,
    },
    /// On a machine that is being installed: have the boot loader start the slot that is filled
    BootInstall {
        /// The slot
        #[arg(long, default_value = "a")]
        slot: String,
    },
}
