//! Doing once what every sandbox does first, before its machine is saved.
//!
//! A guest that was restored has nothing but what was in its memory: what it takes to become a
//! sandbox and to start a process would have to be read from the disk again each time. So it was
//! done before, by nobody in particular; what it leaves is replaced when the machine becomes
//! somebody's.

use anyhow::Result;
use banger_host::random;
use banger_link::{Command, Identity, Request};
use banger_model::{EnvVar, SandboxId};
use banger_net::UserNet;

use crate::link::Link;

/// Where the programs are that nearly every image has.
const PATH: &[u8] = b"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

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
/// When the guest does not take an identity; it may have no program to start.
pub(crate) async fn rehearse(link: &Link, processes: Processes) -> Result<()> {
    link.request(Request::Configure(nobody()?)).await?;
    if processes == Processes::Go {
        // An image without `true` has other programs, and reads them when they are needed.
        let _ = run_to_end(link, &["true"]).await;
    }
    // The network is to be made up by whoever has one: an interface that is down has nothing to
    // do when it wakes up.
    link.request(Request::Configure(Identity { net: None, ..nobody()? })).await?;
    Ok(())
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
    let command = Command {
        argv: argv.iter().map(|word| word.as_bytes().to_vec()).collect(),
        env: vec![EnvVar::parse(PATH)?],
        cwd: None,
        user: None,
        terminal: None,
    };
    let mut process = link.start(command).await?;
    process.finish(&mut Vec::new(), 0).await?;
    Ok(process.release().await?)
}
