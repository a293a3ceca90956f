//! What a machine is from its first instruction on, however often its memory is saved and taken up.
//!
//! Whether a monitor can take up what it or another one has saved is for the monitor to say, when it
//! loads it. What is here is what a monitor cannot notice: the guest would find out, later.

use banger_model::{Accelerator, CpuCount, DiskSize, MemorySize, SandboxSpec};
use banger_vmm::{Board, Emulation};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::assets::Assets;

/// Two measurements of one counter differ less than this part of it; what is left the guest's kernel
/// corrects.
const CLOCK_TOLERANCE: u64 = 1000;

/// What the memory of a machine belongs to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Origin {
    /// Which devices it has.
    #[serde(default)]
    pub(crate) board: Board,
    /// What executes it.
    pub(crate) accelerator: Accelerator,
    /// The host's processor.
    pub(crate) processor: String,
    /// What distinguishes its features, where the guest has them: under KVM.
    #[serde(default)]
    pub(crate) features: Option<String>,
    /// The frequency of the host's time stamp counter, in kHz, which an emulated guest reads. An
    /// older banger did not write that down.
    #[serde(default)]
    pub(crate) tsc_khz: Option<u64>,
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
    /// Nobody here knows its devices.
    #[error("a newer banger has made it, with devices that this one does not know")]
    Board,
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
    /// Its code may be of instructions that are none here.
    #[error("the features of this host's processor have changed since")]
    Features,
    /// Its clock would go wrong.
    #[error("the counter that its clock goes by has {here} kHz on this host, and had {was} kHz")]
    Clock {
        /// On the host where it began.
        was: u64,
        /// On this one.
        here: u64,
    },
}

impl Origin {
    /// That of a machine which begins now.
    pub(crate) fn of(assets: &Assets, spec: &SandboxSpec) -> Self {
        Self {
            board: Board::LATEST,
            accelerator: assets.accelerator,
            processor: assets.processor.clone(),
            features: assets.features.clone(),
            tsc_khz: Some(assets.tsc_khz),
            kernel: assets.kernel.identity().to_owned(),
            image: assets.image.identity().to_owned(),
            cpus: spec.cpus_under(assets.accelerator),
            memory: spec.memory,
            disk: assets.disk(spec),
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
        if self.board > here.board {
            return Err(Misfit::Board);
        }
        if self.accelerator != here.accelerator && !emulated {
            return Err(Misfit::Accelerator(self.accelerator));
        }
        match (self.accelerator, self.tsc_khz.zip(here.tsc_khz)) {
            (Accelerator::Tcg, Some(clocks)) => fits_clock(clocks),
            (Accelerator::Tcg, None) | (Accelerator::Kvm, _) => self.fits_processor(here),
        }
    }

    fn fits_processor(&self, here: &Self) -> Result<(), Misfit> {
        if self.processor != here.processor {
            let (was, here) = (self.processor.clone(), here.processor.clone());
            return Err(Misfit::Processor { was, here });
        }
        match self.features.is_none() || self.features == here.features {
            true => Ok(()),
            false => Err(Misfit::Features),
        }
    }
}

/// What is emulated asks nothing of the host's processor, but reads its counter.
fn fits_clock((was, here): (u64, u64)) -> Result<(), Misfit> {
    match was.abs_diff(here) <= was / CLOCK_TOLERANCE {
        true => Ok(()),
        false => Err(Misfit::Clock { was, here }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin() -> Origin {
        Origin {
            board: Board::LATEST,
            accelerator: Accelerator::Tcg,
            processor: "a processor".to_owned(),
            features: None,
            tsc_khz: Some(2_000_000),
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
        assert_eq!(fits(Origin { board: Board::FIRST, ..origin() }), Ok(()));
        let newer: Origin = {
            let mut json = serde_json::to_value(origin()).unwrap();
            json["board"] = (json["board"].as_u64().unwrap() + 1).into();
            serde_json::from_value(json).unwrap()
        };
        assert_eq!(fits(newer), Err(Misfit::Board));
        assert_eq!(fits(Origin { image: "n".to_owned(), ..origin() }), Err(Misfit::Image));
        assert_eq!(fits(Origin { kernel: "l".to_owned(), ..origin() }), Err(Misfit::Kernel));
    }

    #[test]
    fn a_clock_goes_by_one_counter_and_code_by_one_processor() {
        let said = |was: Origin, here: Origin| {
            let fits = was.fits_into(&here, Emulation::Available);
            fits.map_err(|misfit| misfit.to_string())
        };
        let tcg = |tsc_khz| Origin { tsc_khz, processor: "another".to_owned(), ..origin() };
        assert_eq!(said(tcg(Some(2_001_000)), origin()), Ok(()), "measured again");
        let other =
            "the counter that its clock goes by has 2000000 kHz on this host, and had 3000000 kHz";
        assert_eq!(said(tcg(Some(3_000_000)), origin()), Err(other.to_owned()));
        let other = "it ran on another processor (another) than this host has (a processor)";
        assert_eq!(said(tcg(None), origin()), Err(other.to_owned()));
        let kvm = |features: Option<&str>| {
            let features = features.map(str::to_owned);
            Origin { accelerator: Accelerator::Kvm, features, tsc_khz: Some(1), ..origin() }
        };
        assert_eq!(
            said(kvm(None), kvm(Some("f"))),
            Ok(()),
            "an older banger did not write it down"
        );
        let changed = "the features of this host's processor have changed since";
        assert_eq!(said(kvm(Some("g")), kvm(Some("f"))), Err(changed.to_owned()));
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
