//! Archives laid over each other, compared with what the simplest thinkable file system does.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::archive::{Entry, Kind};

pub(crate) fn entry(path: &str, kind: Kind) -> Entry {
    Entry { kind, ..Entry::file(path, Vec::new(), (1_700_000_000, 123_456_789)) }
}

pub(crate) fn text(path: &str, content: &str) -> Entry {
    Entry::file(path, content.as_bytes().to_vec(), (1_700_000_000, 0))
}

fn symlink(path: &str, target: &str) -> Entry {
    entry(path, Kind::Symlink(target.into()))
}

fn directory(path: &str) -> Entry {
    entry(path, Kind::Directory)
}

fn hard_link(path: &str, target: &str) -> Entry {
    entry(path, Kind::HardLink(target.into()))
}

/// Layers laid over each other, the first one lowest.
pub(crate) fn laid(layers: Vec<Vec<Entry>>) -> Result<Tree, TreeError> {
    let mut tree = Tree::new();
    for entries in layers {
        let file = tempfile::tempfile().unwrap();
        tree.lay(Archive { entries, file }, Whiteouts::Hide)?;
    }
    Ok(tree)
}

/// All paths, with what they stand for in a few letters.
fn told(tree: &Tree) -> String {
    let mut paths: BTreeMap<NodeId, String> = BTreeMap::new();
    let mut lines = Vec::new();
    for step in tree.walk() {
        let above = paths.get(&step.parent).map(|path| format!("{path}/")).unwrap_or_default();
        let path = format!("{above}{}", step.name);
        lines.push(match &tree.node(step.node).kind {
            NodeKind::Directory(_) => format!("{path}/"),
            NodeKind::Symlink(target) => format!("{path}->{target}"),
            NodeKind::File(Place { content: Content::Inline(bytes), .. }) => {
                format!("{path}={}", String::from_utf8_lossy(bytes))
            }
            _ => path.clone(),
        });
        paths.insert(step.node, path);
    }
    lines.join(" ")
}

fn lays(layers: Vec<Vec<Entry>>, expected: &str) {
    assert_eq!(told(&laid(layers).unwrap()), expected);
}

fn problem(layers: Vec<Vec<Entry>>) -> String {
    laid(layers).unwrap_err().to_string()
}

#[test]
fn a_layer_replaces_adds_and_hides() {
    let base = || vec![directory("d"), text("d/a", "1"), text("d/b", "1"), text("e", "1")];
    lays(vec![base(), vec![text("d/a", "2"), text("f", "2")]], "d/ d/a=2 d/b=1 e=1 f=2");
    lays(vec![base(), vec![text("d/.wh.a", ""), text(".wh.e", "")]], "d/ d/b=1");
    lays(vec![base(), vec![text(".wh.d", "")]], "e=1");
    lays(vec![base(), vec![text("d", "file")]], "d=file e=1");
    lays(vec![base(), vec![directory("e"), text("e/x", "2")]], "d/ d/a=1 d/b=1 e/ e/x=2");
}

#[test]
fn an_opaque_directory_shows_what_its_own_layer_has() {
    let base = || vec![text("d/a", "1"), text("d/sub/b", "1"), text("e", "1")];
    // Wherever in the layer it is said.
    lays(vec![base(), vec![text("d/c", "2"), text("d/.wh..wh..opq", "")]], "d/ d/c=2 e=1");
    lays(vec![base(), vec![text("d/.wh..wh..opq", ""), text("d/a", "2")]], "d/ d/a=2 e=1");
    lays(vec![base(), vec![text(".wh..wh..opq", ""), text("x", "2")]], "x=2");
    lays(vec![base(), vec![text(".wh..wh.plnk", "")]], "d/ d/a=1 d/sub/ d/sub/b=1 e=1");
}

#[test]
fn a_whiteout_hides_nothing_of_its_own_layer_and_may_hide_nothing_at_all() {
    lays(vec![vec![text(".wh.a", ""), text("a", "1")]], "a=1");
    lays(vec![vec![text("a", "1"), text(".wh.a", ""), text("no/.wh.where", "")]], "a=1");
    let mut tree = Tree::new();
    let file = tempfile::tempfile().unwrap();
    tree.lay(Archive { entries: vec![text(".wh.a", "x")], file }, Whiteouts::AreFiles).unwrap();
    assert_eq!(told(&tree), ".wh.a=x");
}

#[test]
fn whiteouts_go_through_nothing_that_their_layer_replaces() {
    let opaque = "a/.wh..wh..opq";
    let base = || vec![symlink("a", "b"), directory("b"), text("b/x", "1"), text("f", "1")];
    let expected = "a/ b/ b/x=1 f=1";
    lays(vec![base(), vec![directory("a"), text(opaque, "")]], expected);
    lays(vec![base(), vec![text(opaque, ""), directory("a")]], expected);
    lays(vec![base(), vec![directory("a"), text("a/.wh.x", "")]], expected);
    lays(vec![base(), vec![text("a/.wh.x", ""), directory("a")]], expected);
    lays(vec![base(), vec![text("a", "2"), text("a/.wh.x", "")]], "a=2 b/ b/x=1 f=1");
    lays(vec![base(), vec![text("a/.wh.x", ""), text("a", "2")]], "a=2 b/ b/x=1 f=1");
    // The same further down, and where a path is only like that of a whiteout.
    let deep = || vec![symlink("d/a", "../b"), text("b/c/x", "1")];
    let upper = || vec![directory("d/a"), directory("d/a/c"), text("d/a/c/.wh.x", "")];
    lays(vec![deep(), upper()], "b/ b/c/ b/c/x=1 d/ d/a/ d/a/c/");
    let [a, c, mark] = upper().try_into().unwrap();
    lays(vec![deep(), vec![mark, a, c]], "b/ b/c/ b/c/x=1 d/ d/a/ d/a/c/");
    lays(vec![deep(), vec![text("d/a/.wh.c", ""), directory("d/ab")]], "b/ d/ d/a->../b d/ab/");
    // What the layer leaves as it was is gone through.
    lays(vec![base(), vec![text(opaque, "")]], "a->b b/ f=1");
    lays(
        vec![base(), vec![symlink("a", "c"), text("c/y", "2"), text(opaque, "")]],
        "a->c b/ b/x=1 c/ c/y=2 f=1",
    );
}

#[test]
fn whiteouts_where_there_is_no_directory_hide_nothing() {
    let base = || vec![text("f", "1"), symlink("loop", "loop"), symlink("none", "no/where")];
    let kept = "f=1 loop->loop none->no/where";
    for dir in ["f", "loop", "none", "f/g"] {
        let marks = ["x", ".wh..opq"].map(|mark| text(&format!("{dir}/.wh.{mark}"), ""));
        lays(vec![base(), marks.to_vec()], kept);
    }
    // As it is where a directory takes the place of a file.
    let upper = || vec![directory("f"), text("f/.wh..wh..opq", ""), text("f/g", "2")];
    let replaced = "f/ f/g=2 loop->loop none->no/where";
    lays(vec![base(), upper()], replaced);
    let [dir, mark, file] = upper().try_into().unwrap();
    lays(vec![base(), vec![mark, dir, file]], replaced);
}

#[test]
fn a_whiteout_behind_what_its_layer_has_leaves_that() {
    let base = || vec![text("d/a", "1"), text("d/sub/b", "1"), text("d/sub/deep/c", "1")];
    let upper = |mark: &str| vec![text("d/sub/new", "2"), text(mark, "")];
    lays(vec![base(), upper(".wh.d")], "d/ d/sub/ d/sub/new=2");
    lays(vec![base(), upper("d/.wh..wh..opq")], "d/ d/sub/ d/sub/new=2");
    lays(vec![base(), upper("d/.wh.sub")], "d/ d/a=1 d/sub/ d/sub/new=2");
    // The directory alone; twice; inner ones first; and then by a further layer.
    lays(vec![base(), vec![directory("d/sub"), text(".wh.d", "")]], "d/ d/sub/");
    lays(vec![base(), vec![text(".wh.d", ""), directory("d"), text(".wh.d", "")]], "d/");
    let inner = || vec![text("d/sub/.wh..wh..opq", ""), text(".wh.d", "")];
    lays(vec![base(), inner()], "");
    lays(vec![base(), vec![directory("d")], inner()], "");
    // Links: a name is a layer's own, the file need not be.
    let link = vec![hard_link("g", "d/a"), text(".wh.d", ""), text(".wh.g", "")];
    lays(vec![base(), link], "g=1");
}

#[test]
fn many_whiteouts_cost_no_more_than_what_they_hide() {
    let n = 50_000;
    let many = |path: &str| (0..n).map(|k| text(&format!("{path}{k}"), "")).collect::<Vec<_>>();
    lays(vec![many("d/"), many("d/.wh.")], "d/");
    let twice = [many("d/"), vec![text(".wh.d", ""); n]].concat();
    let tree = laid(vec![vec![text("d/below", "1")], twice]).unwrap();
    assert_eq!(tree.count(), n + 2);
}

#[test]
fn whiteouts_without_a_name_are_refused() {
    for bad in [".wh.", "d/.wh.", ".wh..", "d/.wh..."] {
        let said = problem(vec![vec![directory("d"), text(bad, "")]]);
        assert!(said.contains(bad) && said.contains("whiteout of nothing"), "{said}");
    }
}

#[test]
fn paths_go_through_links_as_they_do_in_the_sandbox() {
    let usr = || vec![directory("usr/bin"), symlink("bin", "usr/bin"), symlink("up", "../../..")];
    let base = "bin->usr/bin up->../../.. usr/ usr/bin/";
    lays(vec![usr(), vec![text("bin/sh", "2")]], &format!("{base} usr/bin/sh=2"));
    // A link upwards ends at the root.
    lays(vec![usr(), vec![text("up/x", "2")]], &format!("{base} x=2"));
    lays(vec![usr(), vec![text("bin/a", "1")], vec![text("bin/.wh.a", "")]], base);
    // A directory in the place of a link is a directory; the link goes.
    let expected = "bin/ bin/sh=2 up->../../.. usr/ usr/bin/";
    lays(vec![usr(), vec![directory("bin"), text("bin/sh", "2")]], expected);
    lays(
        vec![vec![symlink("l", "/not/there"), text("l/x", "1")]],
        "l->/not/there not/ not/there/ not/there/x=1",
    );
    let said = problem(vec![vec![symlink("a", "b"), symlink("b", "a"), text("a/x", "")]]);
    assert!(said.contains("too many symbolic links"), "{said}");
}

#[test]
fn hard_links_reach_into_layers_below() {
    let base = || vec![text("d/f", "1"), symlink("d/l", "f")];
    let tree = laid(vec![base(), vec![hard_link("g", "d/f"), hard_link("m", "d/l")]]).unwrap();
    assert_eq!(told(&tree), "d/ d/f=1 d/l->f g=1 m->f");
    let visits: Vec<_> = tree.walk().map(|step| step.visit).collect();
    use Visit::{Again, First};
    assert_eq!(visits, [First, First, First, Again, Again]);
    // Even to what the link replaces.
    lays(vec![base(), vec![hard_link("d", "d/f")]], "d=1");
    lays(vec![base(), vec![hard_link("d/f", "d/f")]], "d/ d/f=1 d/l->f");
    lays(vec![base(), vec![hard_link("g", "d/f"), text("d/f", "2")]], "d/ d/f=2 d/l->f g=1");
    for (link, what) in [
        (hard_link("x", "no"), "nothing before it"),
        (hard_link("x", "no/where"), "nothing before it"),
        (hard_link("x", "d"), "to a directory"),
        (hard_link("x", ""), "nothing before it"),
        (hard_link("x", "d/f/y"), "not a directory"),
    ] {
        let said = problem(vec![base(), vec![link]]);
        assert!(said.contains("\"x\"") && said.contains(what), "{said}");
    }
}

#[test]
fn what_has_no_place_is_named() {
    let said = problem(vec![vec![text("f", ""), text("f/g", "")]]);
    assert_eq!(said, "\"f/g\" of the archive: what it is in is not a directory");
    assert!(problem(vec![vec![text("", "")]]).contains("root can only be a directory"));
    let deep = |n: usize| text(&format!("{n}/x"), "");
    let said = problem(vec![(0..=MAX_IMPLIED).map(deep).collect()]);
    assert!(said.contains("does not mention the directories"), "{said}");
}

#[test]
fn links_that_lead_a_long_way_again_and_again_cost_little() {
    let long = format!("{}d", "./d/../".repeat(500));
    let mut entries = vec![directory("d"), symlink("long", &long)];
    entries.extend((0..200_000).map(|n| text(&format!("long/{n}/{n}"), "")));
    let said = problem(vec![entries]);
    assert!(said.contains("a very long way") || said.contains("does not mention"), "{said}");
    // Also where there is nothing but slashes.
    let mut entries = vec![symlink("all", &"/".repeat(4095))];
    entries.extend((0..2000).map(|n| text(&format!("{}f{n}", "all/".repeat(n % 40)), "")));
    let said = problem(vec![entries]);
    assert!(said.contains("a very long way"), "{said}");
}

#[test]
fn directories_that_are_missing_can_be_made_and_programs_found() {
    let mut tool = text("usr/bin/tool", "#!");
    tool.attributes.mode = 0o755;
    let mut tree = laid(vec![vec![tool, symlink("bin", "usr/bin"), text("f", "")]]).unwrap();
    for path in ["/srv/a", "bin/x", "f/y", "", "/"] {
        tree.make_directories(path);
    }
    assert_eq!(told(&tree), "bin->usr/bin f= srv/ srv/a/ usr/ usr/bin/ usr/bin/tool=#! usr/bin/x/");
    assert!(tree.is_program("bin/tool") && tree.is_program("/usr/bin/tool"));
    for none in ["f", "bin", "bin/tool/x", "no", "bin/no", ""] {
        assert!(!tree.is_program(none), "{none}");
    }
}

#[test]
fn attributes_are_those_that_were_said_last() {
    let mut again = directory("d");
    again.attributes.mode = 0o700;
    again.xattrs = vec![("user.new".to_owned(), vec![1])];
    let mut first = directory("d");
    first.xattrs = vec![("user.old".to_owned(), vec![1])];
    let mut root = directory("");
    root.attributes.uid = 7;
    let tree = laid(vec![vec![first, text("d/f", "")], vec![again, root]]).unwrap();
    let step = tree.walk().next().unwrap();
    assert_eq!(tree.node(step.node).attributes.mode, 0o700);
    assert_eq!(tree.node(step.node).xattrs, [("user.new".to_owned(), vec![1])]);
    assert_eq!(tree.node(NodeId::ROOT).attributes.uid, 7);
    assert_eq!((tree.count(), tree.content_len()), (3, 0));
}

/// The simplest file system: every path with what it stands for.
#[derive(Clone, Debug, Default)]
struct Model {
    paths: BTreeMap<String, (usize, Entry)>,
    next: usize,
}

impl Model {
    fn kind(&self, path: &str) -> Option<&Kind> {
        self.paths.get(path).map(|(_, entry)| &entry.kind)
    }

    fn remove(&mut self, path: &str) {
        let below = format!("{path}/");
        self.paths.retain(|name, _| name != path && !name.starts_with(&below));
    }

    fn insert(&mut self, entry: Entry) {
        self.next += 1;
        self.paths.insert(entry.path.to_string(), (self.next, entry));
    }

    /// Where a directory really is; made if it is missing.
    fn directory(&mut self, path: &str, links: &mut usize) -> Option<String> {
        let mut at = String::new();
        let parts: Vec<String> = path.split('/').map(str::to_owned).collect();
        for (n, part) in parts.iter().enumerate() {
            match part.as_str() {
                "" | "." => continue,
                ".." => {
                    at.truncate(at.rfind('/').unwrap_or(0));
                    continue;
                }
                _ => {}
            }
            let here = if at.is_empty() { part.clone() } else { format!("{at}/{part}") };
            match self.kind(&here).cloned() {
                None => {
                    let made = Entry { attributes: IMPLIED, ..directory(&here) };
                    self.insert(made);
                    at = here;
                }
                Some(Kind::Directory) => at = here,
                Some(Kind::Symlink(target)) => {
                    *links += 1;
                    if *links > MAX_LINKS_ON_WAY {
                        return None;
                    }
                    let target = target.to_string();
                    let from = if target.starts_with('/') { String::new() } else { at };
                    let rest = parts[n + 1..].join("/");
                    return self.directory(&format!("{from}/{target}/{rest}"), links);
                }
                Some(_) => return None,
            }
        }
        Some(at)
    }

    /// Whether the entry has a place.
    fn put(&mut self, mut entry: Entry) -> bool {
        let path = entry.path.to_string();
        let (dir, name) = path.rsplit_once('/').unwrap_or(("", &path));
        let linked = match &entry.kind {
            Kind::HardLink(target) => {
                let target = target.to_string();
                let (dir, name) = target.rsplit_once('/').unwrap_or(("", &target));
                let mut looked = self.clone();
                let Some(dir) = looked.directory(dir, &mut 0) else { return false };
                match self.paths.get(format!("{dir}/{name}").trim_start_matches('/')) {
                    Some((_, known)) if known.kind == Kind::Directory => return false,
                    Some(known) => Some(known.clone()),
                    None => return false,
                }
            }
            _ => None,
        };
        let Some(dir) = self.directory(dir, &mut 0) else { return false };
        let path = format!("{dir}/{name}").trim_start_matches('/').to_owned();
        if let Some(linked) = linked {
            self.remove(&path);
            self.paths.insert(path, linked);
            return true;
        }
        if entry.kind == Kind::Directory && self.kind(&path) == Some(&Kind::Directory) {
            let known = self.paths.get_mut(&path).unwrap();
            known.1.attributes = entry.attributes;
            return true;
        }
        self.remove(&path);
        if matches!(entry.kind, Kind::Symlink(_)) {
            entry.attributes.mode = 0o777;
        }
        entry.path = path.into();
        self.insert(entry);
        true
    }
}

pub(crate) fn paths() -> impl Strategy<Value = String> {
    prop::collection::vec("[abc]|é-long-name", 1..4).prop_map(|parts| parts.join("/"))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn a_tree_is_what_the_simplest_file_system_is(
        entries in prop::collection::vec((paths(), prop_oneof![
            3 => Just(Kind::Directory),
            4 => "[xyz]{0,2}".prop_map(|b| Kind::File(Content::Inline(b.into_bytes()))),
            2 => "[abc](/[abc])?".prop_map(|target| Kind::HardLink(target.into())),
            3 => "/?(\\.\\./)?[abc](/[abc])?".prop_map(|target| Kind::Symlink(target.into())),
        ]), 0..30)
    ) {
        let (mut tree, mut model) = (Tree::new(), Model::default());
        for (n, (path, kind)) in entries.into_iter().enumerate() {
            let mut entry = entry(&path, kind);
            entry.attributes.uid = u32::try_from(n).unwrap();
            let before = model.clone();
            let fits = model.put(entry.clone());
            let laid = tree.lay_entries(0, vec![entry], Whiteouts::Hide);
            prop_assert_eq!(laid.is_ok(), fits, "{:?}", laid);
            if !fits {
                model = before;
                break;
            }
        }
        let mut names: BTreeMap<NodeId, String> = BTreeMap::new();
        let mut found = BTreeMap::new();
        let mut inodes = BTreeMap::new();
        for step in tree.walk() {
            let above = names.get(&step.parent).map(|path| format!("{path}/")).unwrap_or_default();
            let path = format!("{above}{}", step.name);
            names.insert(step.node, path.clone());
            found.insert(path.clone(), tree.node(step.node).attributes);
            let Some((inode, known)) = model.paths.get(&path) else { continue };
            let same = *inodes.entry(*inode).or_insert(step.node) == step.node;
            prop_assert!(same, "{} shares its inode", path);
            let kind = match &tree.node(step.node).kind {
                NodeKind::Directory(_) => Kind::Directory,
                NodeKind::File(place) => Kind::File(place.content.clone()),
                NodeKind::Symlink(target) => Kind::Symlink(target.clone()),
                other => panic!("{other:?}"),
            };
            prop_assert_eq!(&kind, &known.kind, "{}", path);
        }
        let expected: BTreeMap<_, _> =
            model.paths.iter().map(|(path, (_, entry))| (path.clone(), entry.attributes)).collect();
        // What failed may have made directories on its way.
        for (path, attributes) in &expected {
            prop_assert_eq!(found.get(path), Some(attributes), "{}", path);
        }
    }
}
