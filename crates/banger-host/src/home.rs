//! Where banger keeps things: everything under `BANGER_HOME`, or the XDG directories.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use banger_model::{ImageId, ImageName, KernelName, LeaseId, SandboxId};

use crate::error::{HostError, Result};

/// The directories of one user's banger.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Home {
    data: PathBuf,
    state: PathBuf,
    cache: PathBuf,
    runtime: PathBuf,
    config: PathBuf,
    root: Option<PathBuf>,
}

/// The part of the environment that says where things are.
#[derive(Clone, Debug, Default)]
pub struct HomeEnv {
    /// `BANGER_HOME`: one directory for everything.
    pub banger_home: Option<OsString>,
    /// `HOME`.
    pub home: Option<OsString>,
    /// `XDG_DATA_HOME`.
    pub xdg_data: Option<OsString>,
    /// `XDG_STATE_HOME`.
    pub xdg_state: Option<OsString>,
    /// `XDG_CACHE_HOME`.
    pub xdg_cache: Option<OsString>,
    /// `XDG_RUNTIME_DIR`.
    pub xdg_runtime: Option<OsString>,
    /// `XDG_CONFIG_HOME`.
    pub xdg_config: Option<OsString>,
}

impl HomeEnv {
    /// This process's environment.
    #[expect(clippy::disallowed_methods, reason = "this is the door")]
    pub fn from_process() -> Self {
        let var = |name| std::env::var_os(name).filter(|value| !value.is_empty());
        Self {
            banger_home: var("BANGER_HOME"),
            home: var("HOME"),
            xdg_data: var("XDG_DATA_HOME"),
            xdg_state: var("XDG_STATE_HOME"),
            xdg_cache: var("XDG_CACHE_HOME"),
            xdg_runtime: var("XDG_RUNTIME_DIR"),
            xdg_config: var("XDG_CONFIG_HOME"),
        }
    }
}

impl Home {
    /// The directories that this environment asks for. A relative XDG path is ignored, as the
    /// XDG Base Directory Specification demands; a relative `BANGER_HOME` counts from `current`.
    ///
    /// # Errors
    /// When neither `BANGER_HOME` nor `HOME` is set.
    pub fn from_env(env: &HomeEnv, current: &Path) -> Result<Self> {
        if let Some(root) = &env.banger_home {
            return Ok(Self::under(&current.join(root)));
        }
        let home = env.home.as_ref().ok_or_else(|| {
            HostError::system(
                "tell where to keep things: neither BANGER_HOME nor HOME is set",
                std::io::ErrorKind::NotFound,
            )
        })?;
        let dir = |xdg: &Option<OsString>, default: &str| {
            xdg.as_ref()
                .map(PathBuf::from)
                .filter(|path| path.is_absolute())
                .unwrap_or_else(|| current.join(home).join(default))
                .join("banger")
        };
        let state = dir(&env.xdg_state, ".local/state");
        // Where nobody has made a runtime directory, a socket may lie beside what it serves.
        let runtime = env.xdg_runtime.as_ref().map(PathBuf::from).filter(|path| path.is_absolute());
        let runtime = runtime.map_or_else(|| state.join("run"), |path| path.join("banger"));
        Ok(Self {
            data: dir(&env.xdg_data, ".local/share"),
            cache: dir(&env.xdg_cache, ".cache"),
            config: dir(&env.xdg_config, ".config"),
            state,
            runtime,
            root: None,
        })
    }

    /// Everything under one directory.
    pub fn under(root: &Path) -> Self {
        Self {
            data: root.join("data"),
            state: root.join("state"),
            cache: root.join("cache"),
            runtime: root.join("run"),
            config: root.to_owned(),
            root: Some(root.to_owned()),
        }
    }

    /// The one directory that everything is under, if there is one: what `BANGER_HOME` has to say
    /// to another process, wherever that works.
    pub fn root(&self) -> Option<&Path> {
        self.root.as_deref()
    }

    /// Where the names of images are: links into [`Home::image_store`].
    pub fn images(&self) -> PathBuf {
        self.data.join("images")
    }

    /// Where all images are, by id.
    pub fn image_store(&self) -> PathBuf {
        self.data.join("image-store")
    }

    /// Where volumes are.
    pub fn volumes(&self) -> PathBuf {
        self.data.join("volumes")
    }

    /// Where one image is.
    pub fn stored_image(&self, id: &ImageId) -> PathBuf {
        self.image_store().join(id.as_str())
    }

    /// Where one image is, as its name leads there.
    pub fn image(&self, name: &ImageName) -> PathBuf {
        self.images().join(name.as_str())
    }

    /// Where all kernels are.
    pub fn kernels(&self) -> PathBuf {
        self.data.join("kernels")
    }

    /// Where one kernel is.
    pub fn kernel(&self, name: &KernelName) -> PathBuf {
        self.kernels().join(name.as_str())
    }

    /// Where all sandboxes are.
    pub fn sandboxes(&self) -> PathBuf {
        self.state.join("sandboxes")
    }

    /// Where one sandbox is.
    pub fn sandbox(&self, id: &SandboxId) -> PathBuf {
        self.sandboxes().join(id.as_str())
    }

    /// Where machines are that were saved to make sandboxes from.
    pub fn templates(&self) -> PathBuf {
        self.state.join("templates")
    }

    /// Where what sandboxes were at one moment is kept.
    pub fn snapshots(&self) -> PathBuf {
        self.state.join("snapshots")
    }

    /// Where the locks of clients are who own sandboxes.
    pub fn leases(&self) -> PathBuf {
        self.state.join("leases")
    }

    /// One of them.
    pub fn lease(&self, id: &LeaseId) -> PathBuf {
        self.leases().join(id.as_str())
    }

    /// What is known of the catalog that its owner has configured.
    pub fn catalog(&self) -> PathBuf {
        self.state.join("catalog")
    }

    /// What the daemon remembers.
    pub fn database(&self) -> PathBuf {
        self.state.join("banger.db")
    }

    /// Held by the one daemon that works on this home.
    pub fn daemon_lock(&self) -> PathBuf {
        self.state.join("bangerd.lock")
    }

    /// What a daemon says that nobody else started.
    pub fn daemon_log(&self) -> PathBuf {
        self.state.join("bangerd.log")
    }

    /// Where the daemon's socket is.
    pub fn runtime(&self) -> &Path {
        &self.runtime
    }

    /// The daemon's socket.
    pub fn socket(&self) -> PathBuf {
        self.runtime.join("bangerd.sock")
    }

    /// Held by whoever starts a daemon.
    pub fn start_lock(&self) -> PathBuf {
        self.runtime.join("start.lock")
    }

    /// Where what is measured is run, apart from what is used.
    pub fn bench(&self) -> PathBuf {
        self.state.join("bench")
    }

    /// What was measured of this host and holds until its next boot.
    pub fn host_facts(&self) -> PathBuf {
        self.state.join("host")
    }

    /// What its owner has set, in TOML.
    pub fn config(&self) -> PathBuf {
        self.config.join("config.toml")
    }

    /// What can be fetched or made again.
    pub fn cache(&self) -> &Path {
        &self.cache
    }

    /// Where clients put what the daemon is to read, for as long as they live.
    pub fn imports(&self) -> PathBuf {
        self.cache.join("imports")
    }

    /// Every directory above, for those who check them.
    pub fn roots(&self) -> [&Path; 4] {
        [&self.data, &self.state, &self.cache, &self.runtime]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(pairs: &[(&str, &str)]) -> HomeEnv {
        let get = |name| pairs.iter().find(|(n, _)| *n == name).map(|(_, v)| OsString::from(v));
        HomeEnv {
            banger_home: get("BANGER_HOME"),
            home: get("HOME"),
            xdg_data: get("XDG_DATA_HOME"),
            xdg_state: get("XDG_STATE_HOME"),
            xdg_cache: get("XDG_CACHE_HOME"),
            xdg_runtime: get("XDG_RUNTIME_DIR"),
            xdg_config: get("XDG_CONFIG_HOME"),
        }
    }

    #[test]
    fn one_directory_for_everything_wins() {
        let env = env(&[("BANGER_HOME", "b"), ("HOME", "/h"), ("XDG_DATA_HOME", "/d")]);
        let home = Home::from_env(&env, Path::new("/cwd")).unwrap();
        assert_eq!(home, Home::under(Path::new("/cwd/b")));
    }

    #[test]
    fn xdg_directories_count_when_absolute() {
        let env = env(&[("HOME", "/h"), ("XDG_DATA_HOME", "/d"), ("XDG_STATE_HOME", "rel")]);
        let home = Home::from_env(&env, Path::new("/cwd")).unwrap();
        assert_eq!(home.images(), Path::new("/d/banger/images"));
        assert_eq!(home.sandboxes(), Path::new("/h/.local/state/banger/sandboxes"));
    }

    #[test]
    fn the_socket_is_in_the_runtime_directory_or_beside_the_state() {
        let socket = |pairs: &[(&str, &str)]| {
            Home::from_env(&env(pairs), Path::new("/cwd")).unwrap().socket()
        };
        assert_eq!(
            socket(&[("HOME", "/h"), ("XDG_RUNTIME_DIR", "/run/user/7")]),
            Path::new("/run/user/7/banger/bangerd.sock")
        );
        assert_eq!(socket(&[("HOME", "/h")]), Path::new("/h/.local/state/banger/run/bangerd.sock"));
        assert_eq!(socket(&[("BANGER_HOME", "/b")]), Path::new("/b/run/bangerd.sock"));
    }

    #[test]
    fn without_a_home_there_is_an_error() {
        assert!(Home::from_env(&env(&[]), Path::new("/")).is_err());
    }
}
