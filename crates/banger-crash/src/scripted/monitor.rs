//! QEMU's control protocol from its other end: one connection after the other.

use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::{Mutex, PoisonError};

use serde_json::{Value, json};

use super::{Machine, Status, inherited};

/// Where events go: to whoever is connected.
#[derive(Default)]
pub(super) struct Events(Mutex<Option<UnixStream>>);

impl Events {
    pub(super) fn tell(&self, name: &str, data: &Value) {
        let timestamp = json!({ "seconds": 0, "microseconds": 0 });
        self.send(&json!({ "event": name, "data": data, "timestamp": timestamp }));
    }

    fn send(&self, message: &Value) {
        if let Some(stream) = &mut *self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            // Who has hung up misses it, as with QEMU.
            let _ = stream.write_all(format!("{message}\r\n").as_bytes());
        }
    }

    fn connect(&self, stream: Option<UnixStream>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = stream;
    }
}

/// Serves one connection after the other, for ever.
pub(super) fn serve(listener: &UnixListener, machine: &Machine) {
    while let Ok((stream, _)) = listener.accept() {
        let Ok(writer) = stream.try_clone() else { continue };
        machine.events.connect(Some(writer));
        let version = json!({ "qemu": { "major": 99, "minor": 0, "micro": 0 }, "package": "" });
        machine.events.send(&json!({ "QMP": { "version": version, "capabilities": [] } }));
        for line in BufReader::new(stream).lines() {
            let Ok(line) = line else { break };
            let Ok(command) = serde_json::from_str::<Value>(&line) else { continue };
            obey(machine, &command);
        }
        machine.events.connect(None);
    }
}

fn obey(machine: &Machine, command: &Value) {
    let name = command.get("execute").and_then(Value::as_str).unwrap_or_default();
    let mut answer = json!({ "return": {} });
    match name {
        "qmp_capabilities" | "set_link" | "cont" | "stop" | "quit" | "system_reset" => {}
        "migrate-set-capabilities" => {}
        "migrate-incoming" => match load(machine, command) {
            Ok(()) => {
                machine.set(Status::Paused);
                machine.events.tell("MIGRATION", &json!({ "status": "completed" }));
            }
            Err(error) => {
                super::say(
                    &mut io::stderr(),
                    &format!("scripted: load of migration failed: {error}"),
                );
                machine.set(Status::Over);
                return;
            }
        },
        "xen-save-devices-state" => {
            if let Err(error) = save(machine, command) {
                answer = json!({ "error": { "class": "GenericError", "desc": error.to_string() } });
            }
        }
        "query-status" => answer = json!({ "return": status(machine.status()) }),
        other => {
            let desc = format!("The command {other} has not been found");
            answer = json!({ "error": { "class": "CommandNotFound", "desc": desc } });
        }
    }
    if let Some(id) = command.get("id") {
        answer["id"] = id.clone();
    }
    if name == "cont" {
        machine.set(Status::Running);
        machine.events.tell("RESUME", &json!({}));
    } else if name == "stop" {
        machine.set(Status::Paused);
        machine.events.tell("STOP", &json!({}));
    }
    machine.events.send(&answer);
    match name {
        "quit" => machine.end("host-qmp-quit"),
        "system_reset" => machine.end("host-qmp-system-reset"),
        _ => {}
    }
}

/// Saves the devices of a machine that stands still.
fn save(machine: &Machine, command: &Value) -> io::Result<()> {
    if machine.status() != Status::Paused {
        return Err(io::Error::other("the machine does not stand still"));
    }
    let file = command.pointer("/arguments/filename").and_then(Value::as_str);
    std::fs::write(file.unwrap_or_default(), machine.memory.devices())
}

/// Loads devices, which have to be those of this memory.
fn load(machine: &Machine, command: &Value) -> io::Result<()> {
    let uri = command.pointer("/arguments/uri").and_then(Value::as_str);
    let number = uri.and_then(|uri| uri.strip_prefix("fd:")?.parse().ok());
    let number = number.ok_or_else(|| io::Error::other("nothing to load from"))?;
    let mut devices = String::new();
    File::from(inherited(number)).read_to_string(&mut devices)?;
    let wanted = machine.memory.devices();
    if devices != wanted {
        return Err(io::Error::other(format!("{devices:?} does not fit memory of {wanted:?}")));
    }
    Ok(())
}

fn status(status: Status) -> Value {
    let (name, running) = match status {
        Status::Prelaunch => ("prelaunch", false),
        Status::Running => ("running", true),
        Status::Paused => ("paused", false),
        Status::Over => ("shutdown", false),
    };
    json!({ "status": name, "running": running, "singlestep": false })
}
