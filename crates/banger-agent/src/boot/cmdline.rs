//! What the kernel command line tells the agent.

use banger_model::volumes_told;

/// What the machine was started for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// To be a sandbox.
    Sandbox,
    /// To show that this accelerator can run a guest at all.
    Probe,
}

/// Whether the steps of the boot are timed on the console.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trace {
    /// No.
    Off,
    /// A line for each step.
    On,
}

/// Who is the first process once the root is in place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Init {
    /// This agent.
    Agent,
    /// The image's systemd.
    Systemd,
}

/// The parameters that are the agent's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Parameters {
    pub(crate) mode: Mode,
    pub(crate) trace: Trace,
    pub(crate) init: Init,
    /// Slots and paths of volumes that are mounted before anything else runs.
    pub(crate) volumes: Vec<(u8, Vec<u8>)>,
}

impl Parameters {
    /// Those in this command line; every other word is the kernel's.
    pub(crate) fn parse(cmdline: &str) -> Self {
        let has = |wanted: &str| cmdline.split_ascii_whitespace().any(|word| word == wanted);
        Self {
            mode: if has("banger.probe") { Mode::Probe } else { Mode::Sandbox },
            trace: if has("banger.trace") { Trace::On } else { Trace::Off },
            volumes: volumes_told(cmdline),
            init: if has("banger.init=systemd") { Init::Systemd } else { Init::Agent },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_words_count() {
        let (mode, trace, init) = (Mode::Sandbox, Trace::Off, Init::Agent);
        let plain = Parameters { mode, trace, init, volumes: Vec::new() };
        assert_eq!(Parameters::parse("console=ttyS0 quiet\n"), plain);
        assert_eq!(Parameters::parse("xbanger.probe banger.probe=1"), plain);
        assert_eq!(Parameters::parse("quiet banger.probe\n").mode, Mode::Probe);
        assert_eq!(Parameters::parse("banger.trace quiet").trace, Trace::On);
        assert_eq!(Parameters::parse("quiet banger.init=systemd").init, Init::Systemd);
        assert_eq!(Parameters::parse("banger.init=systemdx init=systemd").init, Init::Agent);
    }
}
