//! Included from `banger-net`, under the name it has there: frames and the policy for them.

#[cfg_attr(not(test), expect(dead_code, reason = "building frames is not fuzzed"))]
#[path = "../../banger-net/src/user/frame.rs"]
pub(crate) mod frame;

#[path = "../../banger-net/src/user/policy.rs"]
pub(crate) mod policy;
