//! A process that has a store open, for tests to look at and to kill.
//!
//! `scribe hold PATH` writes a little, says `ready` and waits for the end of its input.
//! `scribe write PATH FIRST` writes without end: group `n` makes sandbox and operation `n` and
//! removes those of `n - 200`; each `n` is said once it is durable.
#![expect(clippy::print_stdout, reason = "its output is what it is for")]

use std::error::Error;
use std::io::{self, Read, Write as _};
use std::path::Path;
use std::sync::mpsc::sync_channel;

use banger_model::{OperationId, OperationRecord, SandboxId, SandboxRecord};
use banger_store::{Store, Write, Writer};
use serde_json::json;

/// How many sandboxes there are at a time.
const WINDOW: u64 = 200;
/// Groups that wait at a time: enough for commits of several.
const IN_FLIGHT: usize = 16;

type Outcome<T> = Result<T, Box<dyn Error>>;

fn main() -> Outcome<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["hold", path] => hold(Path::new(path)),
        ["write", path, first] => write(Path::new(path), first.parse()?),
        _ => Err("usage: scribe hold PATH | scribe write PATH FIRST".into()),
    }
}

fn sandbox_id(n: u64) -> Outcome<SandboxId> {
    Ok(format!("{n:012x}").parse()?)
}

fn operation_id(n: u64) -> Outcome<OperationId> {
    Ok(format!("{n:016x}").parse()?)
}

fn group(n: u64) -> Outcome<Vec<Write>> {
    let sandbox: SandboxRecord = serde_json::from_value(json!({
        "id": sandbox_id(n)?,
        "name": format!("n{n}"),
        "spec": {
            "image": "debian-bookworm", "kernel": "debian-cloud", "cpus": null,
            "memory": 536_870_912, "disk": 8_589_934_592_u64, "network": "user",
        },
        "labels": {},
        "lifetime": {
            "ttl": null, "idle_timeout": null, "restart": "no", "disposal": "keep", "lease": null,
        },
        "created": n,
        "state": { "state": "created" },
        "boots": 0,
        "restarts": 0,
    }))?;
    let operation: OperationRecord = serde_json::from_value(json!({
        "id": operation_id(n)?,
        "sandbox": sandbox_id(n)?,
        "action": "start",
        "goal": { "goal": "running", "after": 0 },
        "started": n,
        "status": { "status": "running" },
    }))?;
    let mut group = vec![Write::Insert(sandbox), Write::PutOperation(operation)];
    if let Some(old) = n.checked_sub(WINDOW) {
        group.push(Write::Remove(sandbox_id(old)?));
        group.push(Write::RemoveOperation(operation_id(old)?));
    }
    Ok(group)
}

fn hold(path: &Path) -> Outcome<()> {
    let mut store = Store::open(path)?;
    for outcome in store.write(&(0..5).map(group).collect::<Outcome<Vec<_>>>()?)? {
        outcome?;
    }
    println!("ready");
    io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}

fn write(path: &Path, first: u64) -> Outcome<()> {
    let writer = Writer::start(Store::open(path)?)?;
    let (tell, told) = sync_channel::<Result<(), String>>(IN_FLIGHT);
    for (begun, n) in (first..).enumerate() {
        if begun >= IN_FLIGHT {
            told.recv()??;
        }
        let tell = tell.clone();
        writer.submit(group(n)?, move |outcome| {
            let said = outcome
                .map_err(|error| error.to_string())
                .and_then(|()| writeln!(io::stdout(), "{n}").map_err(|error| error.to_string()));
            let _ended = tell.send(said);
        });
    }
    Ok(())
}
