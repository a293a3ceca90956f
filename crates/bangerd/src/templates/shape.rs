//! What shapes a guest up to the moment at which it becomes a sandbox.

use anyhow::{Context as _, Result};
use banger_model::{Accelerator, CpuCount, DiskSize, MemorySize, TemplateId};
use banger_vmm::{Board, Machine};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::assets::Assets;
use crate::origin::Origin;

/// Changes with anything in how a template is made that none of the fields below tells.
const FORMAT: u32 = 2;

/// Everything that shaped a template. Two sandboxes with the same shape are made from the same
/// one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shape {
    format: u32,
    /// What the guest can tell of its machine ([`banger_vmm::Vmm::appearance`]).
    machine: String,
    /// The host's processor, whose features the guest was told.
    processor: String,
    /// What distinguishes its features, where the guest has them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    features: Option<String>,
    kernel: String,
    /// The first file system, agent included: its file is named by its digest.
    initramfs: String,
    image: String,
    /// Virtual CPUs.
    pub cpus: CpuCount,
    /// Memory.
    pub memory: MemorySize,
    /// Size of the writable disk, which a guest keeps that it has seen once.
    pub disk: DiskSize,
}

impl Shape {
    /// That of this machine, made of these assets.
    ///
    /// # Errors
    /// When the host does not tell about itself.
    pub(crate) fn of(assets: &Assets, machine: &Machine, disk: DiskSize) -> Result<Self> {
        let initramfs = assets.initramfs.file_name().context("the initramfs has no name")?;
        Ok(Self {
            format: FORMAT,
            machine: assets.vmm.appearance(machine),
            processor: assets.processor.clone(),
            features: assets.features.clone(),
            kernel: assets.kernel.identity().to_owned(),
            initramfs: initramfs.to_string_lossy().into_owned(),
            image: assets.image.identity().to_owned(),
            cpus: machine.cpus,
            memory: machine.memory,
            disk,
        })
    }

    /// That of a machine which is of this origin and would be of this shape if it began now.
    pub(crate) fn of_origin(self, origin: Origin) -> Self {
        let Origin { processor, features, kernel, image, cpus, memory, disk, .. } = origin;
        Self { processor, features, kernel, image, cpus, memory, disk, ..self }
    }

    /// What the memory of a machine of this shape belongs to, as far as that tells.
    pub(crate) fn origin(&self, accelerator: Accelerator) -> Origin {
        let Self { processor, features, kernel, image, cpus, memory, disk, .. } = self.clone();
        let (board, tsc_khz) = (Board::FIRST, None);
        Origin {
            board,
            accelerator,
            processor,
            features,
            tsc_khz,
            kernel,
            image,
            cpus,
            memory,
            disk,
        }
    }

    /// The identity of the image that it is made of.
    pub(crate) fn image(&self) -> &str {
        &self.image
    }

    /// The name of the template of this shape.
    ///
    /// # Errors
    /// Never: a shape can be written down.
    pub fn template(&self) -> Result<TemplateId> {
        let digest = Sha256::digest(serde_json::to_vec(self)?);
        let (first, _) = digest.split_first_chunk().context("a digest is longer than a name")?;
        Ok(TemplateId::from_random(*first))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn shape() -> Shape {
        Shape {
            format: FORMAT,
            machine: "qemu 7.2".to_owned(),
            processor: "a processor".to_owned(),
            features: None,
            kernel: "k".to_owned(),
            initramfs: "i".to_owned(),
            image: "m".to_owned(),
            cpus: CpuCount::ONE,
            memory: MemorySize::DEFAULT,
            disk: DiskSize::DEFAULT,
        }
    }

    #[test]
    fn a_shape_takes_over_all_that_memory_belongs_to() {
        let Shape { format, machine, initramfs, .. } = shape();
        let later = Shape {
            format,
            machine,
            processor: "another".to_owned(),
            features: Some("f".to_owned()),
            kernel: "l".to_owned(),
            initramfs,
            image: "n".to_owned(),
            cpus: CpuCount::TWO,
            memory: "1G".parse().unwrap(),
            disk: "9G".parse().unwrap(),
        };
        assert_eq!(later.of_origin(shape().origin(Accelerator::Tcg)), shape());
    }

    #[test]
    fn whatever_shapes_a_guest_makes_another_template() {
        let all = [
            shape(),
            Shape { machine: "qemu 7.3".to_owned(), ..shape() },
            Shape { processor: "another".to_owned(), ..shape() },
            Shape { features: Some("f".to_owned()), ..shape() },
            Shape { kernel: "l".to_owned(), ..shape() },
            Shape { initramfs: "j".to_owned(), ..shape() },
            Shape { image: "n".to_owned(), ..shape() },
            Shape { cpus: CpuCount::TWO, ..shape() },
            Shape { memory: "1G".parse().unwrap(), ..shape() },
            Shape { disk: "9G".parse().unwrap(), ..shape() },
        ];
        let names: std::collections::BTreeSet<_> =
            all.iter().map(|shape| shape.template().unwrap()).collect();
        assert_eq!(names.len(), all.len());
        assert_eq!(shape().template().unwrap(), shape().template().unwrap());
    }
}
