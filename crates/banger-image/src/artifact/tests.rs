//! Artifacts made, opened, damaged in every way, and claimed by several at once.

use super::*;
use banger_host::command::Tool;
use banger_model::Silent;
use std::fs::File;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(60);

fn address(root: &Path) -> Address {
    Address {
        kind: ArtifactKind::Kernel,
        name: "k".to_owned(),
        dir: root.join("k"),
        names: root.to_owned(),
        files: &["large", "small"],
        can_be_made: &["debian-cloud"],
        removal: format!("rm -r {}", root.join("k").display()),
    }
}

fn made(root: &Path) -> Artifact<String> {
    let Ok(Claim::<String>::ToMake(staged)) = claim(&address(root), &Silent) else {
        panic!("it is there already");
    };
    let content: Vec<u8> = (0..300_000u32).map(|n| n.to_le_bytes()[0]).collect();
    fs::write_atomic(&staged.path().join("large"), &content).unwrap();
    fs::write_atomic(&staged.path().join("small"), b"").unwrap();
    Artifact::seal(address(root), staged, "info".to_owned()).unwrap()
}

fn opened(root: &Path) -> Result<Artifact<String>, OpenError> {
    Artifact::open(address(root))
}

fn overwrite(path: &Path, at: u64) {
    let file = File::options().write(true).open(path).unwrap();
    file.write_all_at(b"??", at).unwrap();
}

#[test]
fn what_was_made_is_found_again() {
    let dir = tempfile::tempdir().unwrap();
    let made = made(dir.path());
    let found = opened(dir.path()).unwrap();
    assert_eq!((found.info(), &found.identity), (made.info(), &made.identity));
    assert_eq!(found.files()["large"].size, 300_000);
    found.verify().unwrap();
}

#[test]
fn one_that_is_not_there_is_told_with_those_that_are() {
    let dir = tempfile::tempdir().unwrap();
    let missing = || opened(dir.path()).unwrap_err().to_string();
    assert_eq!(missing(), "there is no kernel k: here are none; can be made: debian-cloud");
    fs::create_private_dir(&dir.path().join("other")).unwrap();
    assert!(missing().contains("here are other;"));
}

#[test]
fn damage_names_the_file_and_the_remedy() {
    type Damage = fn(&Path);
    let damages: [(Damage, &str); 11] = [
        (
            |dir| File::create(dir.join("large")).map(drop).unwrap(),
            "large has 0 bytes instead of 300000",
        ),
        (|dir| overwrite(&dir.join("large"), 0), "the content of large has changed"),
        (|dir| overwrite(&dir.join("large"), 299_998), "the content of large has changed"),
        (|dir| fs::remove_all(&dir.join("small")).unwrap(), "small is missing"),
        (|dir| fs::remove_all(&dir.join(META)).unwrap(), "meta.json is missing"),
        (|dir| fs::write_atomic(&dir.join(META), b"{}").unwrap(), "its meta.json makes no sense"),
        (|dir| rewrite(dir, |meta| meta.files.clear()), "its meta.json is not that of"),
        (
            |dir| {
                rewrite(dir, |meta| {
                    let record = meta.files.remove("large").unwrap();
                    meta.files.insert("../../../etc/passwd".to_owned(), record);
                });
            },
            "its meta.json is not that of the files large, small",
        ),
        (
            |dir| {
                fs::remove_all(dir).unwrap();
                fs::write_atomic(dir, b"a file").unwrap();
            },
            "k is not a directory",
        ),
        (
            |dir| {
                fs::remove_all(dir).unwrap();
                symlink("nowhere", dir).unwrap();
            },
            "meta.json is missing",
        ),
        (|dir| fs::write_atomic(&dir.join(META), &[b' '; 1 << 21]).unwrap(), "is larger than"),
    ];
    for (damage, problem) in damages {
        let dir = tempfile::tempdir().unwrap();
        made(dir.path());
        damage(&dir.path().join("k"));
        let error = opened(dir.path()).unwrap_err();
        let remedy = error.remedy().unwrap();
        let text = error.to_string();
        assert!(text.contains(problem), "{text}");
        assert!(text.contains(&format!("; remove it with `{remedy}`")), "{text}");
        Tool::new("sh").args(["-c", &remedy]).capture(SOON).unwrap();
        assert!(opened(dir.path()).unwrap_err().is_missing(), "{remedy} is the remedy");
    }
}

/// Changes what `meta.json` says.
fn rewrite(dir: &Path, change: fn(&mut Meta<String>)) {
    let bytes = fs::read_bounded(&dir.join(META), MAX_META_LEN).unwrap();
    let mut meta = serde_json::from_slice(&bytes).unwrap();
    change(&mut meta);
    fs::write_atomic(&dir.join(META), &serde_json::to_vec(&meta).unwrap()).unwrap();
}

#[test]
fn what_is_not_a_file_is_damage_and_does_not_hang() {
    for name in [META, "large"] {
        for put in [
            |path: &Path| drop(Tool::new("mkfifo").arg(path).capture(SOON).unwrap()),
            |path: &Path| drop(UnixListener::bind(path).unwrap()),
            |path: &Path| symlink("/dev/zero", path).unwrap(),
            |path: &Path| fs::create_private_dir(path).unwrap(),
        ] {
            let dir = tempfile::tempdir().unwrap();
            let artifact = made(dir.path());
            fs::remove_all(&dir.path().join("k").join(name)).unwrap();
            put(&dir.path().join("k").join(name));
            let problem = format!("{name} is not a file");
            let error = opened(dir.path()).unwrap_err().to_string();
            assert!(error.contains(&problem), "{error}");
            // Whoever has it open already reads its files again, but not what it says of them.
            let verified = artifact.verify();
            assert_eq!(verified.is_ok(), name == META, "{verified:?}");
        }
    }
}

#[test]
fn damage_in_the_middle_is_found_by_reading_everything() {
    let dir = tempfile::tempdir().unwrap();
    made(dir.path());
    overwrite(&dir.path().join("k/large"), 150_000);
    let error = opened(dir.path()).unwrap().verify().unwrap_err();
    assert!(error.to_string().contains("the content of large has changed"));
}

#[test]
fn who_comes_second_waits_and_finds_it_made() {
    let dir = tempfile::tempdir().unwrap();
    let makers: Vec<_> = (0..4)
        .map(|_| {
            let root = dir.path().to_owned();
            std::thread::spawn(move || match claim::<String>(&address(&root), &Silent).unwrap() {
                Claim::Here(_) => 0,
                Claim::ToMake(staged) => {
                    for name in address(&root).files {
                        fs::write_atomic(&staged.path().join(name), b"x").unwrap();
                    }
                    Artifact::seal(address(&root), staged, String::new()).unwrap();
                    1
                }
            })
        })
        .collect();
    let made: u32 = makers.into_iter().map(|maker| maker.join().unwrap()).sum();
    assert_eq!(made, 1);
}

#[test]
fn an_abandoned_build_is_not_an_artifact() {
    let dir = tempfile::tempdir().unwrap();
    let half = dir.path().join(".k.new");
    fs::create_private_dir(&half).unwrap();
    fs::write_atomic(&half.join("large"), b"half").unwrap();
    assert!(opened(dir.path()).unwrap_err().is_missing());
    made(dir.path());
    assert!(!half.exists());
}
