//! Where an image comes from.

use std::fs::File;
use std::path::PathBuf;
use std::str::FromStr;

use banger_model::{ImageReference, ParseReferenceError};
use thiserror::Error;

/// Where an image comes from.
#[derive(Debug)]
pub enum Source {
    /// A registry.
    Registry(ImageReference),
    /// A layout of the OCI in a directory.
    Layout {
        /// The directory.
        dir: PathBuf,
        /// Which of its images.
        tag: Option<String>,
    },
    /// A layout of the OCI in a tar.
    OciArchive {
        /// The file, which may be compressed.
        file: PathBuf,
        /// Which of its images.
        tag: Option<String>,
    },
    /// What `docker save` writes.
    DockerArchive {
        /// The file, which may be compressed.
        file: PathBuf,
        /// Which of its images.
        reference: Option<ImageReference>,
    },
    /// An archive of either kind that is open already, such as standard input. It is read from
    /// where it stands to its end.
    Open {
        /// The file or pipe.
        file: File,
        /// What messages call it.
        name: String,
    },
}

/// Why a text names no image.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum ParseSourceError {
    /// Nothing behind the colon.
    #[error("{0}: needs a path behind the colon")]
    NoPath(&'static str),
    /// An image in a registry, or in an archive.
    #[error(transparent)]
    Reference(#[from] ParseReferenceError),
}

impl FromStr for Source {
    type Err = ParseSourceError;

    /// `oci:DIR[:TAG]`, `oci-archive:FILE[:TAG]`, `docker-archive:FILE[:REFERENCE]`, or a reference
    /// to a registry.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Some(rest) = text.strip_prefix("oci:") {
            let (dir, tag) = split("oci", rest)?;
            return Ok(Self::Layout { dir, tag: tag.map(str::to_owned) });
        }
        if let Some(rest) = text.strip_prefix("oci-archive:") {
            let (file, tag) = split("oci-archive", rest)?;
            return Ok(Self::OciArchive { file, tag: tag.map(str::to_owned) });
        }
        if let Some(rest) = text.strip_prefix("docker-archive:") {
            let (file, reference) = split("docker-archive", rest)?;
            let reference = reference.map(str::parse).transpose()?;
            return Ok(Self::DockerArchive { file, reference });
        }
        Ok(Self::Registry(text.parse()?))
    }
}

/// A path, and what stands behind the first colon after it.
fn split<'a>(
    kind: &'static str,
    text: &'a str,
) -> Result<(PathBuf, Option<&'a str>), ParseSourceError> {
    let (path, rest) = text.split_once(':').map_or((text, None), |(path, rest)| (path, Some(rest)));
    if path.is_empty() {
        return Err(ParseSourceError::NoPath(kind));
    }
    Ok((path.into(), rest.filter(|rest| !rest.is_empty())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn local_images_are_told_from_registries_by_their_prefix() {
        let shown = |text: &str| format!("{:?}", text.parse::<Source>().unwrap());
        assert_eq!(shown("oci:/a/b:v1"), "Layout { dir: \"/a/b\", tag: Some(\"v1\") }");
        assert_eq!(shown("oci-archive:x.tar"), "OciArchive { file: \"x.tar\", tag: None }");
        assert_eq!(
            shown("docker-archive:x.tar:alpine:3"),
            "DockerArchive { file: \"x.tar\", reference: Some(docker.io/library/alpine:3) }"
        );
        assert_eq!(shown("localhost:5000/oci"), "Registry(localhost:5000/oci:latest)");
        assert!("oci:".parse::<Source>().is_err() && "oci-archive::x".parse::<Source>().is_err());
        assert!("docker-archive:x:Y".parse::<Source>().is_err());
    }
}
