//! The manifest of a bundle, `bundle.json`: its first member, which says what the others are. Pure.
//!
//! A bundle is a tar, compressed with zstd, of exactly these members in this order:
//!
//! | bundle of | members                                                      |
//! |-----------|--------------------------------------------------------------|
//! | an image  | `bundle.json`, `root.ext4`                                   |
//! | a kernel  | `bundle.json`, `vmlinux`, `modules.ext4`, `boot.cpio`, `config` |

use banger_model::KernelName;
use banger_trust::{DocumentError, JsonBounds, Sha256Digest, strict_json};
use serde::Deserialize;
use serde_json::json;

use super::index::{check_schema, field, is_word};
use crate::image::{ImageConfig, ROOT};
use crate::kernel::{FILES as KERNEL_FILES, KernelInfo};

/// The manifest's own name in a bundle.
pub(super) const MANIFEST: &str = "bundle.json";
/// Most bytes of a manifest: half of what the description of an image may take here.
pub(super) const MAX_MANIFEST: usize = 512 * 1024;
const BOUNDS: JsonBounds = JsonBounds { len: MAX_MANIFEST, depth: 16, values: 1 << 15 };
/// Longest description of where an image comes from.
const MAX_SOURCE: usize = 256;
const SCHEMA: &str = "banger-bundle/";
const FORM: u64 = 1;

/// What a bundle has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BundleManifest {
    /// The machines that it is for.
    pub architecture: String,
    /// What it is.
    pub content: BundleContent,
    /// Its files, in the order in which they come.
    pub members: Vec<Member>,
}

/// What a bundle is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BundleContent {
    /// An image.
    Image(Box<ImageContent>),
    /// A kernel.
    Kernel(KernelInfo),
}

/// What is said of an image in a bundle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageContent {
    /// Where it comes from, for people to read.
    pub source: String,
    /// How it wants to be run.
    pub config: ImageConfig,
    /// The kernel that it wants, if it wants a certain one.
    pub kernel: Option<KernelName>,
}

/// One file of a bundle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its name, which is one of those that such a bundle has.
    pub name: &'static str,
    /// Its bytes.
    pub size: u64,
    /// Its digest.
    pub sha256: Sha256Digest,
}

impl BundleContent {
    /// The members of such a bundle beside its manifest.
    pub(super) fn files(&self) -> &'static [&'static str] {
        match self {
            Self::Image(_) => &[ROOT],
            Self::Kernel(_) => &KERNEL_FILES,
        }
    }
}

#[derive(Deserialize)]
struct Head {
    schema: String,
}

#[derive(Deserialize)]
struct Raw {
    architecture: String,
    members: Vec<RawMember>,
    image: Option<RawImage>,
    kernel: Option<KernelInfo>,
}

#[derive(Deserialize)]
struct RawMember {
    name: String,
    size: u64,
    sha256: String,
}

#[derive(Deserialize)]
struct RawImage {
    source: String,
    config: ImageConfig,
    kernel: Option<KernelName>,
}

impl BundleManifest {
    /// Reads it.
    ///
    /// # Errors
    /// When it is none, or says what makes no sense.
    pub fn parse(bytes: &[u8]) -> Result<Self, DocumentError> {
        let Head { schema } = strict_json(bytes, BOUNDS)?;
        check_schema(&schema, SCHEMA, FORM)?;
        let Raw { architecture, members, image, kernel } = strict_json(bytes, BOUNDS)?;
        if !is_word(&architecture) {
            return Err(field("architecture", "no word"));
        }
        let content = match (image, kernel) {
            (Some(image), None) => BundleContent::Image(Box::new(image_content(image)?)),
            (None, Some(kernel)) => BundleContent::Kernel(kernel_info(kernel)?),
            _ => return Err(field("image", "to be there, or kernel, but not both")),
        };
        let members = self::members(members, content.files())?;
        Ok(Self { architecture, content, members })
    }

    /// As [`BundleManifest::parse`] reads it: of the same bundle it is always the same bytes.
    pub fn to_json(&self) -> Vec<u8> {
        let member = |it: &Member| json!({ "name": it.name, "size": it.size, "sha256": it.sha256.to_string() });
        let mut document = json!({
            "schema": format!("{SCHEMA}{FORM}"),
            "architecture": self.architecture,
            "members": self.members.iter().map(member).collect::<Vec<_>>(),
        });
        match &self.content {
            BundleContent::Image(content) => {
                let ImageContent { source, config, kernel } = &**content;
                document["image"] = json!({ "source": source, "config": config, "kernel": kernel });
            }
            BundleContent::Kernel(info) => document["kernel"] = json!(info),
        }
        format!("{document:#}\n").into_bytes()
    }

    /// Bytes of all its files.
    pub fn size(&self) -> u64 {
        self.members.iter().fold(0, |sum, member| sum.saturating_add(member.size))
    }
}

/// The members have to be exactly these. None of their names is ever used: what is written has one
/// of the names that are known.
fn members(raw: Vec<RawMember>, files: &'static [&str]) -> Result<Vec<Member>, DocumentError> {
    if raw.len() != files.len() || raw.iter().zip(files).any(|(it, name)| it.name != *name) {
        return Err(field("members", format!("not {} in this order", files.join(", "))));
    }
    let member = |(raw, name): (RawMember, &&'static str)| {
        let sha256 = raw.sha256.parse();
        let sha256 =
            sha256.map_err(|e: banger_trust::ParseSha256Error| field("sha256", e.to_string()))?;
        Ok(Member { name, size: raw.size, sha256 })
    };
    raw.into_iter().zip(files).map(member).collect()
}

fn image_content(raw: RawImage) -> Result<ImageContent, DocumentError> {
    let RawImage { source, config, kernel } = raw;
    if source.len() > MAX_SOURCE || source.contains(char::is_control) {
        return Err(field("source", format!("not one line of at most {MAX_SOURCE} bytes")));
    }
    check_config(&config)?;
    Ok(ImageContent { source, config, kernel })
}

/// What would not pass the system's interfaces when a process is started.
fn check_config(config: &ImageConfig) -> Result<(), DocumentError> {
    let bad_name = |name: &String| name.is_empty() || name.contains(['=', '\0']);
    if config.env.keys().any(bad_name) {
        return Err(field("env", "with a name that no variable has"));
    }
    let words = config.env.values().chain(&config.shell).chain(&config.entrypoint);
    let mut words = words.chain(&config.cmd).chain([&config.user, &config.workdir]);
    if words.any(|word| word.contains('\0')) {
        return Err(field("config", "with a NUL in it"));
    }
    if !config.workdir.is_empty() && !config.workdir.starts_with('/') {
        return Err(field("workdir", "no absolute path"));
    }
    Ok(())
}

fn kernel_info(info: KernelInfo) -> Result<KernelInfo, DocumentError> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"._+~-".contains(&b);
    let is_release = !info.release.is_empty()
        && info.release.len() <= 64
        && !info.release.starts_with('.')
        && info.release.bytes().all(plain);
    if is_release { Ok(info) } else { Err(field("release", "none that a kernel has")) }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::Value;

    fn image() -> BundleManifest {
        let content = ImageContent {
            source: "a test".to_owned(),
            config: ImageConfig::default(),
            kernel: Some("debian-cloud".parse().unwrap()),
        };
        let member = Member { name: ROOT, size: 5, sha256: Sha256Digest::of(b"hello") };
        BundleManifest {
            architecture: "amd64".to_owned(),
            content: BundleContent::Image(Box::new(content)),
            members: vec![member],
        }
    }

    pub(in crate::catalog) fn info() -> KernelInfo {
        serde_json::from_value(json!({
            "release": "6.1.0-1-cloud-amd64", "package": "linux", "version": "1",
            "package_sha256": "abc", "boot_modules": ["virtio_blk"],
        }))
        .unwrap()
    }

    fn kernel() -> BundleManifest {
        let sha256 = Sha256Digest::of(b"");
        let member = |name: &&'static str| Member { name, size: 0, sha256 };
        BundleManifest {
            architecture: "amd64".to_owned(),
            content: BundleContent::Kernel(info()),
            members: KERNEL_FILES.iter().map(member).collect(),
        }
    }

    #[test]
    fn what_is_written_reads_back() {
        for manifest in [image(), kernel()] {
            assert_eq!(BundleManifest::parse(&manifest.to_json()), Ok(manifest));
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        type Change = fn(&mut Value);
        let cases: [(Change, &str); 14] = [
            (|it| it["schema"] = json!("banger-bundle/2"), "update banger"),
            (|it| it["schema"] = json!("banger-catalog/1"), "instead of banger-bundle/1"),
            (|it| it["architecture"] = json!("../x"), "no word"),
            (|it| it["members"][0]["name"] = json!("../../etc/passwd"), "not root.ext4"),
            (|it| it["members"] = json!([]), "not root.ext4"),
            (|it| it["members"][0]["sha256"] = json!("x"), "64 hexadecimal"),
            (|it| it["members"][0]["size"] = json!(-1), "-1"),
            (|it| it["image"] = json!(null), "but not both"),
            (|it| it["kernel"] = json!(info()), "but not both"),
            (|it| it["image"]["source"] = json!("a\nb"), "one line"),
            (|it| it["image"]["kernel"] = json!("../x"), "not a name"),
            (|it| it["image"]["config"]["env"] = json!({ "A=B": "" }), "no variable has"),
            (|it| it["image"]["config"]["cmd"] = json!(["a\0"]), "a NUL"),
            (|it| it["image"]["config"]["workdir"] = json!("x"), "no absolute path"),
        ];
        for (change, expected) in cases {
            let mut document: Value = serde_json::from_slice(&image().to_json()).unwrap();
            change(&mut document);
            let refused = BundleManifest::parse(document.to_string().as_bytes());
            let said = refused.unwrap_err().to_string();
            assert!(said.contains(expected), "{said:?} lacks {expected:?}");
        }
        for bad in ["", "..", "../x", "a b", "6.1/x"] {
            let mut document: Value = serde_json::from_slice(&kernel().to_json()).unwrap();
            document["kernel"]["release"] = json!(bad);
            let refused = BundleManifest::parse(document.to_string().as_bytes());
            assert!(refused.unwrap_err().to_string().contains("release"), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn bytes_that_are_taken_mean_what_is_written_of_them(
            at in any::<prop::sample::Index>(),
            byte in any::<u8>(),
        ) {
            for manifest in [image(), kernel()] {
                let mut near = manifest.to_json();
                let at = at.index(near.len());
                near[at] = byte;
                if let Ok(taken) = BundleManifest::parse(&near) {
                    prop_assert_eq!(BundleManifest::parse(&taken.to_json()), Ok(taken));
                }
            }
        }
    }
}
