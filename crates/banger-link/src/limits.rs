//! Every bound of the protocol. Both ends enforce all of them on what they receive.

/// Most payload bytes of one frame.
pub const MAX_PAYLOAD: usize = 16 * 1024;

/// Most bytes of one control message, put together from its frames. A command line may take
/// 2 MiB ([`banger_model::Limits::MAX_ARGS_LEN`]); the rest is room for its encoding.
pub const MAX_MESSAGE: usize = 4 * 1024 * 1024;

/// Most bytes of one stream that are on their way: sent, or kept to be sent, and not yet
/// acknowledged.
pub const WINDOW: usize = 256 * 1024;

/// Where a stream that is taken up can be at most. No stream gets there in a machine's life, and
/// from there no sum of an offset and a length overflows.
pub const MAX_OFFSET: u64 = 1 << 62;

/// A receiver acknowledges after this many bytes at the latest, so that a sender with more to
/// send does not stand still.
pub const ACK_EVERY: usize = WINDOW / 4;

/// Most requests of a host that wait for their replies.
pub const MAX_PENDING_REQUESTS: usize = 256;

/// Most encoded bytes of requests that wait for their replies.
pub const MAX_PENDING_BYTES: usize = 8 * 1024 * 1024;

/// Most processes an agent runs or remembers.
pub const MAX_PROCESSES: usize = 512;

/// Most bytes a host discards while it waits for the agent's answer to its hello. A disconnect
/// leaves at most what QEMU and the guest's driver buffer, far below this.
pub const MAX_STALE: usize = 16 * 1024 * 1024;

/// Most bytes that one call of `transmit` adds to its buffer beyond a single frame.
pub const TRANSMIT_BUDGET: usize = 128 * 1024;
