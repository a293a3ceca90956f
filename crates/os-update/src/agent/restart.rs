//! How the machine starts again.

use std::fmt;
use std::sync::Arc;

use banger_host::HostError;

use crate::machine;

/// What starts the machine again. Whoever only wants to know that it would can have another one.
#[derive(Clone)]
pub struct Restart(Arc<dyn Fn() -> Result<(), HostError> + Send + Sync>);

impl Restart {
    /// By this.
    pub fn by(restart: impl Fn() -> Result<(), HostError> + Send + Sync + 'static) -> Self {
        Self(Arc::new(restart))
    }

    /// Starts it again.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn carry_out(&self) -> Result<(), HostError> {
        (self.0)()
    }
}

impl Default for Restart {
    fn default() -> Self {
        Self::by(machine::reboot)
    }
}

impl fmt::Debug for Restart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Restart")
    }
}
