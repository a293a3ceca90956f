//! An image, as banger makes it, beside what umoci unpacks of the same: entry by entry, attribute by
//! attribute. Needs root and loop devices.

use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use banger_host::command::Tool;
use banger_host::facts;
use banger_host::home::Home;
use banger_image::image::{Import, Naming, SandboxWishes};
use banger_image::oci::{Cache, Settings, pull};
use banger_model::{Silent, Timestamp};
use banger_testkit::oci::images::{TestImage, TestLayer};
use banger_testkit::oci::registry::lay_out;
use tar::{EntryType, Header};

use crate::mount::{mounted, seen};

const SOON: Duration = Duration::from_secs(600);

/// A layer, entry by entry.
struct Layer {
    tar: tar::Builder<Vec<u8>>,
    /// Records that go before the next entry.
    records: Vec<(String, Vec<u8>)>,
}

impl Layer {
    fn new() -> Self {
        Self { tar: tar::Builder::new(Vec::new()), records: Vec::new() }
    }

    fn put(self, kind: EntryType, path: &[u8], change: impl FnOnce(&mut Header)) -> Self {
        let mut header = Header::new_ustar();
        header.set_entry_type(kind);
        header.set_mode(if kind == EntryType::Directory { 0o755 } else { 0o644 });
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1_600_000_000);
        change(&mut header);
        self.append(header, path, b"")
    }

    fn file(self, path: &[u8], content: &[u8], change: impl FnOnce(&mut Header)) -> Self {
        let mut header = Header::new_ustar();
        header.set_mode(0o644);
        header.set_uid(1000);
        header.set_gid(2000);
        header.set_mtime(1_650_000_000);
        change(&mut header);
        self.append(header, path, content)
    }

    fn append(mut self, mut header: Header, path: &[u8], content: &[u8]) -> Self {
        self = self.with(&[("path", path)]);
        let records = std::mem::take(&mut self.records);
        let records = records.iter().map(|(key, value)| (key.as_str(), value.as_slice()));
        self.tar.append_pax_extensions(records).unwrap();
        header.set_size(content.len() as u64);
        header.set_path("x").unwrap();
        header.set_cksum();
        self.tar.append(&header, content).unwrap();
        self
    }

    fn with(mut self, records: &[(&str, &[u8])]) -> Self {
        self.records.extend(records.iter().map(|(key, value)| ((*key).to_owned(), value.to_vec())));
        self
    }

    fn link(self, kind: EntryType, path: &[u8], target: &[u8]) -> Self {
        self.with(&[("linkpath", target)]).put(kind, path, |_| {})
    }

    fn directory(self, path: &[u8]) -> Self {
        self.put(EntryType::Directory, path, |_| {})
    }

    fn done(self) -> TestLayer {
        TestLayer::gzip(self.tar.into_inner().unwrap())
    }
}

fn varied() -> TestImage {
    let capability: &[u8] = b"\x01\0\0\x02\0\x20\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
    let long = [b"d/".to_vec(), vec![b'n'; 255]].concat();
    let plain = |_: &mut Header| {};
    let device = |header: &mut Header| {
        header.set_device_major(8).unwrap();
        header.set_device_minor(300).unwrap();
    };
    let base = Layer::new()
        .put(EntryType::Directory, b"./", |header| header.set_mode(0o755))
        .directory(b"usr/")
        .directory(b"usr/bin/")
        .link(EntryType::Symlink, b"bin", b"usr/bin")
        .file(b"usr/bin/su", b"setuid", |header| header.set_mode(0o4755))
        .with(&[("SCHILY.xattr.security.capability", capability)])
        .file(b"usr/bin/ping", b"capable", |header| header.set_mode(0o755))
        .with(&[("SCHILY.xattr.user.note", b"\0\n="), ("mtime", b"1234567890.123456789")])
        .file(b"noted", &vec![b'n'; 100_000], plain)
        .put(EntryType::Directory, b"tmp/", |header| header.set_mode(0o1777))
        .put(EntryType::Fifo, b"fifo", plain)
        .put(EntryType::Char, b"null", device)
        .put(EntryType::Block, b"disk", device)
        .directory(b"etc/")
        .file(b"etc/old", b"old", plain)
        .file(b"etc/kept", b"kept", plain)
        .directory(b"hidden/")
        .file(b"hidden/a", b"a", plain)
        .directory(b"hidden/deep/")
        .file(b"hidden/deep/b", b"b", plain)
        .file(b"replaced", b"by a directory", plain)
        .directory(b"was/")
        .file(b"was/below", b"x", plain)
        .file(b"zeros", &vec![0; 3_000_000], plain)
        .done();
    let changes = Layer::new()
        .file(b"bin/sh", b"through a link", |header| header.set_mode(0o755))
        .file(b"etc/.wh.old", b"", plain)
        .directory(b"hidden/")
        .file(b"hidden/.wh..wh..opq", b"", plain)
        .file(b"hidden/c", b"c", plain)
        .directory(b"replaced/")
        .file(b"replaced/now", b"x", plain)
        .file(b"was", b"a file now", plain)
        .link(EntryType::Link, b"hard", b"noted")
        .link(EntryType::Link, b"usr/bin/hard-sh", b"usr/bin/sh")
        .put(EntryType::Directory, b"etc/", |header| header.set_mode(0o700))
        .done();
    let names = Layer::new()
        .directory(b"d/")
        .file(&long, b"long", plain)
        .file(b"\xff\xfe not UTF-8", b"odd", plain)
        .file("ünïcode".as_bytes(), b"text", plain)
        .file(b"new\nline", b"x", plain)
        .link(EntryType::Symlink, b"odd-link", b"\xf0\x01/../x")
        .link(EntryType::Symlink, b"long-link", &[b'l'; 1500])
        .file(b"big-ids", b"x", |header| header.set_uid(2_000_000))
        .done();
    TestImage::new(vec![base, changes, names])
}

/// Whiteouts beside what their own layer replaces, and behind what it brings.
fn hiding() -> TestImage {
    let plain = |_: &mut Header| {};
    let base = Layer::new()
        .put(EntryType::Directory, b"./", |header| header.set_mode(0o755))
        .directory(b"b/")
        .directory(b"b/deep/")
        .file(b"b/x", b"x", plain)
        .file(b"b/deep/x", b"x", plain);
    let links = [&b"opaque"[..], b"plain", b"file", b"follow"];
    let base =
        links.into_iter().fold(base, |layer, link| layer.link(EntryType::Symlink, link, b"b"));
    let base = base
        .file(b"was-file", b"x", plain)
        .directory(b"kept/")
        .file(b"kept/old", b"x", plain)
        .directory(b"kept/sub/")
        .file(b"kept/sub/old", b"x", plain)
        .directory(b"gone/")
        .file(b"gone/old", b"x", plain)
        .done();
    let upper = Layer::new()
        .directory(b"opaque/")
        .file(b"opaque/.wh..wh..opq", b"", plain)
        .directory(b"plain/")
        .file(b"plain/.wh.x", b"", plain)
        .directory(b"plain/deep/")
        .file(b"plain/deep/.wh.x", b"", plain)
        .file(b"file", b"a file now", plain)
        .file(b"follow/.wh.x", b"", plain)
        .directory(b"was-file/")
        .file(b"was-file/.wh..wh..opq", b"", plain)
        .file(b"was-file/now", b"x", plain)
        .directory(b"kept/")
        .directory(b"kept/sub/")
        .file(b"kept/sub/new", b"x", plain)
        .file(b"kept/.wh..wh..opq", b"", plain)
        .file(b".wh.kept", b"", plain)
        .file(b".wh.gone", b"", plain)
        .file(b"none/.wh.x", b"", plain)
        // umoci leaves them with the time at which it removed something.
        .directory(b"b/")
        .directory(b"kept/sub/")
        .directory(b"kept/")
        .directory(b"./")
        .done();
    TestImage::new(vec![base, upper])
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_is_what_umoci_unpacks() {
    is_what_umoci_unpacks(&varied()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whiteouts_hide_what_they_do_for_umoci() {
    is_what_umoci_unpacks(&hiding()).await;
}

async fn is_what_umoci_unpacks(image: &TestImage) {
    if facts::user_id() != 0 {
        return banger_testkit::skipped_on_this_machine("only root can unpack devices and mount");
    }
    let dir = tempfile::tempdir().unwrap();
    let (layout, bundle) = (dir.path().join("layout"), dir.path().join("bundle"));
    lay_out(&layout, "v1", image);
    let unpacked = Tool::new("umoci")
        .args(["unpack", "--image", &format!("{}:v1", layout.display())])
        .arg(&bundle)
        .capture(SOON);
    if let Err(banger_host::HostError::NoProgram { .. }) = &unpacked {
        return banger_testkit::skipped("umoci is not installed");
    }
    unpacked.unwrap();
    let home = Home::under(&dir.path().join("home"));
    let image = made(&home, &layout).await;
    Tool::new("/sbin/e2fsck").arg("-fn").arg(image.root()).capture(SOON).unwrap();
    let mnt = dir.path().join("mnt");
    let Some(mount) = mounted(&["-o", "loop,ro,noload"], &image.root(), &mnt) else { return };
    let (ours, theirs) = (seen(&mount.0), seen(&bundle.join("rootfs")));
    for (path, line) in &theirs {
        assert_eq!(ours.get(path), Some(line), "{path}");
    }
    // Whoever runs a container makes the directory that it begins in.
    let more: Vec<_> = ours.keys().filter(|path| !theirs.contains_key(*path)).collect();
    assert_eq!(more, ["srv"]);
}

async fn made(home: &Home, layout: &Path) -> banger_image::Image {
    let cache = Cache::open(&home.cache().join("oci")).unwrap();
    let platform = banger_image::oci::Platform { architecture: "amd64".to_owned(), variant: None };
    let settings = Settings { platform, ..Settings::default() };
    let source = format!("oci:{}:v1", layout.display()).parse().unwrap();
    let pulled = pull(source, &cache, &settings, &Silent).await.unwrap();
    let import = Import {
        wishes: &SandboxWishes::default(),
        home,
        pulled: &pulled,
        source: "a test",
        now: Timestamp(0),
        called_off: &AtomicBool::new(false),
    };
    import.run(&Naming::Exactly("varied".parse().unwrap()), &Silent).unwrap()
}
