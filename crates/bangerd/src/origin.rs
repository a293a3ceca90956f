//! What a machine is from its first instruction on, however often its memory is saved and taken up.
//!
//! Whether a monitor can take up what it or another one has saved is for the monitor to say, when it
//! loads it. What is here is what a monitor cannot notice: the guest would find out, later.

use banger_model::{Accelerator, CpuCount, DiskSize, MemorySize, SandboxSpec};
use banger_vmm::Emulation;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::assets::Assets;

/// What the memory of a machine belongs to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Origin {
    /// What executes it.
    pub(crate) accelerator: Accelerator,
    /// The host's processor, whose features and whose clock the guest was told.
    pub(crate) processor: String,
    /// The identity of the kernel that it runs, and whose modules it has mounted.
    pub(crate) kernel: String,
    /// The identity of the image that it has mounted.
    pub(crate) image: String,
    /// Virtual CPUs.
    pub(crate) cpus: CpuCount,
    /// Memory.
    pub(crate) memory: MemorySize,
    /// Size of the writable disk.
    pub(crate) disk: DiskSize,
}

/// Why memory is of no use here.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub(crate) enum Misfit {
    /// So is its disk.
    #[error("its image is not the one that is here")]
    Image,
    /// Its modules are gone.
    #[error("the kernel that it runs is not here any more")]
    Kernel,
    /// Only what executed it can.
    #[error("{0} executed it, which cannot be used here now; `banger doctor` says why")]
    Accelerator(Accelerator),
    /// It believes itself on another processor.
    #[error("it ran on another processor ({was}) than this host has ({here})")]
    Processor {
        /// That of the host where it began.
        was: String,
        /// That of this one.
        here: String,
    },
}

impl Origin {
    /// That of a machine which begins now.
    pub(crate) fn of(assets: &Assets, spec: &SandboxSpec) -> Self {
        Self {
            accelerator: assets.accelerator,
            processor: assets.processor.clone(),
            kernel: assets.kernel.identity().to_owned(),
            image: assets.image.identity().to_owned(),
            cpus: spec.cpus_under(assets.accelerator),
            memory: spec.memory,
            disk: spec.disk,
        }
    }

    /// Whether a machine of this origin can go on as a sandbox that is made of this.
    pub(crate) fn fits(&self, assets: &Assets, spec: &SandboxSpec) -> Result<(), Misfit> {
        self.fits_into(&Self::of(assets, spec), assets.vmm.capabilities().emulation)
    }

    /// Whether a machine of this origin can go on where one that begins now would be of that. Its
    /// size is its own: it goes on with that.
    fn fits_into(&self, here: &Self, emulation: Emulation) -> Result<(), Misfit> {
        let emulated = self.accelerator == Accelerator::Tcg && emulation == Emulation::Available;
        if self.image != here.image {
            return Err(Misfit::Image);
        }
        if self.kernel != here.kernel {
            return Err(Misfit::Kernel);
        }
        if self.accelerator != here.accelerator && !emulated {
            return Err(Misfit::Accelerator(self.accelerator));
        }
        if self.processor != here.processor {
            let (was, here) = (self.processor.clone(), here.processor.clone());
            return Err(Misfit::Processor { was, here });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin() -> Origin {
        Origin {
            accelerator: Accelerator::Tcg,
            processor: "a processor".to_owned(),
            kernel: "k".to_owned(),
            image: "m".to_owned(),
            cpus: CpuCount::ONE,
            memory: MemorySize::DEFAULT,
            disk: DiskSize::DEFAULT,
        }
    }

    #[test]
    fn memory_goes_on_where_its_guest_finds_nothing_changed() {
        let fits = |origin: Origin| origin.fits_into(&self::origin(), Emulation::Available);
        let of_another_size = Origin {
            cpus: CpuCount::TWO,
            memory: "1G".parse().unwrap(),
            disk: "9G".parse().unwrap(),
            ..origin()
        };
        assert_eq!(fits(of_another_size), Ok(()));
        assert_eq!(fits(Origin { image: "n".to_owned(), ..origin() }), Err(Misfit::Image));
        assert_eq!(fits(Origin { kernel: "l".to_owned(), ..origin() }), Err(Misfit::Kernel));
        let of_another_host = Origin { processor: "another".to_owned(), ..origin() };
        let said = fits(of_another_host).unwrap_err().to_string();
        assert_eq!(said, "it ran on another processor (another) than this host has (a processor)");
    }

    #[test]
    fn what_was_emulated_can_be_wherever_that_is_possible() {
        let (tcg, kvm) = (origin(), Origin { accelerator: Accelerator::Kvm, ..origin() });
        assert_eq!(tcg.fits_into(&kvm, Emulation::Available), Ok(()));
        assert_eq!(kvm.fits_into(&kvm, Emulation::None), Ok(()));
        let of = |accelerator| Err(Misfit::Accelerator(accelerator));
        assert_eq!(tcg.fits_into(&kvm, Emulation::None), of(Accelerator::Tcg));
        assert_eq!(kvm.fits_into(&tcg, Emulation::Available), of(Accelerator::Kvm));
    }
}
