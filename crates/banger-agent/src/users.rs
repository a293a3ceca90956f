//! Who a process runs as, from the image's own `/etc/passwd` and `/etc/group`.
//!
//! The C library's look-ups are of no use here: a static program has no NSS, and what it would
//! load from an image that anyone can make is code. Both files are text with a line for each
//! entry and colons between the fields (passwd(5), group(5)), and hostile: what is not a proper
//! line is no entry.

use std::path::Path;

use banger_link::Refusal;

use crate::files::read_bounded;

/// Longest `/etc/passwd` or `/etc/group` that is read.
const MAX_FILE_LEN: u64 = 4 * 1024 * 1024;

/// Most supplementary groups: the kernel's own bound (`NGROUPS_MAX`).
const MAX_GROUPS: usize = 65536;

/// A user of the image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct User {
    /// The name; none for a number that the image has no name for.
    pub(crate) name: Option<Vec<u8>>,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Supplementary groups.
    pub(crate) groups: Vec<u32>,
    /// The home directory; `/` where the image says nothing.
    pub(crate) home: Vec<u8>,
    /// The login shell; `/bin/sh` where the image says nothing.
    pub(crate) shell: Vec<u8>,
}

/// The users and groups of an image.
#[derive(Debug, Default)]
pub(crate) struct Accounts {
    passwd: Vec<u8>,
    group: Vec<u8>,
}

impl Accounts {
    /// Those of the image below `etc`. An image without such a file, or with one that cannot be
    /// read, has no names: root and numbers still work.
    pub(crate) fn read(etc: &Path) -> Self {
        let file = |name| read_bounded(&etc.join(name), MAX_FILE_LEN).unwrap_or_default();
        Self { passwd: file("passwd"), group: file("group") }
    }

    /// The user that `user`, `uid`, `user:group` and the like mean; root for nothing.
    ///
    /// A name goes before a number that reads the same. As in other container engines, a group
    /// that is asked for is the only one, and a number needs no entry.
    ///
    /// # Errors
    /// [`Refusal::NoSuchUser`] with the part that the image does not have.
    pub(crate) fn resolve(&self, spec: Option<&[u8]>) -> Result<User, Refusal> {
        // Not by the name `0`, which an image may give to whomever it likes.
        let Some(spec) = spec else { return Ok(self.root()) };
        let (user, group) = match split_once(spec, b':') {
            Some((user, group)) => (user, Some(group)),
            None => (spec, None),
        };
        let mut found = self.user(user).ok_or_else(|| no_such(user))?;
        match group {
            Some(group) => found.gid = self.group(group).ok_or_else(|| no_such(group))?,
            None => found.groups = self.groups_of(&found),
        }
        Ok(found)
    }

    fn root(&self) -> User {
        let mut root = self.numbered(0);
        root.groups = self.groups_of(&root);
        root
    }

    fn user(&self, wanted: &[u8]) -> Option<User> {
        let named = self.users().find(|entry| entry.name.as_deref() == Some(wanted));
        named.or_else(|| Some(self.numbered(parse_id(wanted)?)))
    }

    fn numbered(&self, uid: u32) -> User {
        self.users().find(|entry| entry.uid == uid).unwrap_or_else(|| nobody_known(uid))
    }

    fn users(&self) -> impl Iterator<Item = User> {
        self.passwd.split(|b| *b == b'\n').filter_map(passwd_entry)
    }

    fn group(&self, wanted: &[u8]) -> Option<u32> {
        let mut entries = self.group.split(|b| *b == b'\n').filter_map(group_entry);
        entries.find(|entry| entry.name == wanted).map(|e| e.gid).or_else(|| parse_id(wanted))
    }

    /// The groups whose member lists have the user's name, and their own.
    fn groups_of(&self, user: &User) -> Vec<u32> {
        let Some(name) = user.name.as_deref() else { return Vec::new() };
        let entries = self.group.split(|b| *b == b'\n').filter_map(group_entry);
        let member =
            |entry: &GroupEntry<'_>| entry.members.split(|b| *b == b',').any(|m| m == name);
        let mut groups = vec![user.gid];
        groups.extend(entries.filter(member).map(|entry| entry.gid).take(MAX_GROUPS - 1));
        groups.sort_unstable();
        groups.dedup();
        groups
    }
}

/// `name:password:uid:gid:comment:home:shell`.
fn passwd_entry(line: &[u8]) -> Option<User> {
    let mut fields = line.split(|b| *b == b':');
    let name = fields.next().filter(|name| !name.is_empty())?;
    let uid = parse_id(fields.nth(1)?)?;
    let gid = parse_id(fields.next()?)?;
    let or = |field: Option<&[u8]>, default: &[u8]| match field {
        Some(text) if !text.is_empty() => text.to_vec(),
        _ => default.to_vec(),
    };
    let home = or(fields.nth(1), b"/");
    let shell = or(fields.next(), b"/bin/sh");
    Some(User { name: Some(name.to_vec()), uid, gid, groups: Vec::new(), home, shell })
}

struct GroupEntry<'a> {
    name: &'a [u8],
    gid: u32,
    members: &'a [u8],
}

/// `name:password:gid:member,member`.
fn group_entry(line: &[u8]) -> Option<GroupEntry<'_>> {
    let mut fields = line.split(|b| *b == b':');
    let name = fields.next().filter(|name| !name.is_empty())?;
    let gid = parse_id(fields.nth(1)?)?;
    Some(GroupEntry { name, gid, members: fields.next().unwrap_or_default() })
}

/// A user or group number. The highest means "leave it as it is" to the kernel, so nobody has it.
fn parse_id(text: &[u8]) -> Option<u32> {
    let digits = !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    let number = std::str::from_utf8(text).ok().filter(|_| digits)?.parse().ok()?;
    (number != u32::MAX).then_some(number)
}

/// A number without an entry: no groups of its own, no home.
fn nobody_known(uid: u32) -> User {
    User {
        name: (uid == 0).then(|| b"root".to_vec()),
        uid,
        gid: 0,
        groups: Vec::new(),
        home: if uid == 0 { b"/root".to_vec() } else { b"/".to_vec() },
        shell: b"/bin/sh".to_vec(),
    }
}

fn split_once(text: &[u8], at: u8) -> Option<(&[u8], &[u8])> {
    let place = text.iter().position(|b| *b == at)?;
    Some((&text[..place], &text[place + 1..]))
}

fn no_such(what: &[u8]) -> Refusal {
    Refusal::NoSuchUser(String::from_utf8_lossy(what).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &[u8] = b"root:x:0:0:root:/root:/bin/bash\n\
        nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n\
        broken line\n:x:7:7::/:\nwrong:x:seven:7::/:/bin/sh\nhuge:x:4294967295:1::/:\n\
        dev:x:1000:1000:,,,:/home/dev:\n1000:x:5:5::/five:/bin/five";
    const GROUP: &[u8] = b"root:x:0:\nsudo:x:27:dev,other\nvideo:x:44:other\n\
        users:x:100:dev\nbad\ndev:x:1000:\n";

    fn resolve(spec: &str) -> Result<User, Refusal> {
        Accounts { passwd: PASSWD.to_vec(), group: GROUP.to_vec() }.resolve(Some(spec.as_bytes()))
    }

    #[test]
    fn a_name_brings_its_groups_home_and_shell() {
        let dev = resolve("dev").unwrap();
        assert_eq!((dev.uid, dev.gid), (1000, 1000));
        assert_eq!(dev.groups, [27, 100, 1000]);
        assert_eq!((&dev.home[..], &dev.shell[..]), (&b"/home/dev"[..], &b"/bin/sh"[..]));
        assert_eq!(resolve("root").unwrap().groups, [0]);
    }

    #[test]
    fn a_number_needs_no_entry_but_uses_one() {
        assert_eq!(resolve("65534").unwrap().name.as_deref(), Some(&b"nobody"[..]));
        let stranger = resolve("4242").unwrap();
        assert_eq!((stranger.uid, stranger.gid, stranger.name), (4242, 0, None));
        assert!(stranger.groups.is_empty());
    }

    #[test]
    fn a_name_goes_before_a_number_that_reads_the_same() {
        assert_eq!(resolve("1000").unwrap().uid, 5);
    }

    #[test]
    fn a_group_that_is_asked_for_is_the_only_one() {
        let dev = resolve("dev:sudo").unwrap();
        assert_eq!((dev.gid, dev.groups.len()), (27, 0));
        assert_eq!(resolve("dev:4711").unwrap().gid, 4711);
    }

    #[test]
    fn what_the_image_does_not_have_is_refused_by_name() {
        let refused = |spec: &str, part: &str| {
            assert_eq!(resolve(spec), Err(Refusal::NoSuchUser(part.to_owned())), "{spec}");
        };
        refused("eve", "eve");
        refused("dev:eve", "eve");
        refused("", "");
        refused("dev:", "");
        refused("huge", "huge");
        refused("wrong", "wrong");
        refused("4294967295", "4294967295");
        refused("99999999999", "99999999999");
        refused("-1", "-1");
        refused("+1", "+1");
    }

    #[test]
    fn nobody_asked_for_means_the_number_not_a_user_named_so() {
        let passwd = b"0:x:99:99::/:\nroot:x:0:0:root:/root:/bin/bash".to_vec();
        let accounts = Accounts { passwd, group: Vec::new() };
        assert_eq!(accounts.resolve(None).unwrap().uid, 0);
        assert_eq!(accounts.resolve(Some(b"0")).unwrap().uid, 99);
    }

    #[test]
    fn an_image_without_accounts_still_has_root() {
        let root = Accounts::default().resolve(None).unwrap();
        assert_eq!((root.uid, root.gid, &root.home[..]), (0, 0, &b"/root"[..]));
    }
}
