//! What was found out about this host and holds until its next boot.

use std::path::Path;

use banger_host::facts::{boot_id, measure_tsc_khz};
use banger_host::fs::{create_private_dir, read_bounded, write_atomic};
use banger_host::home::Home;
use banger_host::{HostError, Result};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// Longest file of remembered facts that makes sense, in bytes.
const MAX_FACTS_LEN: u64 = 64 * 1024;

/// The frequency of this host's time stamp counter in kHz, measured once in each boot.
///
/// # Errors
/// When the measurement cannot be written down.
pub fn tsc_khz(home: &Home) -> Result<u64> {
    let path = home.host_facts().join("tsc.json");
    let boot = boot_id()?;
    if let Some(khz) = recall(&path, &boot) {
        return Ok(khz);
    }
    let khz = measure_tsc_khz();
    remember(&path, &boot, &khz)?;
    Ok(khz)
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
    let json = read_bounded(path, MAX_FACTS_LEN).ok()?;
    let fact: Fact<K, V> = serde_json::from_slice(&json).ok()?;
    (fact.key == *key).then_some(fact.value)
}

/// Remembers one value; what was remembered in this file before is forgotten.
pub(crate) fn remember<K: Serialize, V: Serialize>(path: &Path, key: &K, value: &V) -> Result<()> {
    let json = serde_json::to_vec(&Fact { key, value }).map_err(|error| HostError::Path {
        operation: "encode",
        path: path.to_owned(),
        source: error.into(),
    })?;
    create_private_dir(path.parent().unwrap_or(Path::new("/")))?;
    write_atomic(path, &json)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fact_is_remembered_under_its_key_only() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deep/fact.json");
        assert_eq!(recall::<String, u64>(&path, &"boot-1".to_owned()), None);
        remember(&path, &"boot-1", &42u64).unwrap();
        assert_eq!(recall(&path, &"boot-1".to_owned()), Some(42u64));
        assert_eq!(recall::<String, u64>(&path, &"boot-2".to_owned()), None);
        write_atomic(&path, b"{\"key\":\"boot-1\",\"value\":\"x\"}").unwrap();
        assert_eq!(recall::<String, u64>(&path, &"boot-1".to_owned()), None);
    }

    #[test]
    fn the_frequency_is_measured_once() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::under(dir.path());
        let measured = tsc_khz(&home).unwrap();
        let path = home.host_facts().join("tsc.json");
        remember(&path, &boot_id().unwrap(), &(measured + 1)).unwrap();
        assert_eq!(tsc_khz(&home).unwrap(), measured + 1);
    }
}
