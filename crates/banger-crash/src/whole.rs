//! What a start of the host finds on the disk, before there is a daemon: whatever has its place is
//! whole there. Looked at directly, so that nothing is given up, or written anew, before it is seen.

use std::fs::File;
use std::path::Path;

use anyhow::Result;
use banger_host::fs::list_dir;
use banger_host::home::Home;

use crate::scripted::marks::{self, Marks};
use crate::scripted::memory::saved_misfit;
use crate::world::{DISK, SAVED, USED};

/// Something that is not whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Torn {
    /// The sandbox that it is of, by its id; none where it is in nobody's directory. What is about to
    /// be deleted need not be whole.
    pub(crate) sandbox: Option<String>,
    pub(crate) what: String,
}

/// Looks at every template, snapshot and sandbox.
pub(crate) fn look(home: &Home) -> Result<Vec<Torn>> {
    let mut all = Vec::new();
    for (kind, parent) in [("template", home.templates()), ("snapshot", home.snapshots())] {
        for name in list_dir(&parent)? {
            let name = name.to_string_lossy().into_owned();
            if name.starts_with('.') {
                continue;
            }
            let dir = parent.join(&name);
            let wrong = saved_wrong(&dir, &dir.join(DISK));
            let wrong = wrong.map(|wrong| format!("the {kind} {name} is not whole: {wrong}"));
            all.extend(wrong.map(|what| Torn { sandbox: None, what }));
        }
    }
    for name in list_dir(&home.sandboxes())? {
        let (id, dir) = (name.to_string_lossy().into_owned(), home.sandboxes().join(&name));
        if let Some(wrong) = sandbox_wrong(&dir) {
            let what = format!("what there is of the sandbox {id} is not whole: {wrong}");
            all.push(Torn { sandbox: Some(id), what });
        }
    }
    Ok(all)
}

fn sandbox_wrong(dir: &Path) -> Option<String> {
    let disk = dir.join(DISK);
    if !disk.exists() {
        return None;
    }
    if dir.join(SAVED).exists() && !dir.join(USED).exists() {
        return saved_wrong(&dir.join(SAVED), &disk);
    }
    match File::open(&disk).and_then(|disk| marks::look(&disk)) {
        Ok(Marks::Torn(what)) => Some(what),
        Ok(Marks::Blank | Marks::Whole) => None,
        Err(error) => Some(error.to_string()),
    }
}

fn saved_wrong(saved: &Path, disk: &Path) -> Option<String> {
    let files = (&*saved.join("memory"), &*saved.join("devices"));
    saved_misfit(files, disk).unwrap_or_else(|error| Some(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_a_template_is_seen_and_what_is_made_aside_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::under(dir.path());
        std::fs::create_dir_all(home.templates().join(".b.new")).unwrap();
        std::fs::create_dir_all(home.sandboxes().join("s")).unwrap();
        assert_eq!(look(&home).unwrap(), []);
        std::fs::create_dir_all(home.templates().join("a")).unwrap();
        std::fs::write(home.sandboxes().join("s").join(DISK), [0; 4096]).unwrap();
        let [template, disk] = &look(&home).unwrap()[..] else { panic!() };
        assert!(template.what.contains("template a") && template.sandbox.is_none());
        assert_eq!(disk.sandbox.as_deref(), Some("s"));
    }
}
