//! A kernel's modules: which needs which, and the files by which `modprobe` finds them.
//!
//! Debian's package leaves these files to `depmod`, which would have to be installed on the host
//! and to be shown all modules unpacked. What it does is little: the modules name their
//! dependencies themselves, so one pass over the archive does. Left out is `modules.symbols`,
//! which serves a single rare kernel request (`symbol_request` of a module not loaded).

use std::collections::{BTreeMap, BTreeSet};

use thiserror::Error;

use super::index::Index;
use super::modinfo::{Modinfo, normalized};

/// Where modules are that go before the kernel's own.
const UPDATES: &str = "updates/";
/// Longest chain of dependencies; real ones have a dozen links.
const MAX_DEPTH: usize = 100;

/// Why modules cannot be put in order.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum ModuleError {
    /// A module that is neither a file nor built in.
    #[error("the kernel has no module {0}")]
    Missing(String),
    /// Dependencies that run in a circle, or are deeper than any real ones.
    #[error("the dependencies of the module {0} run in a circle")]
    Circle(String),
    /// An index too large for its format.
    #[error("the kernel has too many modules to index")]
    TooMany,
}

/// One module.
#[derive(Clone, Debug)]
pub(super) struct Module {
    /// Path below the directory of the release, such as `kernel/fs/fuse/fuse.ko`.
    pub(super) path: String,
    pub(super) info: Modinfo,
}

/// All modules of a kernel.
#[derive(Debug, Default)]
pub(super) struct Modules {
    loadable: BTreeMap<String, Module>,
    built_in: BTreeSet<String>,
}

/// The name of the module in this file, without `.ko`; `None` when it is no module.
pub(super) fn module_name(path: &str) -> Option<String> {
    path.rsplit('/').next()?.strip_suffix(".ko").map(normalized)
}

impl Modules {
    /// Puts the modules together; `modules_builtin` is the file of that name. One in `updates` takes the
    /// place of another of its name, as `depmod` has it where nobody configures otherwise.
    pub(super) fn new(loadable: impl IntoIterator<Item = Module>, modules_builtin: &str) -> Self {
        let mut named: BTreeMap<String, Module> = BTreeMap::new();
        for module in loadable {
            let Some(name) = module_name(&module.path) else { continue };
            if module.path.starts_with(UPDATES) || !named.contains_key(&name) {
                named.insert(name, module);
            }
        }
        let built_in = modules_builtin.lines().filter_map(module_name).collect();
        Self { loadable: named, built_in }
    }

    /// The modules to load, each after those it needs, so that all `wanted` are there.
    pub(super) fn load_order(&self, wanted: &[&str]) -> Result<Vec<&Module>, ModuleError> {
        let mut order = Vec::new();
        let mut seen = BTreeSet::new();
        for name in wanted {
            self.visit(name, &mut seen, &mut order, 0)?;
        }
        Ok(order)
    }

    fn visit<'a>(
        &'a self,
        name: &str,
        seen: &mut BTreeSet<&'a str>,
        order: &mut Vec<&'a Module>,
        depth: usize,
    ) -> Result<(), ModuleError> {
        let Some((name, module)) = self.loadable.get_key_value(name) else {
            let known = self.built_in.contains(name);
            return if known { Ok(()) } else { Err(ModuleError::Missing(name.to_owned())) };
        };
        if depth > MAX_DEPTH {
            return Err(ModuleError::Circle(name.clone()));
        }
        if !seen.contains(name.as_str()) {
            for needed in &module.info.depends {
                self.visit(needed, seen, order, depth + 1)?;
            }
            // In a circle the module has been reached from below in the meantime.
            if seen.insert(name) {
                order.push(module);
            }
        }
        Ok(())
    }

    /// The files for `modprobe`, by name. `modules_order` is the file of that name; of several
    /// modules that serve one device, those that stand there first are preferred.
    pub(super) fn index_files(
        &self,
        modules_order: &str,
        builtin_aliases: &[(String, String)],
    ) -> Result<Vec<(&'static str, Vec<u8>)>, ModuleError> {
        let mut lists = Lists::default();
        for (priority, (name, module)) in self.by_priority(modules_order).into_iter().enumerate() {
            let mut needed = self.load_order(&[name])?;
            needed.pop();
            lists.add(name, module, &needed, u32::try_from(priority).unwrap_or(u32::MAX));
        }
        let mut built_in = Index::default();
        for name in &self.built_in {
            built_in.insert(name, "", 0);
        }
        let mut aliases = Index::default();
        for (alias, name) in builtin_aliases {
            aliases.insert(&normalized_alias(alias), name, 0);
        }
        let bytes = |index: Index| index.into_bytes().ok_or(ModuleError::TooMany);
        Ok(vec![
            ("modules.alias", lists.alias_text.into_bytes()),
            ("modules.alias.bin", bytes(lists.alias)?),
            ("modules.builtin.alias.bin", bytes(aliases)?),
            ("modules.builtin.bin", bytes(built_in)?),
            ("modules.dep", lists.dep_text.into_bytes()),
            ("modules.dep.bin", bytes(lists.dep)?),
            ("modules.devname", lists.devname_text.into_bytes()),
            ("modules.softdep", lists.softdep_text.into_bytes()),
        ])
    }

    fn by_priority(&self, modules_order: &str) -> Vec<(&str, &Module)> {
        let places: BTreeMap<String, usize> = modules_order
            .lines()
            .enumerate()
            .filter_map(|(n, path)| Some((module_name(path)?, n)))
            .collect();
        let mut modules: Vec<_> =
            self.loadable.iter().map(|(name, module)| (name.as_str(), module)).collect();
        modules.sort_by_key(|(name, _)| places.get(*name).copied().unwrap_or(usize::MAX));
        modules
    }
}

#[derive(Default)]
struct Lists {
    dep: Index,
    dep_text: String,
    alias: Index,
    alias_text: String,
    softdep_text: String,
    devname_text: String,
}

impl Lists {
    fn add(&mut self, name: &str, module: &Module, needed: &[&Module], priority: u32) {
        let mut line = format!("{}:", module.path);
        // Read from its end, the line is the order of loading.
        for needed in needed.iter().rev() {
            line.push(' ');
            line.push_str(&needed.path);
        }
        self.dep.insert(name, &line, priority);
        self.dep_text.push_str(&line);
        self.dep_text.push('\n');
        for alias in &module.info.aliases {
            self.alias.insert(&normalized_alias(alias), name, priority);
            self.alias_text.push_str(&format!("alias {alias} {name}\n"));
        }
        for softdep in &module.info.softdeps {
            self.softdep_text.push_str(&format!("softdep {name} {softdep}\n"));
        }
        if let Some(line) = device_line(name, &module.info.aliases) {
            self.devname_text.push_str(&line);
        }
    }
}

/// In aliases `-` means `_`, but not within the brackets of a pattern.
fn normalized_alias(alias: &str) -> String {
    let mut inside = false;
    let each = |c| {
        inside = (inside || c == '[') && c != ']';
        if c == '-' && !inside { '_' } else { c }
    };
    alias.chars().map(each).collect()
}

/// A module that is loaded when its device node is first opened says which node that is:
/// `loop loop-control c10:237`.
fn device_line(name: &str, aliases: &[String]) -> Option<String> {
    let node = aliases.iter().find_map(|alias| alias.strip_prefix("devname:"))?;
    let number = |(kind, prefix): (char, &str)| {
        let (major, minor) =
            aliases.iter().find_map(|alias| alias.strip_prefix(prefix)?.split_once('-'))?;
        let (major, minor): (u32, u32) = (major.parse().ok()?, minor.parse().ok()?);
        Some(format!("{name} {node} {kind}{major}:{minor}\n"))
    };
    [('c', "char-major-"), ('b', "block-major-")].into_iter().find_map(number)
}

#[cfg(test)]
mod tests {
    use super::super::index::tests::look_up;
    use super::*;

    fn module(name: &str, depends: &[&str], aliases: &[&str]) -> Module {
        let own = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
        Module {
            path: format!("kernel/{name}.ko"),
            info: Modinfo { depends: own(depends), aliases: own(aliases), ..Modinfo::default() },
        }
    }

    fn virtio() -> Modules {
        Modules::new(
            [
                module("virtio_net", &["net_failover", "virtio", "virtio_ring"], &["virtio:d1*"]),
                module("net_failover", &["failover"], &[]),
                module("failover", &[], &[]),
                module("virtio", &["virtio_ring"], &[]),
                module("virtio_ring", &[], &[]),
                module("hw/virtio-rng", &["virtio"], &["virtio:d4*"]),
                module("fuse", &[], &["devname:fuse", "char-major-10-229", "fs-fuse"]),
            ],
            "kernel/fs/ext4/ext4.ko\n",
        )
    }

    fn names(order: &[&Module]) -> Vec<String> {
        order.iter().filter_map(|module| module_name(&module.path)).collect()
    }

    #[test]
    fn what_is_needed_comes_first_and_once() {
        let modules = virtio();
        let order = modules.load_order(&["virtio_net", "virtio_rng", "ext4"]).unwrap();
        assert_eq!(
            names(&order),
            ["failover", "net_failover", "virtio_ring", "virtio", "virtio_net", "virtio_rng"]
        );
    }

    #[test]
    fn a_module_that_is_nowhere_is_named() {
        assert_eq!(virtio().load_order(&["xyz"]).unwrap_err(), ModuleError::Missing("xyz".into()));
    }

    #[test]
    fn an_update_goes_before_what_the_kernel_has() {
        let at = |path: &str| Module { path: path.to_owned(), info: Modinfo::default() };
        let paths =
            ["updates/dkms/a.ko", "kernel/a.ko", "kernel/b.ko", "updates/b.ko", "extra/c.ko"];
        let modules = Modules::new(paths.map(at), "");
        let found = modules.load_order(&["a", "b", "c"]).unwrap();
        let found: Vec<_> = found.iter().map(|module| module.path.as_str()).collect();
        assert_eq!(found, ["updates/dkms/a.ko", "updates/b.ko", "extra/c.ko"]);
    }

    #[test]
    fn circles_end() {
        let circle = [module("a", &["b"], &[]), module("b", &["a"], &[])];
        let modules = Modules::new(circle, "");
        assert!(matches!(modules.load_order(&["a"]), Err(ModuleError::Circle(_))));
    }

    #[test]
    fn modprobe_finds_modules_by_name_alias_and_device() {
        let files = virtio().index_files("kernel/hw/virtio-rng.ko\n", &[]).unwrap();
        let file = |name| &files.iter().find(|(n, _)| *n == name).unwrap().1;
        assert_eq!(
            look_up(file("modules.dep.bin"), "virtio_rng"),
            ["kernel/hw/virtio-rng.ko: kernel/virtio.ko kernel/virtio_ring.ko"]
        );
        assert_eq!(look_up(file("modules.alias.bin"), "fs_fuse"), ["fuse"]);
        assert_eq!(look_up(file("modules.builtin.bin"), "ext4"), [""]);
        assert!(file("modules.dep").starts_with(b"kernel/hw/virtio-rng.ko:"));
        let devices = String::from_utf8_lossy(file("modules.devname")).into_owned();
        assert!(devices.contains("fuse fuse c10:229\n"), "{devices}");
    }

    #[test]
    fn brackets_of_a_pattern_keep_their_dash() {
        assert_eq!(normalized_alias("a-b[0-9]-c"), "a_b[0-9]_c");
    }
}
