//! What all prunes do: tell what would go, ask whether it may, and say what went.

use std::io::{BufRead as _, Read as _, Write as _};

use anyhow::anyhow;
use banger_host::terminal::is_terminal;
use banger_model::{Bytes, ExitCode};

use crate::error::{CommandError, Kind};
use crate::output::{self, notice};

/// How sure whoever asks is.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(super) struct Consent {
    /// Tell which they are and delete none
    #[arg(long, short = 'n')]
    dry_run: bool,
    /// Do not ask
    #[arg(long, short)]
    yes: bool,
}

/// What is done with that which is to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Prune {
    /// It is looked at.
    Look,
    /// It goes.
    Delete,
}

impl Prune {
    /// Whether nothing is deleted.
    pub(super) fn is_dry_run(self) -> bool {
        self == Self::Look
    }
}

/// What goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Goods {
    Sandboxes,
    Templates,
}

/// Things that go, or would.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Heap {
    pub(super) goods: Goods,
    /// What each is called.
    pub(super) names: Vec<String>,
    /// What they take on the disk together.
    pub(super) space: Bytes,
}

/// Most bytes of an answer that are read.
const MAX_ANSWER: u64 = 80;

impl Consent {
    fn asks(self) -> bool {
        !self.dry_run && !self.yes
    }

    /// Refuses where somebody would have to be asked and nobody is there.
    pub(super) fn check(self) -> Result<(), CommandError> {
        if self.asks() && !(is_terminal(std::io::stdin()) && is_terminal(std::io::stderr())) {
            let error = anyhow!("prune asks before it deletes, and there is no terminal to ask on");
            return Err(CommandError::new(Kind::Usage, error)
                .hint("--yes deletes without asking, --dry-run tells what would go"));
        }
        Ok(())
    }

    /// Prunes as far as is agreed upon; prints what each is called that goes.
    pub(super) async fn carry_out(
        self,
        prune: impl AsyncFn(Prune) -> Result<Heap, CommandError>,
    ) -> Result<ExitCode, CommandError> {
        if self.dry_run || self.asks() {
            let would_go = prune(Prune::Look).await?;
            if would_go.names.is_empty() {
                notice("there is nothing to delete");
                return Ok(ExitCode::SUCCESS);
            }
            if self.dry_run {
                output::text(&would_go.lines())?;
                notice(&format!("{} would be deleted", would_go.amount()));
                return Ok(ExitCode::SUCCESS);
            }
            if !agreed(&would_go)? {
                notice("nothing is deleted");
                return Ok(ExitCode::SUCCESS);
            }
        }
        let gone = prune(Prune::Delete).await?;
        if gone.names.is_empty() {
            notice("there is nothing to delete");
            return Ok(ExitCode::SUCCESS);
        }
        output::text(&gone.lines())?;
        notice(&format!("{} deleted", gone.amount()));
        Ok(ExitCode::SUCCESS)
    }
}

impl Heap {
    fn lines(&self) -> String {
        self.names.iter().map(|name| format!("{name}\n")).collect()
    }

    fn amount(&self) -> String {
        let count = self.names.len();
        let word = match (self.goods, count) {
            (Goods::Sandboxes, 1) => "sandbox",
            (Goods::Sandboxes, _) => "sandboxes",
            (Goods::Templates, 1) => "template",
            (Goods::Templates, _) => "templates",
        };
        format!("{count} {word} of {}", self.space)
    }

    fn question(&self) -> String {
        // A template is made again when it is needed.
        let end = match self.goods {
            Goods::Sandboxes => " for good",
            Goods::Templates => "",
        };
        format!("Delete {}{end}? [y/N] ", self.amount())
    }
}

fn agreed(heap: &Heap) -> Result<bool, CommandError> {
    let mut stderr = anstream::stderr().lock();
    write!(stderr, "{}{}", output::plain(&heap.lines()), heap.question())?;
    stderr.flush()?;
    let mut answer = String::new();
    std::io::stdin().lock().take(MAX_ANSWER).read_line(&mut answer)?;
    Ok(is_yes(&answer))
}

fn is_yes(answer: &str) -> bool {
    ["y", "yes"].contains(&answer.trim().to_lowercase().as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_yes_is_one() {
        for yes in ["y\n", "Y\n", " yes \n"] {
            assert!(is_yes(yes), "{yes:?}");
        }
        for no in ["", "\n", "n\n", "yeah\n", "delete\n"] {
            assert!(!is_yes(no), "{no:?}");
        }
    }

    #[test]
    fn it_is_said_how_many_of_what_go_and_whether_for_good() {
        let heap = |goods, names: &[&str]| Heap {
            goods,
            names: names.iter().map(|name| (*name).to_owned()).collect(),
            space: Bytes::mib(3),
        };
        let question = |goods, names: &[&str]| heap(goods, names).question();
        assert_eq!(question(Goods::Sandboxes, &["a"]), "Delete 1 sandbox of 3M for good? [y/N] ");
        assert_eq!(question(Goods::Templates, &["a", "b"]), "Delete 2 templates of 3M? [y/N] ");
        assert_eq!(heap(Goods::Templates, &["a", "b"]).lines(), "a\nb\n");
    }

    #[tokio::test]
    async fn nothing_is_deleted_before_it_is_agreed_upon() {
        let asked = std::sync::Mutex::new(Vec::new());
        let prune = async |how: Prune| {
            asked.lock().unwrap().push(how);
            Ok(Heap { goods: Goods::Templates, names: Vec::new(), space: Bytes::new(0) })
        };
        let consent = |dry_run, yes| Consent { dry_run, yes };
        consent(true, false).carry_out(&prune).await.unwrap();
        consent(true, true).carry_out(&prune).await.unwrap();
        assert_eq!(*asked.lock().unwrap(), [Prune::Look, Prune::Look]);
        consent(false, true).carry_out(&prune).await.unwrap();
        assert_eq!(asked.lock().unwrap().pop(), Some(Prune::Delete));
        // Where there is nothing, nobody is asked, and nothing is deleted that came meanwhile.
        consent(false, false).carry_out(&prune).await.unwrap();
        assert_eq!(asked.lock().unwrap().pop(), Some(Prune::Look));
    }
}
