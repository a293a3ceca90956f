//! An appliance in a directory: two slots, GRUB's environment, and what a kernel would be told.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use banger_trust::gates::Hours;
use banger_trust::{SecretKey, Sha256Digest};
use banger_update::{
    BootLoader as _, Engine, Grub, HostFiles, KernelArgs, Layout, Record, Slot, SlotStatus,
};
use os_update::agent::{
    Agent, AgentError, GivenUp, Orders, Outcome, Reboot, Run, Signatures, install, settle,
};
use os_update::dns::Resolver;
use os_update::fetch::Silent;
use os_update::http::Patience;
use os_update::settings::{Key, Loader, Merged, parse_conf};

/// Orders without anything special.
pub(crate) const PLAIN: Orders = Orders {
    hours: Hours::Keep,
    signatures: Signatures::Required,
    run: Run::Real,
    given_up: GivenUp::Refused,
};

/// Short, since servers of these tests fail on purpose.
pub(crate) const PATIENCE: Patience = Patience {
    connect: Duration::from_secs(60),
    idle: Duration::from_millis(1500),
    share: 1,
    share_within: Duration::from_secs(20),
    document: Duration::from_secs(60),
    file: Duration::from_secs(300),
    back_off: Duration::from_millis(1),
    max_back_off: Duration::from_millis(2),
    attempts: 3,
};

/// The appliance.
pub(crate) struct Appliance {
    dir: tempfile::TempDir,
    pub(crate) secret: SecretKey,
    pub(crate) flags: BTreeMap<Key, String>,
}

impl Appliance {
    /// One that runs 1.0.0 from slot A, trusts a key, and has no server yet.
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let secret = SecretKey::from_seed([7; 32]);
        let mut this = Self { dir, secret, flags: BTreeMap::new() };
        for slot in Slot::ALL {
            fs::create_dir_all(this.layout().slot(slot)).unwrap();
        }
        fs::write(this.path("boot/os/a/vmlinuz"), b"kernel 1").unwrap();
        fs::write(this.path("boot/os/a/kubesolo-os.gz"), b"system 1").unwrap();
        let args = KernelArgs::parse("").unwrap();
        install(&this.path("boot"), Loader::Grub, &args, Slot::A).unwrap();
        this.say_booted(Slot::A, "none", "1.0.0");
        let pairs = [
            (Key::StateDir, this.text("state")),
            (Key::BootDir, this.text("boot")),
            (Key::CmdlineFile, this.text("cmdline")),
            (Key::VersionFile, this.text("version")),
            (Key::MachineIdFile, this.text("machine-id")),
            (Key::Pubkey, this.secret.public().to_base64()),
        ];
        this.flags.extend(pairs);
        this
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    pub(crate) fn layout(&self) -> Layout {
        Layout::under(&self.path("boot"))
    }

    pub(crate) fn set(&mut self, key: Key, value: &str) {
        self.flags.insert(key, value.to_owned());
    }

    pub(crate) fn agent(&self) -> Agent {
        self.agent_with(PATIENCE)
    }

    pub(crate) fn agent_with(&self, patience: Patience) -> Agent {
        let merged = Merged::new(&self.flags, &parse_conf(""));
        Agent::new(settle(&merged).unwrap(), patience, Resolver::default())
    }

    pub(crate) fn record(&self) -> Record {
        Engine::look(&HostFiles, &self.path("state"))
    }

    pub(crate) fn apply(&self, orders: Orders) -> Result<Outcome, AgentError> {
        run(self.agent().apply(orders, &mut Silent))
    }

    pub(crate) fn check(&self, orders: Orders) -> Result<Outcome, AgentError> {
        run(self.agent().check(orders))
    }

    pub(crate) fn activate(&self, orders: Orders) -> Result<Outcome, AgentError> {
        self.agent().activate(orders, Reboot::Later)
    }

    pub(crate) fn healthcheck(&self) -> Result<Outcome, AgentError> {
        run(self.agent().healthcheck(PLAIN, Reboot::Later))
    }

    /// What a boot would be told, and what GRUB counts down. The state is one of another boot.
    pub(crate) fn boot(&self, version_of_b: &str) -> Slot {
        let grub = Grub::new(&HostFiles, self.layout());
        let view = grub.view().unwrap();
        let slot = view.next().unwrap();
        if let SlotStatus::Trial { left } = view.status(slot) {
            self.count_down(slot, left - 1);
        }
        let version = if slot == Slot::A { "1.0.0" } else { version_of_b };
        self.say_booted(slot, &view.nonce, version);
        self.forget_boot_id();
        slot
    }

    /// Boot ids are the kernel's; in the state this boot becomes an earlier one.
    pub(crate) fn forget_boot_id(&self) {
        let path = self.path("state/state.json");
        let Ok(text) = fs::read_to_string(&path) else { return };
        let id = banger_host::facts::boot_id().unwrap();
        fs::write(&path, text.replace(&id, "an earlier boot")).unwrap();
    }

    pub(crate) fn count_down(&self, slot: Slot, left: u8) {
        for copy in banger_update::ENV_COPIES {
            let path = self.path("boot").join(copy);
            let mut env = banger_update::EnvBlock::parse(&fs::read(&path).unwrap()).unwrap();
            env.set(&format!("slot_{}", slot.letter()), &left.to_string()).unwrap();
            fs::write(&path, env.to_bytes()).unwrap();
        }
    }

    pub(crate) fn say_booted(&self, slot: Slot, nonce: &str, version: &str) {
        let line = format!("quiet os_update.slot={} os_update.nonce={nonce}\n", slot.letter());
        fs::write(self.path("cmdline"), line).unwrap();
        fs::write(self.path("version"), format!("VERSION_ID={version}\n")).unwrap();
        fs::write(self.path("machine-id"), "0123456789abcdef\n").unwrap();
    }

    /// Every file that a boot loader could see, by its content.
    pub(crate) fn bootable(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let mut found = BTreeMap::new();
        let mut left = vec![self.path("boot")];
        while let Some(dir) = left.pop() {
            for entry in fs::read_dir(dir).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    left.push(path);
                } else {
                    found.insert(path.clone(), fs::read(&path).unwrap());
                }
            }
        }
        found
    }
}

/// Runs one run of the agent.
pub(crate) fn run<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(future)
}

/// A release in a directory that is served.
pub(crate) struct Release {
    pub(crate) kernel: Vec<u8>,
    pub(crate) system: Vec<u8>,
    /// Fields of the manifest besides those that every one has.
    pub(crate) more: String,
    pub(crate) version: String,
}

impl Release {
    pub(crate) fn new(version: &str) -> Self {
        // Large enough to come in several pieces.
        let fill = |seed: u8| (0..300_000_u32).map(|i| (i % 251) as u8 ^ seed).collect();
        let (kernel, system) = (fill(1), fill(2));
        Self { kernel, system, more: String::new(), version: version.to_owned() }
    }

    pub(crate) fn with(mut self, more: &str) -> Self {
        self.more.push_str(more);
        self
    }

    pub(crate) fn manifest(&self) -> String {
        format!(
            r#"{{"version": "{}", "vmlinuz_url": "vmlinuz", "vmlinuz_sha256": "{}",
                "initramfs_url": "kubesolo-os.gz", "initramfs_sha256": "{}" {}}}"#,
            self.version,
            Sha256Digest::of(&self.kernel),
            Sha256Digest::of(&self.system),
            self.more
        )
    }

    /// Puts it into a directory, signed.
    pub(crate) fn publish(&self, dir: &Path, secret: &SecretKey) {
        fs::create_dir_all(dir).unwrap();
        let manifest = self.manifest().into_bytes();
        for (name, content) in [
            ("latest.json", &manifest),
            ("vmlinuz", &self.kernel),
            ("kubesolo-os.gz", &self.system),
        ] {
            fs::write(dir.join(name), content).unwrap();
            fs::write(dir.join(format!("{name}.sig")), secret.sign(content).bytes()).unwrap();
        }
    }
}
