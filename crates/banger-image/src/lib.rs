//! Root file systems, kernels and initramfs: everything a sandbox is booted from.
//!
//! All of it is made from Debian's own archive, with apt's signatures as the trust, and without
//! root: nothing is mounted, nothing is installed on the host. What is made lies in the home as
//! an *artifact*: a directory that is there whole or not at all, whose `meta.json` says what is
//! in it. Bytes from outside are decoded by pure functions over byte slices: [`archive`],
//! [`kernel::bzimage`], [`kernel::modinfo`].
#![warn(missing_docs)]

pub mod archive;
mod artifact;
mod budget;
pub mod catalog;
mod digest;
pub mod ext4;
mod hosttools;
pub mod image;
mod initramfs;
pub mod kernel;
pub mod oci;
mod space;
pub mod tree;
mod until;

pub use artifact::{ArtifactKind, FileRecord, OpenError};
pub use hosttools::{MissingPackages, PATH as TOOLS_PATH, require_all as require_tools};
pub use image::{Image, ImageConfig};
pub use kernel::Kernel;
pub use space::NoSpace;
pub use until::Until;
