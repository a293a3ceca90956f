//! Our editor of environment blocks beside the real `grub-editenv`, on random blocks, both ways.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers, too")]
#![expect(clippy::disallowed_methods, reason = "tests run the tools that users have")]

use std::path::Path;
use std::process::Command;

use banger_update::{BLOCK_LEN, EnvBlock};

/// Blocks that are compared, by each of two threads: most of the time the tool is being started.
const BLOCKS: u32 = 5_000;
const SEEDS: [u64; 2] = [0x9e37_79b9_7f4a_7c15, 0xd1b5_4a32_d192_ed03];
/// Most variables that are set from one block to the next.
const AT_ONCE: u64 = 20;

/// Numbers that look random and are the same in each run.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, bound: u64) -> u64 {
        // xorshift64 of Marsaglia.
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }

    fn value(&mut self) -> String {
        let alphabet: Vec<char> = "abcXYZ0189 =#\\\n'\"$;é".chars().collect();
        let len = self.below(12);
        let pick = |numbers: &mut Self| {
            let at = usize::try_from(numbers.below(alphabet.len() as u64)).unwrap();
            alphabet[at]
        };
        (0..len).map(|_| pick(self)).collect()
    }
}

fn editenv(file: &Path, args: &[String]) -> bool {
    Command::new("grub-editenv").arg(file).args(args).output().unwrap().status.success()
}

#[test]
fn the_real_editor_and_ours_make_the_same_of_ten_thousand_blocks() {
    if Command::new("grub-editenv").arg("--version").output().is_err() {
        banger_testkit::skipped("grub-editenv is not installed: install grub-common");
        return;
    }
    let threads = SEEDS.map(|seed| std::thread::spawn(move || compare(seed)));
    threads.into_iter().for_each(|thread| thread.join().unwrap());
}

fn compare(seed: u64) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("env");
    let mut numbers = Numbers(seed);
    let mut compared = 0;
    while compared < BLOCKS {
        assert!(editenv(&path, &["create".into()]));
        let mut ours = EnvBlock::parse(&std::fs::read(&path).unwrap()).unwrap();
        assert_eq!(ours, EnvBlock::default(), "an empty block is the same");
        // Ours are written to the file, so that the real one goes on from them, and the other
        // way round.
        for round in 0..10 {
            let count = numbers.below(AT_ONCE) + 1;
            let changes: Vec<(String, String)> =
                (0..count).map(|_| (format!("v{}", numbers.below(9)), numbers.value())).collect();
            let names: Vec<String> = (0..numbers.below(15).saturating_sub(12))
                .map(|_| format!("v{}", numbers.below(9)))
                .collect();
            let sets = changes.iter().map(|(name, value)| format!("{name}={value}"));
            let real_set = editenv(&path, &[vec!["set".to_owned()], sets.collect()].concat());
            let our_set = changes.iter().try_for_each(|(name, value)| ours.set(name, value));
            assert_eq!(real_set, our_set.is_ok(), "{changes:?}");
            if !real_set {
                break;
            }
            if !names.is_empty() {
                assert!(editenv(&path, &[vec!["unset".to_owned()], names.clone()].concat()));
                names.iter().for_each(|name| ours.unset(name));
            }
            let real = std::fs::read(&path).unwrap();
            assert_eq!(real.len(), BLOCK_LEN);
            assert_eq!(
                String::from_utf8_lossy(&real),
                String::from_utf8_lossy(&ours.to_bytes()),
                "after {changes:?}"
            );
            compared += 1;
            if round % 2 == 0 {
                ours = EnvBlock::parse(&real).unwrap();
            } else {
                std::fs::write(&path, ours.to_bytes()).unwrap();
            }
        }
    }
}
