//! Giving the kernel's random pool what this sandbox alone knows.

use std::fs::File;
use std::io;

use rustix::ioctl::{NoArg, Opcode, Setter, ioctl, opcode};

/// `struct rand_pool_info` of `linux/random.h` with room for 32 bytes.
#[repr(C)]
struct PoolInfo {
    entropy_bits: i32,
    len: i32,
    bytes: [u8; 32],
}

/// `RNDADDENTROPY` and `RNDRESEEDCRNG` of `linux/random.h`.
const ADD_ENTROPY: Opcode = opcode::write::<[i32; 2]>(b'R', 3);
const RESEED: Opcode = opcode::none(b'R', 7);

/// The kernel's random pool. Once opened it stays so.
#[derive(Debug, Default)]
pub(crate) struct Pool(Option<File>);

impl Pool {
    /// Mixes fresh bytes into the pool, counts them in full, and has every generator start anew
    /// from it. Only then do two guests that were restored from one snapshot differ.
    ///
    /// # Errors
    /// What the kernel says; it takes root.
    pub(crate) fn add(&mut self, bytes: [u8; 32]) -> io::Result<()> {
        let random = match &mut self.0 {
            Some(open) => open,
            none => none.insert(File::options().read(true).write(true).open("/dev/urandom")?),
        };
        let info = PoolInfo { entropy_bits: 256, len: 32, bytes };
        // SAFETY: the operation reads a rand_pool_info, which `PoolInfo` is, with as many bytes as
        // its length says.
        // JUSTIFICATION: rustix has no form of this ioctl.
        unsafe { ioctl(&*random, Setter::<ADD_ENTROPY, PoolInfo>::new(info)) }?;
        // SAFETY: the operation has no argument.
        // JUSTIFICATION: rustix has no form of this ioctl.
        unsafe { ioctl(&*random, NoArg::<RESEED>::new()) }?;
        Ok(())
    }
}
