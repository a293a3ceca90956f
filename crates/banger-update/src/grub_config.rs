//! The script that GRUB runs: it reads the environment, counts a trial down, and starts a slot.
//!
//! It is plain GRUB 2.06: no arithmetic, no modules of one distribution. It never changes after
//! the installation, since both slots have to live with it.

use std::fmt::Write as _;

use thiserror::Error;

use crate::boot::MAX_TRIES;
use crate::grub::ENV_COPIES;
use crate::slot::Slot;

/// Longest command line that is added.
const MAX_ARGS: usize = 1024;

/// What the kernel is told besides what os-update tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelArgs(String);

/// A text that is not put into a script.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("arguments of the kernel are words of letters, digits and `._-=,:/@` here: {0:?}")]
pub struct KernelArgsError(String);

impl KernelArgs {
    /// Of these words.
    ///
    /// # Errors
    /// When GRUB's script could take them for something else.
    pub fn parse(text: &str) -> Result<Self, KernelArgsError> {
        let plain = |b: u8| b.is_ascii_alphanumeric() || b" ._-=,:/@".contains(&b);
        if text.len() > MAX_ARGS || !text.bytes().all(plain) {
            return Err(KernelArgsError(text.chars().take(80).collect()));
        }
        Ok(Self(text.trim_ascii().to_owned()))
    }

    /// The words.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The script, for a partition that GRUB has as `$root` when it runs.
///
/// The kernel is told: `os_update.slot`, the nonce that was in the environment, how it came to be
/// started (`os_update.boot`: `good`, the number of trials that are left after this one, or
/// `rescue`, if no slot is startable), and which slot could not be loaded (`os_update.failed`). `panic=10` brings a kernel that gives up back to GRUB.
pub fn grub_config(args: &KernelArgs) -> String {
    let mut text = String::from(
        "# Written by os-update when the machine was installed; both slots rely on it.\n\
         set timeout=0\n",
    );
    text.push_str(READ);
    for slot in Slot::ALL {
        choose(&mut text, slot);
    }
    text.push_str(CHOOSE);
    let saved = "gen end order slot_a slot_b nonce";
    let saves = ENV_COPIES.map(|copy| {
        format!(
            "  if [ -f \"($root)/{copy}\" ]; then save_env --file \"($root)/{copy}\" {saved}; fi\n"
        )
    });
    let loads = ENV_COPIES.map(|copy| format!("load_env --file \"($root)/{copy}\" {saved}"));
    let args = &args.0;
    let counts: Vec<String> = (0..=MAX_TRIES).map(|left| left.to_string()).collect();
    text.replace("@SAVES@", &saves.concat())
        .replace("@COUNTS@", &counts.join(" "))
        .replace("@LOAD1@", &loads[0])
        .replace("@LOAD2@", &loads[1])
        .replace("@ARGS@", args)
}

/// Which copy counts, and what if none does: by the same test as [`crate::Grub`], which must not read
/// another copy than GRUB.
const READ: &str = r#"
function forget {
  unset gen; unset end; unset order; unset slot_a; unset slot_b; unset nonce
}
function know {
  set known=no
  if [ "$1" = "good" -o "$1" = "bad" ]; then set known=yes; fi
  for left in @COUNTS@; do if [ "$1" = "$left" ]; then set known=yes; fi; done
  if [ "$known" = "no" ]; then set env_ok=no; fi
}
function judge {
  set env_ok=no
  if [ -n "$gen" -a "$gen" = "$end" -a -n "$nonce" ]; then
    if [ "$order" = "ab" -o "$order" = "ba" ]; then set env_ok=yes; fi
  fi
  know "$slot_a"
  know "$slot_b"
}
forget
@LOAD1@
judge
if [ "$env_ok" = "no" ]; then
  forget
  @LOAD2@
  judge
fi
if [ "$env_ok" = "no" ]; then
  set gen=0; set end=0; set order=ab; set slot_a=good; set slot_b=good; set nonce=none
fi
"#;

/// A function for one slot: whether it may start, and what is left afterwards.
fn choose(text: &mut String, slot: Slot) {
    let letter = slot.letter();
    // Writing to a string cannot fail.
    let _ = writeln!(text, "function look_{letter} {{");
    let _ = writeln!(text, "  set next=");
    let _ = writeln!(text, "  if [ \"$slot_{letter}\" = \"good\" ]; then set next=good");
    for left in 1..=MAX_TRIES {
        let next = left - 1;
        let _ = writeln!(text, "  elif [ \"$slot_{letter}\" = \"{left}\" ]; then set next={next}");
    }
    let _ = writeln!(text, "  fi\n}}");
    let _ = writeln!(text, "function count_{letter} {{");
    let _ = writeln!(text, "  set slot_{letter}=\"$next\"\n@SAVES@");
    let _ = writeln!(text, "  unset slot_{letter}\n  @LOAD1@");
    let _ = writeln!(text, "  if [ \"$slot_{letter}\" != \"$next\" ]; then @LOAD2@; fi");
    let _ = writeln!(text, "  if [ \"$slot_{letter}\" != \"$next\" ]; then set next=; fi\n}}");
}

/// A trial is counted down before it begins; one that cannot be counted is not begun.
const CHOOSE: &str = r#"
set failed=
function start {
  if linux "($root)/os/$slot/vmlinuz" @ARGS@ panic=10 os_update.slot=$slot os_update.nonce=$nonce os_update.boot=$how os_update.failed=$failed; then
    if initrd "($root)/os/$slot/kubesolo-os.gz"; then boot; fi
  fi
  set failed=$slot
}
function attempt_a {
  look_a
  if [ -n "$next" -a "$next" != "good" ]; then count_a; fi
  if [ -n "$next" ]; then set slot=a; set how="$next"; start; fi
}
function attempt_b {
  look_b
  if [ -n "$next" -a "$next" != "good" ]; then count_b; fi
  if [ -n "$next" ]; then set slot=b; set how="$next"; start; fi
}
if [ "$order" = "ba" ]; then
  attempt_b
  attempt_a
else
  attempt_a
  attempt_b
fi
set how=rescue
if [ "$order" = "ba" ]; then
  set slot=a; start
  set slot=b; start
else
  set slot=b; start
  set slot=a; start
fi
echo "no slot can be started"
"#;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_but_plain_words_gets_into_the_script() {
        let args = KernelArgs::parse("console=ttyS0,115200 root=LABEL=data ").unwrap();
        let script = grub_config(&args);
        assert!(script.contains("vmlinuz\" console=ttyS0,115200 root=LABEL=data panic=10 "));
        assert!(!script.contains('@'), "everything is filled in: {script}");
        for bad in ["a;reboot", "$x", "a\nb", "\"", "`x`", "{", &"a".repeat(2000)] {
            assert!(KernelArgs::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn every_value_that_os_update_writes_is_known() {
        let script = grub_config(&KernelArgs::parse("").unwrap());
        assert!(script.contains("for left in 0 1 2 3 4 5 6 7 8 9; do"), "{script}");
        assert!(script.contains("know \"$slot_a\"\n  know \"$slot_b\""));
    }

    #[test]
    fn every_number_of_trials_is_counted_down() {
        let script = grub_config(&KernelArgs::parse("").unwrap());
        for left in 1..=MAX_TRIES {
            for slot in ["a", "b"] {
                let line = format!("[ \"$slot_{slot}\" = \"{left}\" ]; then set next={}", left - 1);
                assert!(script.contains(&line), "{line}");
            }
        }
        assert!(!script.contains("= \"0\" ]"), "none left is never started");
    }
}
