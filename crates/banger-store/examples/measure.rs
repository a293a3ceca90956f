//! What durable writes cost on this machine: `measure DIRECTORY`.
#![expect(clippy::print_stdout, reason = "its output is what it is for")]

use std::error::Error;
use std::path::Path;
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

use banger_model::{Limits, SandboxId, SandboxRecord};
use banger_store::{Store, Write, Writer};
use serde_json::json;

type Outcome<T> = Result<T, Box<dyn Error>>;

/// Groups that are written together.
const TOGETHER: u64 = 50;
/// How often each figure is taken.
const ROUNDS: u64 = 20;

fn main() -> Outcome<()> {
    let dir = std::env::args().nth(1).ok_or("usage: measure DIRECTORY")?;
    let path = Path::new(&dir).join("measure.db");
    one_by_one(&path)?;
    together(&path)?;
    full(&path)?;
    Ok(())
}

fn sandbox(n: u64, boots: u64) -> Outcome<SandboxRecord> {
    let id: SandboxId = format!("{n:012x}").parse()?;
    Ok(serde_json::from_value(json!({
        "id": id,
        "name": format!("n{n}"),
        "spec": {
            "image": "debian-bookworm", "kernel": "debian-cloud", "cpus": 2,
            "memory": 536_870_912, "disk": 8_589_934_592_u64, "network": "user",
        },
        "labels": { "project": "shop", "owner": "somebody" },
        "lifetime": {
            "ttl": 28_800_000, "idle_timeout": null, "restart": "no", "disposal": "keep",
            "lease": null,
        },
        "created": n,
        "state": { "state": "running", "since": n },
        "boots": boots,
        "restarts": 0,
    }))?)
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

fn one_by_one(path: &Path) -> Outcome<()> {
    let mut store = Store::open(path)?;
    store.write(&[vec![Write::Insert(sandbox(0, 0)?)]])?;
    let mut took = Vec::new();
    for boots in 0..500 {
        let group = vec![Write::Update(sandbox(0, boots)?)];
        let start = Instant::now();
        store.write(&[group])?;
        took.push(start.elapsed());
    }
    let all: Duration = took.iter().sum();
    took.sort();
    let rate = 500.0 / all.as_secs_f64();
    let (half, most) = (millis(took[250]), millis(took[494]));
    println!("one by one: {rate:.0} commits/s, p50 {half:.2} ms, p99 {most:.2} ms");
    Ok(())
}

fn together(path: &Path) -> Outcome<()> {
    let writer = Writer::start(Store::open(path)?)?;
    let mut took = Vec::new();
    let mut all = Duration::ZERO;
    for round in 0..ROUNDS {
        let (tell, told) = channel();
        let records: Vec<_> =
            (1..=TOGETHER).map(|n| sandbox(round * TOGETHER + n, 0)).collect::<Outcome<_>>()?;
        let start = Instant::now();
        thread::scope(|scope| {
            for record in records {
                let (tell, writer) = (tell.clone(), &writer);
                scope.spawn(move || {
                    let asked = Instant::now();
                    writer.submit(vec![Write::Insert(record)], move |outcome| {
                        let _heard = tell.send(outcome.map(|()| asked.elapsed()));
                    });
                });
            }
        });
        drop(tell);
        for outcome in told {
            took.push(outcome?);
        }
        all += start.elapsed();
    }
    took.sort();
    let rate = took.len() as f64 / all.as_secs_f64();
    let (half, most) = (millis(took[took.len() / 2]), millis(took[took.len() - 1]));
    let round = millis(all) / ROUNDS as f64;
    println!("{TOGETHER} threads at once: all in {round:.2} ms, {rate:.0} inserts/s");
    println!("  latency of one: p50 {half:.2} ms, worst {most:.2} ms");
    Ok(())
}

fn full(path: &Path) -> Outcome<()> {
    let mut store = Store::open(path)?;
    let there = ROUNDS * TOGETHER + 1;
    let rest: Vec<_> = (there..Limits::MAX_SANDBOXES as u64)
        .map(|n| Ok(vec![Write::Insert(sandbox(n, 0)?)]))
        .collect::<Outcome<_>>()?;
    let start = Instant::now();
    store.write(&rest)?;
    println!("{} inserts in one commit: {:.1} ms", rest.len(), millis(start.elapsed()));
    drop(store);
    let start = Instant::now();
    let store = Store::open(path)?;
    let opened = start.elapsed();
    let rows = store.load()?.sandboxes.len();
    let loaded = start.elapsed() - opened;
    println!("{rows} sandboxes: open {:.1} ms, load {:.1} ms", millis(opened), millis(loaded));
    Ok(())
}
