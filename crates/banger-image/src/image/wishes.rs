//! What an image wishes, as far as a sandbox can grant it: by its config, and by whoever has made it.
//! Pure.

use std::collections::BTreeMap;

use banger_model::{DiskSize, InitMode, KernelName};

use super::{ImageConfig, ImageInfo};
use crate::oci::Config;
use crate::tree::Tree;

/// Where programs are looked for in an image that does not say: Docker's own default.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Shells, the best first, and how each is asked to be a login shell.
const SHELLS: [(&str, &[&str]); 4] = [
    ("bin/bash", &["/bin/bash", "-l"]),
    ("usr/bin/bash", &["/usr/bin/bash", "-l"]),
    ("bin/sh", &["/bin/sh", "-l"]),
    ("bin/busybox", &["/bin/busybox", "sh", "-l"]),
];

/// What the kernel starts.
const INIT: &str = "sbin/init";
/// Where systemd is.
const SYSTEMD: [&[u8]; 2] = [b"lib/systemd/systemd", b"usr/lib/systemd/systemd"];

/// What whoever makes an image says that its sandboxes are to have where nobody says otherwise.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct SandboxWishes {
    /// The kernel, if a certain one.
    pub kernel: Option<KernelName>,
    /// The size of the writable disk, if a certain one.
    pub disk: Option<DiskSize>,
}

impl SandboxWishes {
    /// Whether an image that was made before has all of this.
    pub(super) fn are_of(&self, made: &ImageInfo) -> bool {
        let same_kernel = self.kernel.is_none() || self.kernel == made.kernel;
        same_kernel && (self.disk.is_none() || self.disk == made.config.disk)
    }

    /// Whether an image that was made before has this and nothing else.
    pub(super) fn are_those_of(&self, made: &ImageInfo) -> bool {
        self.kernel == made.kernel && self.disk == made.config.disk
    }

    /// The config with the disk that is wished for.
    pub(super) fn in_config(&self, config: ImageConfig) -> ImageConfig {
        ImageConfig { disk: self.disk.or(config.disk), ..config }
    }
}

/// The config of an image with this tree.
pub(super) fn image_config(config: &Config, tree: &Tree) -> ImageConfig {
    let mut env: BTreeMap<String, String> = config
        .env
        .iter()
        .filter_map(|variable| variable.split_once('='))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    env.entry("PATH".to_owned()).or_insert_with(|| PATH.to_owned());
    let shell = SHELLS.iter().find(|(path, _)| tree.is_program(path));
    ImageConfig {
        env,
        user: config.user.clone(),
        workdir: config.working_dir.clone(),
        shell: shell
            .map(|(_, argv)| argv.iter().map(|&word| word.to_owned()).collect())
            .unwrap_or_default(),
        init: init_mode(tree),
        entrypoint: config.entrypoint.clone(),
        cmd: config.cmd.clone(),
        stop_signal: config.stop_signal.clone(),
        health_check: config.health_check.clone(),
        ports: config.exposed_ports.clone(),
        volumes: config.volumes.clone(),
        disk: None,
        labels: config.labels.clone(),
    }
}

/// Who is to be the first process: systemd, if that is what the kernel would start. Other inits
/// (BusyBox's is in images that never use it) bring up nothing that somebody would miss.
fn init_mode(tree: &Tree) -> InitMode {
    let starts = tree.program_at(INIT).is_some_and(|program| SYSTEMD.contains(&program.as_slice()));
    if starts { InitMode::Systemd } else { InitMode::Agent }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::Kind;
    use crate::oci::document::parse_config;
    use crate::tree::tests::{entry, laid, text};

    fn program(path: &str) -> crate::archive::Entry {
        let mut program = text(path, "#!");
        program.attributes.mode = 0o755;
        program
    }

    fn of(config: &Config, entries: Vec<crate::archive::Entry>) -> ImageConfig {
        image_config(config, &laid(vec![entries]).unwrap())
    }

    #[test]
    fn an_image_that_says_nothing_has_a_path_and_whatever_shell_is_in_it() {
        let shell = |entries| of(&Config::default(), entries).shell;
        assert_eq!(shell(vec![]), Vec::<String>::new());
        assert_eq!(shell(vec![text("bin/sh", "not to be run")]), Vec::<String>::new());
        assert_eq!(shell(vec![program("bin/sh")]), ["/bin/sh", "-l"]);
        assert_eq!(
            shell(vec![program("bin/sh"), program("usr/bin/bash")]),
            ["/usr/bin/bash", "-l"]
        );
        let merged = entry("bin", Kind::Symlink("usr/bin".into()));
        assert_eq!(shell(vec![program("usr/bin/bash"), merged]), ["/bin/bash", "-l"]);
        let busybox = entry("bin/sh", Kind::Symlink("/bin/busybox".into()));
        assert_eq!(shell(vec![program("bin/busybox"), busybox]), ["/bin/sh", "-l"]);
        let nowhere = entry("bin/sh", Kind::Symlink("/bin/gone".into()));
        assert_eq!(shell(vec![nowhere]), Vec::<String>::new());
        assert_eq!(of(&Config::default(), vec![]).env["PATH"], PATH);
    }

    #[test]
    fn systemd_is_the_first_process_where_the_kernel_would_start_it() {
        let init = |entries| of(&Config::default(), entries).init;
        let link = |to: &str| entry("sbin/init", Kind::Symlink(to.into()));
        let systemd = program("usr/lib/systemd/systemd");
        let merged = entry("lib", Kind::Symlink("usr/lib".into()));
        assert_eq!(init(vec![]), InitMode::Agent);
        assert_eq!(init(vec![systemd.clone()]), InitMode::Agent, "nobody would start it");
        assert_eq!(
            init(vec![systemd.clone(), merged, link("/lib/systemd/systemd")]),
            InitMode::Systemd
        );
        assert_eq!(init(vec![systemd, link("../usr/lib/systemd/systemd")]), InitMode::Systemd);
        assert_eq!(init(vec![program("bin/busybox"), link("/bin/busybox")]), InitMode::Agent);
        assert_eq!(init(vec![link("/lib/systemd/systemd")]), InitMode::Agent);
    }

    #[test]
    fn an_image_is_the_same_as_long_as_it_has_what_is_wished_for() {
        let size = |text: &str| text.parse::<DiskSize>().unwrap();
        let none = SandboxWishes::default();
        let large = SandboxWishes { disk: Some(size("20G")), ..none.clone() };
        let kernel = SandboxWishes { kernel: Some("mine".parse().unwrap()), ..large.clone() };
        let made = |with: &SandboxWishes| ImageInfo {
            source: "a test".to_owned(),
            config: with.in_config(ImageConfig::default()),
            origin: None,
            made: None,
            kernel: with.kernel.clone(),
            bundle: None,
            made_by: None,
        };
        assert!(none.are_of(&made(&kernel)) && large.are_of(&made(&kernel)));
        assert!(!large.are_of(&made(&none)) && !kernel.are_of(&made(&large)));
        let other = SandboxWishes { disk: Some(size("30G")), ..none.clone() };
        assert!(!other.are_of(&made(&large)));
        // What nobody says is as it was.
        let config = none.in_config(made(&large).config);
        assert_eq!(other.in_config(config.clone()).disk, other.disk);
        assert_eq!(config.disk, large.disk);
    }

    #[test]
    fn its_wishes_are_kept() {
        let config = parse_config(
            br#"{"architecture": "amd64", "os": "linux", "rootfs": {"diff_ids": []}, "config": {
                "Env": ["A=1", "nonsense", "PATH=/p", "A=2=3"], "Entrypoint": ["e"],
                "User": "www:33"}}"#,
        )
        .unwrap();
        let kept = of(&config, vec![]);
        let env: Vec<_> = kept.env.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
        assert_eq!(env, [("A", "2=3"), ("PATH", "/p")]);
        assert_eq!((kept.entrypoint, kept.user.as_str()), (vec!["e".to_owned()], "www:33"));
    }
}
