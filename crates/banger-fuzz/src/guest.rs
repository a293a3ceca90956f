//! What the agent reads of an image and of the kernel's command line.

use std::path::Path;

use crate::account_files;
use crate::cmdline::{Mode, Parameters};
use crate::ops::Ops;
use crate::users::Accounts;

/// Input: `passwd`, `group`, then what `--user` says.
///
/// Nobody gets the number that means "leave it as it is" to the kernel, and what is not found is
/// said with a part of what was asked for.
pub(crate) fn accounts(bytes: &[u8]) {
    let mut ops = Ops::new(bytes);
    let (passwd, group) = (ops.bytes(), ops.bytes());
    let spec = ops.rest();
    account_files::put(passwd, group);
    let accounts = Accounts::read(Path::new("/etc"));
    let root = accounts.resolve(None);
    assert!(root.is_ok_and(|root| root.uid == 0), "every image has root");
    if let Ok(user) = accounts.resolve(Some(spec)) {
        assert_ne!(user.uid, u32::MAX);
        assert_ne!(user.gid, u32::MAX);
        assert!(user.groups.is_sorted() && !user.groups.contains(&u32::MAX));
        assert!(user.groups.len() <= 65536);
        assert!(!user.home.is_empty() && !user.shell.is_empty());
        assert!(user.name.is_none_or(|name| !name.is_empty()));
    }
}

/// A machine is a sandbox unless a whole word says otherwise.
pub(crate) fn cmdline(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let probe = text.split_ascii_whitespace().any(|word| word == "banger.probe");
    let mode = Parameters::parse(&text).mode;
    assert_eq!(mode, if probe { Mode::Probe } else { Mode::Sandbox });
}
