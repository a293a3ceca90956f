//! The link of a real sandbox, cut again and again.

use std::path::PathBuf;
use std::sync::Arc;

use banger_host::home::Home;
use banger_link::{Command, Reply, Request, Stream};
use banger_model::{BootMode, EnvVar, NetworkMode, ProcessEnd, SandboxId, SandboxSpec, Silent};
use bangerd::assets::{Assets, Base, Sources, discover_vmm};
use bangerd::checkpoint::Checkpoints;
use bangerd::link::{Link, ProcessEvent};
use bangerd::machine::{self, Blueprint, HelperProgram, Live, Source};
use sha2::{Digest as _, Sha256};

use crate::support::TestEnv;

/// A machine without a daemon.
struct Sandbox {
    live: Live,
    dir: PathBuf,
}

impl Sandbox {
    fn link(&self) -> &Link {
        &self.live.link
    }

    async fn end(self) {
        machine::clear(&self.dir).await.unwrap();
        std::fs::remove_dir_all(self.dir).unwrap();
    }
}

async fn start(env: &TestEnv) -> Sandbox {
    let home = Home::under(&env.home());
    let agent = banger_testkit::agent_dir().unwrap().join("banger-agent");
    let path = "/usr/sbin:/usr/bin:/sbin:/bin".into();
    let sources = Sources { home: home.clone(), path, agent };
    let spec = SandboxSpec {
        network: NetworkMode::None,
        boot: BootMode::Cold,
        ..SandboxSpec::of("debian-bookworm".parse().unwrap())
    };
    let base = Base::Wanted(spec.image.clone());
    let vmm = discover_vmm(&sources).await.unwrap();
    let assets =
        Arc::new(Assets::prepare(&sources, vmm, &base, None, Arc::new(Silent)).await.unwrap());
    let id = SandboxId::from_random([7; 6]);
    let dir = machine::make_dir(&home.bench().join(id.as_str())).unwrap();
    let relay = HelperProgram { program: "/nonexistent".into(), args: Vec::new() };
    let name = "link".parse().unwrap();
    let blueprint = Blueprint {
        id: &id,
        name: &name,
        dir: &dir,
        spec: &spec,
        assets: &assets,
        relay: &relay,
        volumes: Default::default(),
        source: Source::Kernel,
    };
    let prepared = machine::prepare(&blueprint, &Checkpoints::default()).await.unwrap();
    let live = machine::boot(&blueprint, prepared).await.unwrap();
    Sandbox { live, dir }
}

fn sh(script: &str) -> Command {
    Command {
        argv: ["sh", "-c", script].map(|arg| arg.as_bytes().to_vec()).into(),
        env: vec![EnvVar::parse(b"PATH=/usr/bin:/bin").unwrap()],
        cwd: None,
        user: None,
        terminal: None,
    }
}

/// Runs a command, cutting the link each time so many more bytes of its output have come.
async fn run_with_cuts(link: &Link, script: &str, every: usize) -> (Vec<u8>, ProcessEnd, usize) {
    let mut process = link.start(sh(script)).await.unwrap();
    let (mut output, mut cuts) = (Vec::new(), 0);
    loop {
        match process.next().await.unwrap() {
            ProcessEvent::Output(stream, bytes) => {
                process.control().consumed(stream, bytes.len()).await.unwrap();
                if stream == Stream::Stdout {
                    output.extend(bytes);
                }
            }
            ProcessEvent::Exited(end) => {
                process.release().await.unwrap();
                return (output, end, cuts);
            }
            ProcessEvent::Lost(refusal) => panic!("{refusal}"),
            _ => {}
        }
        if output.len() > (cuts + 1) * every {
            cuts += 1;
            link.reconnect().await.unwrap();
        }
    }
}

#[test]
fn fifty_cuts_lose_no_byte_and_processes_outlive_them() {
    let Some(env) = TestEnv::with_machines() else { return };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let sandbox = start(&env).await;
        let link = sandbox.link();
        let counter = link.start(sh("exec sleep 1000")).await.unwrap();
        let script = "seq 1 1500000 | tee /tmp/seq; sha256sum < /tmp/seq >&2";
        let (output, end, cuts) = run_with_cuts(link, script, 190_000).await;
        assert_eq!(end, ProcessEnd::Exited(0));
        assert!(cuts >= 50, "{cuts} cuts");
        let expected: String = (1..=1_500_000).map(|n| format!("{n}\n")).collect();
        assert_eq!(Sha256::digest(&output), Sha256::digest(expected.as_bytes()));
        let Reply::Processes(processes) = link.request(Request::List).await.unwrap() else {
            panic!("a list was asked for");
        };
        let running: Vec<_> = processes.iter().filter(|p| p.end.is_none()).collect();
        assert_eq!(running.len(), 1, "{processes:?}");
        drop(counter);
        sandbox.end().await;
    });
    env.assert_nothing_left();
}

#[test]
fn many_processes_at_once_keep_their_streams_apart() {
    let Some(env) = TestEnv::with_machines() else { return };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let sandbox = start(&env).await;
        let mut running = Vec::new();
        for number in 0..20 {
            let link = sandbox.link().clone();
            let script = format!("for i in $(seq 200); do echo {number}; done");
            running.push(tokio::spawn(async move {
                let (output, end, _) = run_with_cuts(&link, &script, usize::MAX / 2).await;
                (number, output, end)
            }));
        }
        for task in running {
            let (number, output, end) = task.await.unwrap();
            assert_eq!(end, ProcessEnd::Exited(0));
            assert_eq!(output, format!("{number}\n").repeat(200).into_bytes());
        }
        sandbox.end().await;
    });
}
