//! What was found out about this host and holds until its next boot.

use std::path::Path;

use banger_host::facts::{boot_id, measure_tsc_khz};
use banger_host::fs::{create_private_dir, read_bounded, sweep_aside, write_atomic};
use banger_host::home::Home;
use banger_host::{HostError, Result};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// Longest file of remembered facts that makes sense, in bytes.
const MAX_FACTS_LEN: u64 = 64 * 1024;
/// Most facts of one kind that are remembered: kernels that are used in turns have a verdict each.
const MAX_FACTS: usize = 16;

/// Where that of the time stamp counter is.
const TSC: &str = "tsc.json";

/// The frequency of this host's time stamp counter in kHz, measured once in each boot.
///
/// # Errors
/// When the measurement cannot be written down.
pub fn tsc_khz(home: &Home) -> Result<u64> {
    let path = home.host_facts().join(TSC);
    let boot = boot_id()?;
    if let Some(khz) = recall(&path, &boot) {
        return Ok(khz);
    }
    let khz = measure_tsc_khz();
    remember(&path, boot, khz)?;
    Ok(khz)
}

/// Removes what somebody left aside who was about to write down a frequency.
pub(crate) fn sweep(home: &Home) -> Result<()> {
    sweep_aside(&home.host_facts().join(TSC))
}

#[derive(Serialize, Deserialize)]
struct Fact<K, V> {
    key: K,
    value: V,
}

/// What was remembered in this file under this key. Whatever else is there is as good as
/// nothing: it will be found out again.
pub(crate) fn recall<K, V>(path: &Path, key: &K) -> Option<V>
where
    K: DeserializeOwned + PartialEq,
    V: DeserializeOwned,
{
    known(path).into_iter().find(|fact: &Fact<K, V>| fact.key == *key).map(|fact| fact.value)
}

/// Remembers one value, besides the last others that were remembered in this file under other keys.
pub(crate) fn remember<K, V>(path: &Path, key: K, value: V) -> Result<()>
where
    K: Serialize + DeserializeOwned + PartialEq,
    V: Serialize + DeserializeOwned,
{
    let mut facts: Vec<Fact<K, V>> = known(path);
    facts.retain(|fact| fact.key != key);
    facts.insert(0, Fact { key, value });
    facts.truncate(MAX_FACTS);
    let json = serde_json::to_vec(&facts).map_err(|error| HostError::Path {
        operation: "encode",
        path: path.to_owned(),
        source: error.into(),
    })?;
    create_private_dir(path.parent().unwrap_or(Path::new("/")))?;
    write_atomic(path, &json)
}

fn known<K: DeserializeOwned, V: DeserializeOwned>(path: &Path) -> Vec<Fact<K, V>> {
    let json = read_bounded(path, MAX_FACTS_LEN).unwrap_or_default();
    serde_json::from_slice(&json).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fact_is_remembered_under_its_key_only() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deep/fact.json");
        assert_eq!(recall::<String, u64>(&path, &"boot-1".to_owned()), None);
        remember(&path, "boot-1".to_owned(), 42u64).unwrap();
        assert_eq!(recall(&path, &"boot-1".to_owned()), Some(42u64));
        assert_eq!(recall::<String, u64>(&path, &"boot-2".to_owned()), None);
        write_atomic(&path, b"[{\"key\":\"boot-1\",\"value\":\"x\"}]").unwrap();
        assert_eq!(recall::<String, u64>(&path, &"boot-1".to_owned()), None);
    }

    #[test]
    fn facts_under_other_keys_stay_up_to_a_number() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("fact.json");
        for (key, value) in [("a", 1u64), ("b", 2), ("a", 3)] {
            remember(&path, key.to_owned(), value).unwrap();
        }
        let recalled = |key: &str| recall::<String, u64>(&path, &key.to_owned());
        assert_eq!((recalled("a"), recalled("b")), (Some(3), Some(2)));
        for key in 0..MAX_FACTS {
            remember(&path, key.to_string(), 0u64).unwrap();
        }
        assert_eq!((recalled("a"), recalled("0")), (None, Some(0)));
    }

    #[test]
    fn the_frequency_is_measured_once() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::under(dir.path());
        let measured = tsc_khz(&home).unwrap();
        let path = home.host_facts().join("tsc.json");
        remember(&path, boot_id().unwrap(), measured + 1).unwrap();
        assert_eq!(tsc_khz(&home).unwrap(), measured + 1);
    }
}
