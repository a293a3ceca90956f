//! Readable names for sandboxes that were given none.

use crate::name::SandboxName;

const FIRST: [&str; 64] = [
    "amber", "bold", "brave", "brisk", "calm", "clear", "clever", "cool", "crisp", "dapper",
    "deep", "eager", "early", "fair", "fast", "fine", "firm", "fond", "free", "fresh", "gentle",
    "glad", "golden", "good", "grand", "green", "happy", "hardy", "honest", "humble", "jolly",
    "keen", "kind", "late", "light", "lively", "loyal", "lucky", "mellow", "merry", "mild", "neat",
    "nimble", "noble", "patient", "plain", "proud", "quick", "quiet", "rapid", "ready", "round",
    "sharp", "shiny", "silent", "smart", "snug", "solid", "steady", "sunny", "swift", "warm",
    "wild", "wise",
];

const SECOND: [&str; 64] = [
    "acorn", "alder", "ant", "badger", "bass", "beaver", "bee", "birch", "bison", "cedar",
    "clover", "crane", "crow", "deer", "dove", "eagle", "elm", "falcon", "fern", "finch", "fox",
    "frog", "gull", "hare", "hawk", "hazel", "heron", "holly", "ibex", "ivy", "jay", "kite",
    "lark", "lily", "lynx", "maple", "mole", "moss", "moth", "newt", "oak", "otter", "owl",
    "panda", "perch", "pike", "pine", "plover", "raven", "reed", "robin", "rowan", "seal",
    "sparrow", "stoat", "swan", "tern", "thrush", "toad", "trout", "vole", "willow", "wolf",
    "wren",
];

/// The name that these random bytes make: two words, and with each failed attempt more digits, so
/// that a free one is found soon however many are taken.
pub fn generate_name(random: [u8; 8], attempt: usize) -> SandboxName {
    let pick = |byte: u8, words: &[&'static str; 64]| words[usize::from(byte) % words.len()];
    let mut text = format!("{}-{}", pick(random[0], &FIRST), pick(random[1], &SECOND));
    for (n, byte) in random[2..].iter().take(attempt).enumerate() {
        let gap = if n == 0 { "-" } else { "" };
        text.push_str(&format!("{gap}{byte:02x}"));
    }
    SandboxName::generated(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_generated_name_is_a_name() {
        for byte in 0..=255 {
            for attempt in [0, 1, 6, 100] {
                let name = generate_name([byte; 8], attempt);
                assert_eq!(name.as_str().parse(), Ok(name));
            }
        }
    }

    #[test]
    fn there_are_as_many_as_there_are_words() {
        let names: BTreeSet<_> = (0..64u8)
            .flat_map(|a| (0..64).map(move |b| generate_name([a, b, 0, 0, 0, 0, 0, 0], 0)))
            .collect();
        assert_eq!(names.len(), 64 * 64);
    }
}
