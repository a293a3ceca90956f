//! ext4 file systems made as plain files: no root, no mounting, no loop device.
//!
//! Two kinds are made. A read-only image comes straight from a tree and keeps everything its
//! archives say: owners, modes, nanoseconds, extended attributes, hard links, devices. Its bytes
//! depend on the tree alone. A writable disk is empty, sparse, and there within milliseconds.

mod acl;
mod declare;
mod disk;
mod plan;
mod spelling;
mod write;

pub use acl::acl_to_ext4;
pub(crate) use disk::ext4_is_clean;
pub use disk::{CreateDiskError, create_disk, create_volume, grow_volume};
pub use write::{WriteImageError, write_image, write_image_until};

#[cfg(test)]
mod tests;
