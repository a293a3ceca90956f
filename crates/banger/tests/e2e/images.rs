//! Images from a real registry become sandboxes, whatever is in them and however little.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::path::Path;
use std::process::Stdio;

use banger_testkit::oci::images::{TestImage, TestLayer};
use banger_testkit::oci::registry::{Auth, Registry, lay_out, skopeo};
use serde_json::{Value, json};

use crate::support::{TestEnv, wait_until};
use crate::vm::ran;

/// Debian's static busybox, for images with a shell and nothing else.
const BUSYBOX: &str = "/bin/busybox";

/// A registry, and a home that knows it and has images of its own.
pub(crate) struct Place {
    pub(crate) env: TestEnv,
    pub(crate) registry: Registry,
}

impl Place {
    pub(crate) fn new() -> Option<Self> {
        let env = TestEnv::with_machines()?.with_own_images();
        let registry = Registry::start(&env.home(), Auth::None)?;
        let config = format!("[registry.{:?}]\ninsecure = true\n", registry.host);
        std::fs::write(env.home().join("config.toml"), config).unwrap();
        Some(Self { env, registry })
    }

    /// Puts an image into the registry; its reference.
    pub(crate) fn push(&self, name: &str, image: &TestImage) -> Option<String> {
        let layout = self.env.home().join(format!("layout-{name}-{}", image.digest().hex()));
        lay_out(&layout, "v1", image);
        let reference = format!("{}/test/{name}:v1", self.registry.host);
        let (from, to) = (format!("oci:{}:v1", layout.display()), format!("docker://{reference}"));
        skopeo(&["--dest-tls-verify=false", &from, &to])?;
        Some(reference)
    }
}

/// Runs a line that has to end well and print this. What takes long on a busy host may be told
/// beside.
pub(crate) fn gives(env: &TestEnv, line: &str, expected: &str) {
    let (status, stdout, stderr) = ran(env, line);
    assert_eq!((status, stdout.as_str()), (0, expected), "{line}: {stderr}");
}

/// What an archive is made of.
pub(crate) enum Put<'a> {
    Program(&'a str, Vec<u8>),
    File(&'a str, &'a str),
    Link(&'a str, &'a str),
}

pub(crate) fn layer(puts: &[Put<'_>]) -> TestLayer {
    let mut tar = tar::Builder::new(Vec::new());
    for put in puts {
        let mut header = tar::Header::new_gnu();
        header.set_mtime(1_700_000_000);
        header.set_mode(0o755);
        match put {
            Put::Program(path, bytes) => {
                header.set_size(bytes.len() as u64);
                tar.append_data(&mut header, path, bytes.as_slice()).unwrap();
            }
            Put::File(path, text) => {
                header.set_mode(0o644);
                header.set_size(text.len() as u64);
                tar.append_data(&mut header, path, text.as_bytes()).unwrap();
            }
            Put::Link(path, target) => {
                header.set_entry_type(tar::EntryType::Symlink);
                header.set_size(0);
                tar.append_link(&mut header, path, target).unwrap();
            }
        }
    }
    TestLayer::gzip(tar.into_inner().unwrap())
}

pub(crate) fn image(layers: Vec<TestLayer>, config: &Value) -> TestImage {
    TestImage::with_config(layers, |whole| whole["config"] = config.clone())
}

/// A shell with some tools; `None` where Debian's busybox is missing, after saying so.
pub(crate) fn busybox() -> Option<TestLayer> {
    let Ok(program) = std::fs::read(BUSYBOX) else {
        banger_testkit::skipped("busybox-static is not installed");
        return None;
    };
    let mut puts = vec![Put::Program("bin/busybox", program)];
    puts.extend(
        ["bin/sh", "bin/cat", "bin/echo", "bin/id", "bin/ls", "bin/pwd"]
            .map(|link| Put::Link(link, "busybox")),
    );
    Some(layer(&puts))
}

/// A program that needs nothing and tells what it was given.
fn static_program() -> Vec<u8> {
    let agent = banger_testkit::agent_dir().unwrap().join("banger-agent");
    std::fs::read(agent).unwrap()
}

pub(crate) fn shown(env: &TestEnv, image: &str) -> Value {
    serde_json::from_str(&env.run(["image", "show", image, "-o", "json"]).ok()).unwrap()
}

fn shown_vm(env: &TestEnv) -> Value {
    serde_json::from_str(&env.run(["vm", "show", "web", "-o", "json"]).ok()).unwrap()
}

#[test]
fn an_image_is_pulled_when_it_is_missing_and_its_config_is_honoured() {
    let Some(place) = Place::new() else { return };
    let Some(tools) = busybox() else { return };
    let about = layer(&[
        Put::File("etc/os-release", "NAME=busy\n"),
        Put::File("etc/passwd", "root:x:0:0::/root:/bin/sh\nwww:x:33:44::/srv:/bin/sh\n"),
    ]);
    let config = json!({
        "Env": ["PATH=/bin", "GREETING=hello"], "User": "www", "WorkingDir": "/srv/app",
        "Entrypoint": ["/bin/sh", "-c", "echo $GREETING \"$@\"", "entry"], "Cmd": ["by", "default"],
        "ExposedPorts": {"80/tcp": {}}, "Labels": {"by": "us"}, "StopSignal": "SIGQUIT",
        "Healthcheck": {
            "Test": ["CMD-SHELL", "echo looked; /bin/cat /tmp/good"],
            "Interval": 1_000_000_000, "Retries": 1,
        },
    });
    let Some(reference) = place.push("busy", &image(vec![tools, about], &config)) else { return };
    let env = &place.env;
    let run = |args: &[&str]| {
        env.run([&["vm", "run", "--network", "none", "--image", &reference], args].concat()).ok()
    };
    assert_eq!(run(&[]), "hello by default\n");
    assert_eq!(run(&["--", "a", "b c"]), "hello a b c\n");
    assert_eq!(run(&["--entrypoint", "pwd"]), "/srv/app\n");
    assert_eq!(run(&["--entrypoint", "", "--", "id", "-u"]), "33\n");
    assert_eq!(
        run(&["--entrypoint", "", "-u", "0", "--", "cat", "/etc/os-release"]),
        "NAME=busy\n"
    );
    let image = shown(env, &reference);
    assert_eq!(image["name"], "busy-v1");
    assert_eq!(image["config"]["ports"], json!(["80/tcp"]));
    assert_eq!(image["config"]["stop_signal"], "SIGQUIT");
    assert_eq!(image["config"]["labels"]["by"], "us");
    // What runs beside the command is what is said, with the image's environment.
    gives(env, &format!("vm create web --network none --image {reference}"), "web\n");
    assert_eq!(env.run(["vm", "exec", "web", "--", "sh", "-c", "echo $GREETING"]).ok(), "hello\n");
    let health = |wanted: &str| {
        let is_so = || shown_vm(env)["health"]["status"] == wanted;
        crate::support::wait_until(wanted, is_so);
    };
    health("unhealthy");
    env.run(["vm", "exec", "web", "--", "sh", "-c", "echo yes > /tmp/good"]).ok();
    health("healthy");
    assert_eq!(shown_vm(env)["health"]["output"], "looked\nyes\n");
    let denied = env.run(["image", "delete", "busy-v1"]);
    assert!(denied.stderr.contains("needed by web"), "{}", denied.stderr);
    gives(env, "vm delete web --force", "web\n");
    // It is here: nobody is asked any more.
    drop(place.registry);
    let env = place.env;
    gives(&env, "vm run --network none --image busy-v1 -- again", "hello again\n");
    gives(&env, "image delete busy-v1", "busy-v1\n");
    assert_eq!(env.run(["vm", "run", "--image", &reference, "--", "x"]).status, 125);
    env.assert_nothing_left();
}

#[test]
fn an_images_command_ends_with_the_signal_that_the_image_names() {
    let Some(place) = Place::new() else { return };
    let Some(tools) = busybox() else { return };
    let script = "trap 'echo quits; exit 7' QUIT; trap 'echo ends' TERM; echo ready; \
                  while :; do sleep 1; done";
    let config = json!({
        "Env": ["PATH=/bin"], "Entrypoint": ["/bin/sh", "-c", script], "StopSignal": "SIGQUIT",
    });
    let Some(reference) = place.push("quits", &image(vec![tools], &config)) else { return };
    let env = &place.env;
    let run = ["vm", "run", "--network", "none", "--image", &reference];
    let mut child = env.command(run).stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    stdout.read_line(&mut line).unwrap();
    assert_eq!(line, "ready\n");
    let list: Value = serde_json::from_str(&env.run(["vm", "list", "-o", "json"]).ok()).unwrap();
    let name = list[0]["name"].as_str().unwrap();
    // Whoever ran the command may delete the sandbox before it is off.
    let _ = env.run(["vm", "stop", name]);
    let mut rest = String::new();
    stdout.read_to_string(&mut rest).unwrap();
    assert_eq!((rest.as_str(), child.wait().unwrap().code()), ("quits\n", Some(7)));
}

#[test]
fn one_program_and_nothing_else_is_enough_of_an_image() {
    let Some(place) = Place::new() else { return };
    let Some(program) = std::fs::read(BUSYBOX).ok() else { return };
    let alone = image(
        vec![layer(&[Put::Program("busybox", program), Put::File("run", "a file\n")])],
        &json!({ "Entrypoint": ["/busybox"] }),
    );
    let Some(reference) = place.push("alone", &alone) else { return };
    let env = &place.env;
    let run = |args: &[&str]| {
        env.run([&["vm", "run", "--network", "none", "--image", &reference], args].concat())
    };
    assert_eq!(run(&["--", "echo", "it runs"]).ok(), "it runs\n");
    assert_eq!(run(&["--", "id", "-u"]).ok(), "0\n");
    assert_eq!(run(&["-u", "1234:5678", "--", "id", "-g"]).ok(), "5678\n");
    let hosts = run(&["--", "cat", "/etc/hosts"]).ok();
    assert!(hosts.contains("127.0.0.1\tlocalhost"), "{hosts}");
    assert_eq!(run(&["--", "cat", "/run"]).ok(), "a file\n", "even in the place of a directory");
    // Nothing to run, and no shell.
    let none = image(vec![layer(&[Put::Program("run", static_program())])], &json!({}));
    let Some(reference) = place.push("none", &none) else { return };
    let said = env.run(["vm", "run", "--network", "none", "--image", &reference]);
    assert!(said.stderr.contains("neither a command nor a shell"), "{}", said.stderr);
    assert_eq!(said.status, 125);
}

#[test]
fn forty_layers_are_laid_over_each_other() {
    let Some(place) = Place::new() else { return };
    let Some(tools) = busybox() else { return };
    let mut layers = vec![tools];
    for n in 0..39 {
        let (own, hides) = (format!("d/{n}"), format!("d/.wh.{}", n - 2));
        let mut puts = vec![Put::File(&own, "x"), Put::File("d/last", &own)];
        if n % 3 == 2 {
            puts.push(Put::File(&hides, ""));
        }
        layers.push(layer(&puts));
    }
    let Some(reference) = place.push("many", &image(layers, &json!({}))) else { return };
    let listed =
        place.env.run(["vm", "run", "--network", "none", "--image", &reference, "--", "ls", "/d"]);
    let listed: std::collections::BTreeSet<String> =
        listed.ok().lines().map(str::to_owned).collect();
    let expected = (0..39).filter(|n| n % 3 != 0).map(|n| n.to_string());
    assert_eq!(listed, expected.chain(["last".to_owned()]).collect());
}

#[test]
fn nothing_stays_in_a_cache_that_keeps_nothing() {
    let Some(place) = Place::new() else { return };
    let env = &place.env;
    let config = env.home().join("config.toml");
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, format!("[images]\ncache = 0\n{text}")).unwrap();
    for round in 0..2 {
        let puts = (0..40).map(|n| layer(&[Put::File(&format!("f/{round}-{n}"), "x")]));
        let name = format!("many{round}");
        let many = image(puts.collect(), &json!({}));
        let Some(reference) = place.push(&name, &many) else { return };
        let layout = env.home().join(format!("layout-{name}-{}", many.digest().hex()));
        let source =
            if round % 2 == 0 { reference } else { format!("oci:{}:v1", layout.display()) };
        gives(env, &format!("image pull --name {name} {source}"), &format!("{name}\n"));
        let left = env.run(["image", "cache", "list"]).ok();
        assert_eq!(left.lines().count(), 1, "{round}: {left}");
        assert!(env.run(["image", "list", "-q"]).ok().contains(&name));
    }
    let partial = env.home().join("cache/oci/partial");
    let left: Vec<_> = std::fs::read_dir(partial).unwrap().map(|it| it.unwrap().path()).collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn a_tag_that_moves_is_another_image_and_old_sandboxes_keep_theirs() {
    let Some(place) = Place::new() else { return };
    let Some(tools) = busybox() else { return };
    let version =
        |text: &str| image(vec![tools.clone(), layer(&[Put::File("version", text)])], &json!({}));
    let Some(reference) = place.push("app", &version("one\n")) else { return };
    let env = &place.env;
    gives(env, &format!("image pull {reference}"), "app-v1\n");
    let first = shown(env, "app-v1");
    gives(env, "vm create old --network none --image app-v1", "old\n");
    gives(env, "vm stop old", "old\n");
    gives(env, &format!("image pull {reference}"), "app-v1\n");
    assert_eq!(shown(env, "app-v1")["id"], first["id"], "it was here already");
    place.push("app", &version("two\n")).unwrap();
    gives(env, &format!("image pull {reference}"), "app-v1\n");
    assert_ne!(shown(env, "app-v1")["id"], first["id"]);
    gives(env, "vm run --network none --image app-v1 -- cat /version", "two\n");
    gives(env, "vm start old", "old\n");
    gives(env, "vm exec old -- cat /version", "one\n");
    env.kill_daemon();
    gives(env, "vm exec old -- cat /version", "one\n");
    gives(env, "vm delete old --force", "old\n");
}

#[test]
fn images_come_from_archives_layouts_and_standard_input_too() {
    let Some(place) = Place::new() else { return };
    let Some(tools) = busybox() else { return };
    let env = &place.env;
    let layout = env.home().join("layout");
    lay_out(&layout, "v1", &image(vec![tools], &json!({ "Cmd": ["echo", "from a file"] })));
    let from = format!("oci:{}:v1", layout.display());
    let archive = env.home().join("saved.tar");
    let to = format!("docker-archive:{}:saved:v2", archive.display());
    let Some(()) = skopeo(&[&from, &to]) else { return };
    gives(env, &format!("image pull --name laid {from}"), "laid\n");
    gives(env, &format!("image pull {to}"), "saved-v2\n");
    let piped = env.run_with_input(
        &["image", "pull", "--name", "piped", "-"],
        &std::fs::read(&archive).unwrap(),
    );
    assert_eq!(piped.ok(), "piped\n");
    for name in ["laid", "saved-v2", "piped"] {
        gives(env, &format!("vm run --network none --image {name}"), "from a file\n");
    }
    assert_eq!(put_aside(env), Vec::<std::path::PathBuf>::new());
    // Whoever is killed leaves nothing for longer than until the next one.
    let mut killed = env.command(["image", "pull", "--name", "killed", "-"]);
    let mut killed = killed.stdin(Stdio::piped()).spawn().unwrap();
    killed.stdin.as_mut().unwrap().write_all(b"a beginning").unwrap();
    let has_begun = || put_aside(env).iter().any(|aside| aside.join("archive").exists());
    wait_until("the archive is put aside", has_begun);
    killed.kill().unwrap();
    killed.wait().unwrap();
    assert_eq!(put_aside(env).len(), 2, "a directory and its lock");
    gives(env, &format!("image pull --name laid {from}"), "laid\n");
    env.kill_daemon();
    gives(env, "image show -q laid", "laid\n");
    assert_eq!(put_aside(env), Vec::<std::path::PathBuf>::new());
}

/// What clients have put aside for the daemon.
fn put_aside(env: &TestEnv) -> Vec<std::path::PathBuf> {
    let found = std::fs::read_dir(env.home().join("cache/imports")).unwrap();
    found.map(|entry| entry.unwrap().path()).collect()
}

#[test]
fn names_are_never_taken_from_others() {
    let Some(place) = Place::new() else { return };
    let Some(tools) = busybox() else { return };
    let env = &place.env;
    let app = image(vec![tools], &json!({}));
    let push = |path: &str| {
        let layout = env.home().join("layout-names");
        lay_out(&layout, "v1", &app);
        let reference = format!("{}/{path}", place.registry.host);
        let from = format!("oci:{}:v1", layout.display());
        skopeo(&["--dest-tls-verify=false", &from, &format!("docker://{reference}")])?;
        Some(reference)
    };
    let references = ["evil/debian:bookworm", "a/app:V1_0", "a/app:v1-0", "b/app:v1-0"].map(push);
    let [Some(evil), Some(one), Some(two), Some(other)] = references else { return };
    gives(env, &format!("image pull {evil}"), "debian-bookworm-2\n");
    gives(env, &format!("image pull {one}"), "app-v1-0\n");
    gives(env, &format!("image pull {two}"), "app-v1-0-2\n");
    gives(env, &format!("image pull {other}"), "app-v1-0-3\n");
    // The same content by all names, and each is found by its own reference.
    for (reference, name) in [(&one, "app-v1-0"), (&two, "app-v1-0-2"), (&other, "app-v1-0-3")] {
        assert_eq!(shown(env, reference)["name"], name);
        gives(env, &format!("image pull {reference}"), &format!("{name}\n"));
    }
    let refused = env.run(["image", "pull", "--name", "debian-bookworm", &one]);
    assert!(
        refused.stderr.contains("there is an image debian-bookworm already"),
        "{}",
        refused.stderr
    );
    gives(env, &format!("image delete {two}"), "app-v1-0-2\n");
}

#[test]
fn two_pulls_of_one_image_make_one_and_a_killed_daemon_leaves_no_half() {
    let Some(place) = Place::new() else { return };
    let Some(tools) = busybox() else { return };
    let noise = TestLayer::gzip(banger_testkit::oci::images::tar_of(
        "noise",
        &banger_testkit::oci::images::noise(7, 60 << 20),
    ));
    let Some(reference) = place.push("large", &image(vec![tools, noise], &json!({}))) else {
        return;
    };
    let env = &place.env;
    let pulls: Vec<_> = (0..2)
        .map(|_| env.command(["image", "pull", &reference]).stdout(Stdio::piped()).spawn().unwrap())
        .collect();
    for pull in pulls {
        let output = pull.wait_with_output().unwrap();
        assert_eq!(output.stdout, b"large-v1\n");
    }
    assert_eq!(stored(&env.home()), 2, "the default image and this one");
    gives(env, "image delete large-v1", "large-v1\n");
    assert_eq!(stored(&env.home()), 1);
    // Again, this time with a daemon that dies in the midst of it.
    let pull = env.command(["image", "pull", &reference]).stdout(Stdio::piped()).spawn().unwrap();
    crate::support::wait_until("it is being written", || making(&env.home()));
    env.kill_daemon();
    let output = pull.wait_with_output().unwrap();
    assert_eq!(output.stdout, b"large-v1\n", "the next daemon is asked");
    gives(env, "vm run --network none --image large-v1 -- ls /noise", "/noise\n");
    assert_eq!(stored(&env.home()), 2);
    assert!(!making(&env.home()), "nothing half-made is left");
}

fn entries(home: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(home.join("data/image-store")).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

fn stored(home: &Path) -> usize {
    entries(home).iter().filter(|name| !name.starts_with('.')).count()
}

pub(crate) fn making(home: &Path) -> bool {
    entries(home).iter().any(|name| name.ends_with(".new"))
}
