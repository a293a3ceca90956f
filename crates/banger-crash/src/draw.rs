//! Numbers that look random and are the same for the same seed, so that a round can be repeated
//! from its number.

/// A source of such numbers (SplitMix64).
#[derive(Clone, Debug)]
pub(crate) struct Draw(u64);

impl Draw {
    /// The source of this seed.
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`; zero where there is none.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        if bound == 0 { 0 } else { self.next() % bound }
    }

    /// True so many times in a hundred.
    pub(crate) fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    /// One of these; none where there are none.
    pub(crate) fn pick<'a, T>(&mut self, from: &'a [T]) -> Option<&'a T> {
        let index = usize::try_from(self.below(from.len() as u64)).unwrap_or(0);
        from.get(index)
    }

    /// Bytes.
    pub(crate) fn bytes<const N: usize>(&mut self) -> [u8; N] {
        let mut bytes = [0; N];
        for chunk in bytes.chunks_mut(8) {
            let drawn = self.next().to_le_bytes();
            chunk.copy_from_slice(&drawn[..chunk.len()]);
        }
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_draws_the_same_and_another_does_not() {
        let numbers = |seed| {
            let mut draw = Draw::new(seed);
            [draw.next(), draw.next(), draw.below(10)]
        };
        assert_eq!(numbers(7), numbers(7));
        assert_ne!(numbers(7)[..2], numbers(8)[..2]);
    }

    #[test]
    fn every_one_is_picked_some_time() {
        let mut draw = Draw::new(1);
        let picked: std::collections::BTreeSet<_> =
            (0..100).filter_map(|_| draw.pick(&[1, 2, 3]).copied()).collect();
        assert_eq!(picked.len(), 3);
        assert_eq!(draw.pick::<u8>(&[]), None);
        assert!(!draw.chance(0) && draw.chance(100));
    }
}
