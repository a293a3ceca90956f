//! How many bytes the layers of an image may unpack to, all of them together.
//!
//! A bound on each layer is none on an image, which may name one small layer again and again.

use std::collections::BTreeMap;

use banger_model::Bytes;

use super::layer::{Layer, UnpackError};
use crate::budget::Budget;
use crate::until::Until;

/// So many layers of an image may each be what one may be whatever its ratio.
const FREE_LAYERS: u64 = 4;

/// What the layers of an image may still unpack to. Those that are unpacked at once share it.
#[derive(Debug)]
pub struct Allowance<'a> {
    left: Budget,
    bound: Bound,
    until: Until<'a>,
}

/// What has been exceeded when nothing is left.
#[derive(Clone, Copy, Debug)]
enum Bound {
    Unpacked(Bytes),
    Ratio(u64),
}

impl<'a> Allowance<'a> {
    /// That of an image with these layers, by the limits that it was pulled with. A layer that occurs
    /// twice has been fetched once, and is the reason for as much as one.
    pub fn of(layers: &[Layer]) -> Self {
        let Some(limits) = layers.first().map(Layer::limits) else {
            let bound = Bound::Unpacked(Bytes::new(0));
            return Self { left: Budget::of(0), bound, until: Until::default() };
        };
        let fetched: BTreeMap<_, _> =
            layers.iter().map(|layer| (layer.digest(), layer.size().get())).collect();
        let fetched = fetched.values().fold(0u64, |sum, size| sum.saturating_add(*size));
        let free = limits.ratio_free.get().saturating_mul(FREE_LAYERS);
        let by_ratio = fetched.saturating_mul(limits.max_ratio).saturating_add(free);
        let (left, bound) = match limits.max_unpacked {
            max if max.get() <= by_ratio => (max.get(), Bound::Unpacked(max)),
            _ => (by_ratio, Bound::Ratio(limits.max_ratio)),
        };
        Self { left: Budget::of(left), bound, until: Until::default() }
    }

    /// The same, of which nothing is left when nobody wants the image any more.
    #[must_use]
    pub fn until(self, until: Until<'a>) -> Self {
        Self { until, ..self }
    }

    /// Takes some bytes of it.
    pub(super) fn take(&self, bytes: u64) -> Result<(), UnpackError> {
        if self.until.is_over() {
            return Err(UnpackError::CalledOff);
        }
        self.left.take(bytes).map_err(|_| match self.bound {
            Bound::Unpacked(max) => UnpackError::ImageTooLarge { max },
            Bound::Ratio(ratio) => UnpackError::ImageBomb { ratio },
        })
    }
}
