//! What every command needs of its surroundings, read once.

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context as _, Result, anyhow};
use banger_api::client::Client;
use banger_host::home::{Home, HomeEnv};
use bangerd::assets::{DEFAULT_PATH, Sources, guest_programs};
use bangerd::machine::HelperProgram;

use crate::daemon::OnDemand;

/// The environment of one run.
#[derive(Debug)]
pub(crate) struct Context {
    /// The owner's directories.
    pub(crate) home: Home,
    /// Where programs are searched.
    pub(crate) path: OsString,
    /// This executable.
    pub(crate) program: PathBuf,
    /// Certificates to trust besides those of the system.
    pub(crate) roots: Option<PathBuf>,
}

/// What commands that wait for a sandbox run on: one thread for them, others for what blocks.
pub(crate) fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()
}

/// Where relative paths count from.
pub(crate) fn current_dir() -> std::io::Result<PathBuf> {
    std::env::current_dir()
}

impl Context {
    /// Reads the environment of this process.
    #[expect(clippy::disallowed_methods, reason = "this is where the environment is read")]
    pub(crate) fn from_process() -> Result<Self> {
        let current = current_dir().unwrap_or_else(|_| PathBuf::from("/"));
        let home = Home::from_env(&HomeEnv::from_process(), &current)?;
        let path = std::env::var_os("PATH").unwrap_or_else(|| DEFAULT_PATH.into());
        let program = std::env::current_exe().context("cannot tell where this program is")?;
        let roots = std::env::var_os("SSL_CERT_FILE").filter(|value| !value.is_empty());
        Ok(Self { home, path, program, roots: roots.map(PathBuf::from) })
    }

    /// What sandboxes are made from.
    ///
    /// # Errors
    /// When the guest agent is missing.
    pub(crate) fn sources(&self) -> Result<Sources> {
        let agent = self.guest_program("banger-agent")?;
        Ok(Sources { agent, ..self.sources_unchecked() })
    }

    /// As [`Context::sources`], but with what is missing named where it should be.
    pub(crate) fn sources_unchecked(&self) -> Sources {
        let agent = guest_programs(&self.program).join("banger-agent");
        Sources { home: self.home.clone(), path: self.path.clone(), agent }
    }

    /// A program of ours that runs in guests.
    ///
    /// # Errors
    /// When it is missing.
    pub(crate) fn guest_program(&self, name: &str) -> Result<PathBuf> {
        let path = guest_programs(&self.program).join(name);
        if path.is_file() {
            return Ok(path);
        }
        Err(anyhow!("{} is missing: install banger anew", path.display()))
    }

    /// The daemon's executable, which is beside this one.
    pub(crate) fn daemon_program(&self) -> PathBuf {
        self.program.with_file_name("bangerd")
    }

    /// The program of ours that stands before a sandbox's network.
    pub(crate) fn relay(&self) -> HelperProgram {
        HelperProgram { program: self.daemon_program(), args: vec!["relay".into()] }
    }

    /// A client of the owner's daemon, which is started when it is needed.
    pub(crate) fn client(&self, verbosity: u8) -> Client {
        let (home, program) = (self.home.clone(), self.daemon_program());
        Client::new(Arc::new(OnDemand { home, program, verbosity }))
    }
}
