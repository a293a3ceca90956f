//! What machines fit into this host.

use anyhow::{Result, bail};
use banger_host::facts;
use banger_model::{Bytes, SandboxSpec};

/// How large this host is. It is asked once: /proc makes that up anew each time, and a reservation
/// has better things to do.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HostSize {
    memory: Bytes,
    processors: usize,
}

impl HostSize {
    /// This host's.
    ///
    /// # Errors
    /// When /proc is not there.
    pub(crate) fn known() -> Result<Self> {
        let ((memory, _), processors) = (facts::memory()?, facts::processors()?.count);
        Ok(Self { memory: Bytes::new(memory), processors })
    }

    /// A machine larger than its host starts and then stands still, which says nothing to anyone.
    ///
    /// # Errors
    /// When `spec` asks for more than the host has.
    pub(crate) fn check(self, spec: &SandboxSpec) -> Result<()> {
        let Self { memory, processors } = self;
        if spec.memory.bytes() > memory {
            bail!("{} of memory is more than the {memory} that this host has", spec.memory);
        }
        if let Some(cpus) = spec.cpus
            && usize::from(cpus.get()) > processors
        {
            bail!("{cpus} CPUs are more than the {processors} that this host has");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_larger_than_the_host_is_refused() {
        let host = HostSize { memory: Bytes::gib(2), processors: 2 };
        let spec = |memory: &str, cpus: &str| SandboxSpec {
            memory: memory.parse().unwrap(),
            cpus: Some(cpus.parse().unwrap()),
            ..SandboxSpec::of("debian-bookworm".parse().unwrap())
        };
        host.check(&spec("2G", "2")).unwrap();
        assert!(host.check(&spec("3G", "2")).unwrap_err().to_string().contains("of memory"));
        assert!(host.check(&spec("1G", "3")).unwrap_err().to_string().contains("CPUs"));
    }
}
