//! Our editor of environment blocks beside the real `grub-editenv`, on random blocks, both ways.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers, too")]
#![expect(clippy::disallowed_methods, reason = "tests run the tools that users have")]

use std::path::PathBuf;
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

/// The real editor and ours, side by side: every block that the real one writes is compared.
struct Both {
    /// Where the block lies that the real one edits.
    file: PathBuf,
    ours: EnvBlock,
    compared: u32,
}

impl Both {
    /// Has the real one do something; whether it did.
    fn real(&self, args: &[String]) -> bool {
        let output = Command::new("grub-editenv").arg(&self.file).args(args).output();
        output.unwrap().status.success()
    }

    fn compare(&mut self, after: &str) {
        let real = std::fs::read(&self.file).unwrap();
        assert_eq!(real.len(), BLOCK_LEN);
        let ours = self.ours.to_bytes();
        assert_eq!(String::from_utf8_lossy(&real), String::from_utf8_lossy(&ours), "after {after}");
        self.compared += 1;
    }

    /// Sets random variables in both; false when neither takes them.
    fn set(&mut self, numbers: &mut Numbers) -> bool {
        let count = numbers.below(AT_ONCE) + 1;
        let changes: Vec<(String, String)> =
            (0..count).map(|_| (format!("v{}", numbers.below(9)), numbers.value())).collect();
        let sets = changes.iter().map(|(name, value)| format!("{name}={value}"));
        let real = self.real(&[vec!["set".to_owned()], sets.collect()].concat());
        let ours = changes.iter().try_for_each(|(name, value)| self.ours.set(name, value));
        assert_eq!(real, ours.is_ok(), "{changes:?}");
        if real {
            self.compare(&format!("{changes:?}"));
        }
        real
    }

    /// Removes random variables from both.
    fn unset(&mut self, numbers: &mut Numbers) {
        let names: Vec<String> = (0..numbers.below(15).saturating_sub(12))
            .map(|_| format!("v{}", numbers.below(9)))
            .collect();
        if !names.is_empty() {
            assert!(self.real(&[vec!["unset".to_owned()], names.clone()].concat()));
            names.iter().for_each(|name| self.ours.unset(name));
            self.compare(&format!("unset {names:?}"));
        }
    }
}

/// The real editor syncs what it writes; in memory that takes nothing.
fn fast_dir() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
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
    let dir = fast_dir();
    let mut numbers = Numbers(seed);
    let file = dir.path().join("env");
    let mut both = Both { file, ours: EnvBlock::default(), compared: 0 };
    while both.compared < BLOCKS {
        assert!(both.real(&["create".into()]));
        both.ours = EnvBlock::default();
        both.compare("create");
        for round in 0..10 {
            if !both.set(&mut numbers) {
                break;
            }
            both.unset(&mut numbers);
            // One goes on from what the other has written, and the other way round.
            if round % 2 == 0 {
                both.ours = EnvBlock::parse(&std::fs::read(&both.file).unwrap()).unwrap();
            } else {
                std::fs::write(&both.file, both.ours.to_bytes()).unwrap();
            }
        }
    }
}
