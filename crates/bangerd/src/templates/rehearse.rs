//! Doing once what every sandbox does first, before its machine is saved.
//!
//! A guest that was restored has nothing but what was in its memory: what it takes to become a
//! sandbox and to start a process would have to be read from the disk again each time. So it was
//! done before, by nobody in particular; what it leaves is replaced when the machine becomes
//! somebody's.

use std::time::Duration;

use anyhow::{Result, bail};
use banger_host::random;
use banger_link::{Command, Identity, Request, SignalScope};
use banger_model::{EnvVar, SandboxId};
use banger_net::UserNet;
use tokio::time::{sleep, timeout};

use crate::link::{Link, Process};
use crate::machine::ask;

/// Where the programs are that nearly every image has.
const PATH: &[u8] = b"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A program that does nothing.
const NOTHING: &[&str] = &["true"];
/// How long that may take: 0.1 s where it was measured, under emulation, times what else the host
/// may have to do. It is done without one that takes longer.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long a guest is left alone afterwards. What its kernel has put off, like a cgroup that goes in
/// three steps with time between them, is done by then; else whoever is made from it does it first.
const REST: Duration = Duration::from_millis(300);
/// SIGKILL (signal(7)).
const KILL: u8 = 9;

/// What processes of a machine do that rehearses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Processes {
    /// They go, and others can be started.
    Go,
    /// They stand still, as another would that was started.
    Stand,
}

/// Becomes nobody, and starts a process as nobody, if it would go.
///
/// # Errors
/// When the guest does not take an identity, or what was started in it does not end; it may have
/// no program to start.
pub(crate) async fn rehearse(link: &Link, processes: Processes) -> Result<()> {
    ask(link, Request::Configure(nobody()?)).await?;
    if processes == Processes::Go {
        do_nothing(link).await?;
    }
    // The network is to be made up by whoever has one: an interface that is down has nothing to
    // do when it wakes up.
    ask(link, Request::Configure(Identity { net: None, ..nobody()? })).await?;
    sleep(REST).await;
    Ok(())
}

/// Starts a process that does nothing. What an image calls so may do anything: nothing of it goes
/// on in those who are made from this machine.
async fn do_nothing(link: &Link) -> Result<()> {
    // An image without `true` has other programs, and reads them when they are needed.
    let started = timeout(PATIENCE, link.start(command(NOTHING)?)).await;
    let Ok(Ok(mut process)) = started else { return Ok(()) };
    let first = ended(&mut process).await;
    let scope = SignalScope::Tree;
    // Refused where nothing is left of it.
    let _ = ask(link, Request::Signal { process: process.id(), signal: KILL, scope }).await;
    if !first && !ended(&mut process).await {
        bail!("a process of the image does not end: {}", NOTHING.join(" "));
    }
    Ok(timeout(PATIENCE, process.release()).await??)
}

/// Waits for the end of a process, but not for ever; whether it has come.
async fn ended(process: &mut Process) -> bool {
    let end = timeout(PATIENCE, process.finish(&mut Vec::new(), 0)).await;
    end.is_ok_and(|end| end.is_ok())
}

fn nobody() -> Result<Identity> {
    let plan = UserNet::plan(&SandboxId::from_random([0; 6]));
    Ok(Identity {
        hostname: "nobody".to_owned(),
        machine_id: [0; 16],
        entropy: random::bytes()?,
        wall_clock_ns: banger_host::clock::wall_ns(),
        mac: plan.mac,
        net: Some(plan.guest),
    })
}

/// Runs a command and waits for its end.
///
/// # Errors
/// When it cannot be started or is lost.
pub(crate) async fn run_to_end(link: &Link, argv: &[&str]) -> Result<()> {
    let mut process = link.start(command(argv)?).await?;
    process.finish(&mut Vec::new(), 0).await?;
    Ok(process.release().await?)
}

fn command(argv: &[&str]) -> Result<Command> {
    Ok(Command {
        argv: argv.iter().map(|word| word.as_bytes().to_vec()).collect(),
        env: vec![EnvVar::parse(PATH)?],
        cwd: None,
        user: None,
        terminal: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::tests::guest;

    #[tokio::test(start_paused = true)]
    async fn an_image_may_call_true_what_never_ends() {
        let link = Link::begin(guest()).unwrap();
        rehearse(&link, Processes::Go).await.unwrap();
        // Nothing goes on, and nothing is kept of it.
        assert_eq!(link.list().await.unwrap(), []);
    }
}
