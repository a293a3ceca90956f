//! A choice of manifests, one for each kind of machine.

use serde::Deserialize;

use super::{Descriptor, NoPlatform, Platform, or_default};

/// Most platforms that an error message lists.
const MAX_LISTED: usize = 16;
/// The annotation by which layouts name what is in them.
const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// The annotation in which some tools keep the whole name.
const FULL_NAME: &str = "io.containerd.image.name";

/// An index.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Index {
    /// What it has.
    #[serde(default, deserialize_with = "or_default")]
    pub manifests: Vec<Descriptor>,
}

impl Index {
    /// What fits this kind of machine best, the first of several that fit equally.
    ///
    /// # Errors
    /// [`NoPlatform`] when nothing fits.
    pub fn select(&self, platform: &Platform) -> Result<&Descriptor, NoPlatform> {
        let mut best: Option<(u32, &Descriptor)> = None;
        for entry in &self.manifests {
            let Some(rank) = platform.rank(entry.platform.as_ref()) else { continue };
            if best.is_none_or(|(known, _)| known < rank) {
                best = Some((rank, entry));
            }
        }
        best.map(|(_, entry)| entry).ok_or_else(|| self.nothing_for(platform))
    }

    fn nothing_for(&self, platform: &Platform) -> NoPlatform {
        let mut available = Vec::new();
        for spec in self.manifests.iter().filter_map(|entry| entry.platform.as_ref()) {
            let text = spec.to_string();
            // What describes another manifest says so by an unknown platform.
            if !text.starts_with("unknown") && !available.contains(&text) {
                available.push(text);
            }
        }
        available.truncate(MAX_LISTED);
        NoPlatform { wanted: platform.to_string(), available }
    }

    /// The part of a layout's index that has this name.
    #[must_use]
    pub fn named(self, name: &str) -> Self {
        let has = |entry: &Descriptor, key| entry.annotations.get(key).is_some_and(|n| n == name);
        let named = |entry: &Descriptor| has(entry, REF_NAME) || has(entry, FULL_NAME);
        Self { manifests: self.manifests.into_iter().filter(named).collect() }
    }

    /// The names in a layout's index.
    pub fn names(&self) -> Vec<&str> {
        self.manifests
            .iter()
            .filter_map(|e| e.annotations.get(REF_NAME))
            .map(String::as_str)
            .collect()
    }
}
