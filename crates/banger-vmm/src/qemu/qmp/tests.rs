//! The client against a QEMU that behaves in every way it should not.

use super::*;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::net::UnixListener;

const GREETING: &str = "{\"QMP\": {\"version\": {}, \"capabilities\": []}}\r\n";
const PATIENCE: Duration = Duration::from_secs(5);

/// What the fake does once its greeting is out: for each command that it reads, the lines it
/// answers; after the last it closes.
async fn fake(greeting: &'static str, answers: Vec<String>) -> UnixStream {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("qmp");
    let listener = UnixListener::bind(&path).unwrap();
    let client = UnixStream::connect(&path).await.unwrap();
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let mut stream = BufReader::new(stream);
        stream.write_all(greeting.as_bytes()).await.unwrap();
        for answer in answers {
            let mut line = String::new();
            stream.read_line(&mut line).await.unwrap();
            if stream.write_all(answer.as_bytes()).await.is_err() {
                return;
            }
        }
        drop(dir);
    });
    client
}

fn ok(id: u64) -> String {
    format!("{{\"return\": {{}}, \"id\": {id}}}\r\n")
}

async fn open(answers: Vec<String>) -> Qmp {
    let answers = [vec![ok(1)], answers].concat();
    Qmp::open(fake(GREETING, answers).await, PATIENCE).await.unwrap()
}

#[tokio::test]
async fn events_between_answers_do_not_disturb() {
    let stop = "{\"event\": \"STOP\", \"data\": {}}\r\n";
    let qmp = open(vec![format!("{stop}{}{stop}", ok(2)), format!("{stop}{}", ok(3))]).await;
    qmp.execute("stop", Value::Null, PATIENCE).await.unwrap();
    qmp.execute("stop", Value::Null, PATIENCE).await.unwrap();
    let mut observed = qmp.observed();
    observed.wait_for(|observed| observed.turns == 3).await.unwrap();
}

#[tokio::test]
async fn a_refusal_carries_qemus_words() {
    let refusal = "{\"id\": 2, \"error\": {\"class\": \"GenericError\", \"desc\": \"not now\"}}\n";
    let qmp = open(vec![refusal.to_owned()]).await;
    let error = qmp.execute("cont", Value::Null, PATIENCE).await.unwrap_err();
    assert_eq!(error.to_string(), "\"cont\" was refused: not now");
}

#[tokio::test]
async fn an_answer_to_another_command_is_not_taken_for_ours() {
    let qmp = open(vec![ok(77), String::new()]).await;
    let error = qmp.execute("cont", Value::Null, Duration::from_millis(50)).await.unwrap_err();
    assert!(matches!(error, QmpError::Late { command: "cont", .. }), "{error}");
}

#[tokio::test]
async fn a_late_answer_does_not_spoil_the_next_command() {
    let qmp = open(vec![String::new(), format!("{}{}", ok(2), ok(3))]).await;
    let late = qmp.execute("cont", Value::Null, Duration::from_millis(50)).await;
    assert!(matches!(late, Err(QmpError::Late { .. })));
    qmp.execute("cont", Value::Null, PATIENCE).await.unwrap();
}

#[tokio::test]
async fn a_closed_connection_ends_every_wait() {
    let qmp = open(vec![]).await;
    let error = qmp.execute("cont", Value::Null, PATIENCE).await.unwrap_err();
    assert!(matches!(error, QmpError::Closed), "{error}");
    assert!(qmp.observed().changed().await.is_err());
}

#[tokio::test]
async fn garbage_and_endless_lines_end_the_connection() {
    for nonsense in ["garbage\n".to_owned(), "x".repeat(codec::MAX_LINE_LEN + 1), "{}\n".into()] {
        let qmp = open(vec![nonsense, String::new()]).await;
        let error = qmp.execute("cont", Value::Null, PATIENCE).await.unwrap_err();
        assert!(matches!(error, QmpError::Closed), "{error}");
    }
}

#[tokio::test]
async fn without_a_greeting_there_is_no_connection() {
    for (greeting, is_decode) in [("", false), ("hello\n", true), ("{\"event\": \"STOP\"}\n", true)]
    {
        let stream = fake(greeting, vec![String::new()]).await;
        let error = Qmp::open(stream, Duration::from_millis(100)).await.unwrap_err();
        let expected = if is_decode {
            matches!(error, QmpError::Decode(_))
        } else {
            matches!(error, QmpError::Late { command: "greeting", .. })
        };
        assert!(expected, "{greeting:?}: {error}");
    }
}

#[tokio::test]
async fn a_status_must_have_a_status() {
    let good = "{\"return\": {\"status\": \"io-error\", \"running\": false}, \"id\": 2}\n";
    let qmp = open(vec![good.to_owned(), ok(3)]).await;
    assert_eq!(qmp.status(PATIENCE).await.unwrap(), "io-error");
    assert!(matches!(qmp.status(PATIENCE).await, Err(QmpError::Decode(_))));
}
