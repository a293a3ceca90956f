//! Standard input on its way to a process.

use std::io::Read as _;

use banger_api::client::SessionControl;
use tokio::sync::mpsc;

/// Bytes read from standard input at once.
const CHUNK: usize = 64 * 1024;
/// Chunks that wait for the sandbox.
const QUEUE: usize = 4;

/// Hands standard input to the process until either ends.
pub(super) async fn pump(control: SessionControl) {
    let (chunks, mut queue) = mpsc::channel::<Vec<u8>>(QUEUE);
    // A read of a terminal cannot be given up: its thread ends with this program.
    std::thread::spawn(move || read(&chunks));
    while let Some(chunk) = queue.recv().await {
        if control.write(&chunk).await.is_err() {
            return;
        }
    }
    control.end_stdin();
}

fn read(chunks: &mpsc::Sender<Vec<u8>>) {
    let mut stdin = std::io::stdin().lock();
    let mut buffer = vec![0; CHUNK];
    // A standard input that is closed or cannot be read is one that has ended.
    while let Ok(n @ 1..) = stdin.read(&mut buffer) {
        if chunks.blocking_send(buffer[..n].to_vec()).is_err() {
            return;
        }
    }
}
