//! What the owner has set: `config.toml`. What is not in it has its default; what nobody knows is an
//! error, as it would be a mistake that goes unnoticed.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use banger_host::fs::read_text;
use banger_image::catalog::Configured;
use banger_image::oci::{self, Mirror};
use banger_model::Bytes;
use serde::Deserialize;

/// Longest file that makes sense, in bytes.
const MAX_LEN: u64 = 1024 * 1024;

/// What of fetched layers is kept where nothing else is said.
const CACHE: Bytes = Bytes::gib(10);

/// How images are fetched.
#[derive(Clone, Debug)]
pub struct Fetching {
    /// From where, and within which bounds.
    pub settings: oci::Settings,
    /// Bytes that may stay in the cache.
    pub cache: Bytes,
    /// The catalog that names are looked up in after those of the program itself.
    pub catalog: Option<Configured>,
}

/// The file as it is read.
#[derive(Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// How images are fetched.
    images: Images,
    /// What is known of registries, by `HOST` or `HOST:PORT`.
    registry: BTreeMap<String, Registry>,
    /// Where names come from.
    catalog: Catalog,
}

#[derive(Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Images {
    /// Layers that are fetched at once.
    at_once: Option<NonZeroUsize>,
    /// Bytes that may stay in the cache of what was fetched.
    cache: Option<Bytes>,
    /// Most layers of one image.
    max_layers: Option<usize>,
    /// Most bytes of all compressed layers of one image.
    max_image: Option<Bytes>,
    /// Most bytes of all unpacked layers of one image.
    max_unpacked: Option<Bytes>,
}

#[derive(Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Registry {
    /// It is spoken to without TLS.
    insecure: bool,
    /// Places that are asked before it.
    mirrors: Vec<String>,
}

#[derive(Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Catalog {
    /// Where its index is.
    url: Option<String>,
    /// The key that signs it, or several in PEM.
    key: Option<String>,
}

impl Catalog {
    fn configured(&self) -> Result<Option<Configured>> {
        match (&self.url, &self.key) {
            (None, None) => Ok(None),
            (Some(url), Some(key)) => Ok(Some(Configured::parse(url, key)?)),
            (Some(_), None) => {
                bail!("catalog.url needs catalog.key, the public key of whoever signs it")
            }
            (None, Some(_)) => bail!("catalog.key needs catalog.url, where the catalog is"),
        }
    }
}

impl Config {
    /// Reads the file; none there is as an empty one.
    ///
    /// # Errors
    /// When it makes no sense.
    pub fn read(path: &Path) -> Result<Self> {
        let text = match read_text(path, MAX_LEN) {
            Ok(text) => text,
            Err(error) if error.is_not_found() => return Ok(Self::default()),
            Err(error) => return Err(error.into()),
        };
        Self::parse(&text).with_context(|| format!("cannot understand {}", path.display()))
    }

    fn parse(text: &str) -> Result<Self> {
        let config: Self = toml::from_str(text)?;
        config.fetching()?;
        Ok(config)
    }

    /// How images are fetched.
    ///
    /// # Errors
    /// When a mirror or the catalog is none.
    pub fn fetching(&self) -> Result<Fetching> {
        let mut settings = oci::Settings::default();
        let Images { at_once, cache, max_layers, max_image, max_unpacked } = &self.images;
        let limits = &mut settings.limits;
        limits.max_layers = max_layers.unwrap_or(limits.max_layers);
        limits.max_image = max_image.unwrap_or(limits.max_image);
        limits.max_unpacked = max_unpacked.unwrap_or(limits.max_unpacked);
        settings.at_once = at_once.unwrap_or(settings.at_once);
        for (host, registry) in &self.registry {
            let mirrors = registry.mirrors.iter().map(|mirror| mirror.parse::<Mirror>());
            let mirrors = mirrors.collect::<Result<Vec<_>, _>>();
            let mirrors = mirrors.with_context(|| format!("registry.{host:?}.mirrors"))?;
            settings.mirrors.insert(host.clone(), mirrors);
            if registry.insecure {
                settings.insecure.insert(host.clone());
            }
        }
        let catalog = self.catalog.configured()?;
        Ok(Fetching { settings, cache: cache.unwrap_or(CACHE), catalog })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_set_is_used_and_the_rest_has_its_default() {
        let config = Config::parse(
            "[images]\nat_once = 5\nmax_image = 1000000\n\
             [registry.\"host:5000\"]\ninsecure = true\nmirrors = [\"other:5000/x\"]\n",
        );
        let Fetching { settings, cache, catalog } = config.unwrap().fetching().unwrap();
        assert_eq!((cache, catalog), (CACHE, None));
        assert_eq!(settings.at_once.get(), 5);
        assert_eq!(settings.limits.max_image, Bytes::new(1_000_000));
        assert!(settings.insecure.contains("host:5000"));
        assert_eq!(settings.mirrors["host:5000"][0].host(), "other:5000");
        assert_eq!(Config::parse("").unwrap(), Config::default());
    }

    #[test]
    fn mistakes_are_told_with_their_place() {
        let said = |text: &str| format!("{:#}", Config::parse(text).unwrap_err());
        assert!(said("[image]\n").contains("image"), "{}", said("[image]\n"));
        assert!(said("[images]\nat_once = 0").contains("at_once"));
        assert!(said("[registry.x]\nmirrors = [\"a b\"]").contains("not a mirror"));
    }

    #[test]
    fn a_catalog_is_an_address_with_a_key() {
        // RFC 8032, section 7.1, test 1.
        let key = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a";
        let url = "https://a.example.com/c/";
        let of = |url: &str, key: &str| format!("[catalog]\nurl = {url:?}\nkey = {key:?}\n");
        let config = Config::parse(&of(url, key)).unwrap().fetching().unwrap();
        let shown = config.catalog.unwrap().url.to_string();
        assert_eq!(shown, "https://a.example.com/c/index.json");
        let said = |text: &str| format!("{:#}", Config::parse(text).unwrap_err());
        assert!(said(&of("example.com", key)).contains("catalog.url"));
        assert!(said(&of(url, "abc")).contains("catalog.key"));
        assert!(said("[catalog]\nurl = \"https://a.example.com/\"").contains("needs catalog.key"));
        assert!(said(&format!("[catalog]\nkey = {key:?}")).contains("needs catalog.url"));
    }

    #[test]
    fn no_file_is_an_empty_one() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Config::read(&dir.path().join("config.toml")).unwrap(), Config::default());
    }
}
