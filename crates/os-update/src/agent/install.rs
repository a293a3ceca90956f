//! What the boot loader of a fresh machine has to know before anything was ever updated.

use std::path::Path;

use banger_host::fs::create_private_dir;
use banger_update::{
    BootView, ENV_COPIES, Grub, HostFiles, KernelArgs, Layout, Slot, SlotStatus, SystemdBoot,
};

use super::AgentError;
use crate::settings::Loader;

/// Has the boot loader start this slot, and never the other one: for GRUB both copies of its
/// environment, for systemd-boot an entry, which passes `args` on to the kernel.
///
/// # Errors
/// When they cannot be written.
pub fn install(
    boot_dir: &Path,
    loader: Loader,
    args: &KernelArgs,
    first: Slot,
) -> Result<(), AgentError> {
    let layout = Layout::under(boot_dir);
    match loader {
        Loader::Grub => {
            for copy in ENV_COPIES {
                if let Some(dir) = boot_dir.join(copy).parent() {
                    create_private_dir(dir)?;
                }
            }
            let view = BootView::starting(first).with(!first, SlotStatus::Bad);
            Grub::new(&HostFiles, layout).install(&view)?;
        }
        Loader::SystemdBoot => SystemdBoot::new(&HostFiles, layout, args.clone()).install(first)?,
    }
    Ok(())
}
