//! Streams of events that break and go on.

use banger_api::client::{ClientError, Events, Follow, LogQuery};
use banger_api::sse::Event;
use banger_api::types::{LogChunk, LogSource, Problem, ProblemCode, Text};
use banger_model::Timestamp;
use proptest::prelude::*;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::fake::{Fake, run, soon};
use crate::requests::operation;

fn text_of<T: Serialize>(name: &str, id: Option<usize>, value: &T) -> String {
    let mut out = String::new();
    let (name, id) = (name.to_owned(), id.map(|id| id.to_string()));
    Event { name, id, data: serde_json::to_string(value).unwrap() }.encode(&mut out);
    out
}

fn chunk(n: usize) -> LogChunk {
    LogChunk { at: Some(Timestamp(1)), text: Text(format!("line {n}\n").into_bytes()) }
}

async fn all<T: DeserializeOwned>(events: &mut Events<T>) -> (Vec<T>, Option<ClientError>) {
    let mut values = Vec::new();
    while let Some(event) = soon(events.next()).await {
        match event {
            Ok(value) => values.push(value),
            Err(error) => {
                assert!(events.next().await.is_none(), "nothing comes after an error");
                return (values, Some(error));
            }
        }
    }
    (values, None)
}

#[tokio::test(start_paused = true)]
async fn an_operation_is_watched_over_restarts_until_it_is_final() {
    let (client, mut fake) = Fake::new();
    let running = text_of("", None, &operation("running"));
    let server = async {
        let mut asked = fake.request().await;
        assert_eq!(asked.line, "GET /v1/operations/0123456789abcdef/events");
        asked.events().await;
        asked.chunk(format!(": alive\n\n{running}")).await;
        drop(asked);
        // Ended in order, and yet too early.
        let mut asked = fake.request().await;
        asked.events().await;
        asked.chunk(&running).await;
        asked.chunk("").await;
        let mut asked = fake.request().await;
        asked.events().await;
        let ending = Problem::new(ProblemCode::ShuttingDown, "later");
        asked.chunk(text_of("problem", None, &ending)).await;
        let mut asked = fake.request().await;
        asked.events().await;
        asked.chunk(text_of("", None, &operation("failed"))).await;
        asked
    };
    let mut events = client.watch_operation(&"0123456789abcdef".parse().unwrap());
    let (_held, (seen, error)) = tokio::join!(server, all(&mut events));
    assert!(error.is_none(), "{error:?}");
    assert_eq!(seen, [operation("running"), operation("running"), operation("failed")]);
}

#[tokio::test(start_paused = true)]
async fn a_problem_ends_a_stream_wherever_it_comes() {
    let (client, mut fake) = Fake::new();
    let gone = Problem::new(ProblemCode::NotFound, "it is gone");
    let server = async {
        let mut asked = fake.request().await;
        assert_eq!(asked.line, "GET /v1/sandboxes/web/stats?watch=true");
        asked.events().await;
        asked.chunk(text_of("problem", None, &gone)).await;
        fake.request().await.problem(gone.clone()).await;
        let mut asked = fake.request().await;
        asked.send("HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 0\r\n\r\n").await;
    };
    let asks = async {
        for _ in 0..2 {
            let (_, error) = all(&mut client.watch_stats("web")).await;
            assert_eq!(error.and_then(|error| error.code()), Some(ProblemCode::NotFound));
        }
        let (_, error) = all(&mut client.watch_stats("web")).await;
        assert!(matches!(error, Some(ClientError::Protocol { .. })), "{error:?}");
    };
    tokio::join!(server, asks);
}

#[tokio::test(start_paused = true)]
async fn a_log_is_asked_for_as_wanted_and_ends_with_its_stream() {
    let (client, mut fake) = Fake::new();
    let server = async {
        let mut asked = fake.request().await;
        assert_eq!(asked.line, "GET /v1/sandboxes/web/logs?source=vmm&since=5&tail=3");
        asked.events().await;
        asked.chunk("").await;
    };
    let query = LogQuery {
        source: LogSource::Vmm,
        follow: Follow::No,
        since: Some(Timestamp(5)),
        tail: Some(3),
    };
    let mut logs = client.logs("web", &query);
    let (_, (chunks, error)) = tokio::join!(server, all(&mut logs));
    assert!(chunks.is_empty() && error.is_none(), "{error:?}");
}

#[tokio::test(start_paused = true)]
async fn a_daemon_that_stays_away_ends_a_stream() {
    let (client, mut fake) = Fake::new();
    let server = async move {
        let mut asked = fake.request().await;
        asked.events().await;
        asked.chunk(text_of("", Some(1), &chunk(1))).await;
    };
    let mut logs = client.logs("web", &LogQuery::default());
    let begun = tokio::time::Instant::now();
    let (_, (chunks, error)) = tokio::join!(server, all(&mut logs));
    assert_eq!(chunks, [chunk(1)]);
    assert!(matches!(error, Some(ClientError::Connect(_))), "{error:?}");
    assert!((50..=60).contains(&begun.elapsed().as_secs()));
}

#[tokio::test(start_paused = true)]
async fn an_endless_event_is_an_error() {
    let (client, mut fake) = Fake::new();
    let server = async move {
        let mut asked = fake.request().await;
        asked.events().await;
        let line = format!("data: {}\n", "x".repeat(100_000));
        for _ in 0..50 {
            asked.chunk(&line).await;
        }
    };
    let mut logs = client.logs("web", &LogQuery::default());
    let (_, (_, error)) = tokio::join!(server, all(&mut logs));
    assert!(matches!(error, Some(ClientError::Protocol { .. })), "{error:?}");
}

/// A log of so many pieces, whose connection breaks after so many bytes each time.
async fn followed(pieces: usize, cuts: &[usize]) -> (Vec<LogChunk>, Option<ClientError>) {
    let (client, mut fake) = Fake::new();
    let server = async {
        let mut cuts = cuts.iter();
        loop {
            let mut asked = fake.request().await;
            let cursor = asked.header("last-event-id").map(|id| id.parse::<usize>().unwrap());
            let tail = if cursor.is_none() { "&tail=99" } else { "" };
            assert_eq!(
                asked.line,
                format!("GET /v1/sandboxes/web/logs?source=console&follow=true{tail}")
            );
            let text: String = (cursor.map_or(0, |cursor| cursor + 1)..pieces)
                .map(|n| text_of("", Some(n), &chunk(n)))
                .collect();
            asked.events().await;
            let Some(&cut) = cuts.next() else {
                asked.chunk(&text).await;
                asked.chunk("").await;
                break;
            };
            let cut = cut.min(text.len());
            for piece in text.as_bytes()[..cut].chunks(7) {
                asked.chunk(piece).await;
            }
        }
    };
    let query = LogQuery { follow: Follow::Yes, tail: Some(99), ..LogQuery::default() };
    let mut logs = client.logs("web", &query);
    tokio::join!(server, all(&mut logs)).1
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_log_comes_without_gap_or_repeat_over_any_breaks(
        pieces in 1usize..12, cuts in prop::collection::vec(0usize..200, 0..8),
    ) {
        let (seen, error) = run(followed(pieces, &cuts));
        prop_assert!(error.is_none(), "{:?}", error);
        prop_assert_eq!(seen, (0..pieces).map(chunk).collect::<Vec<_>>());
    }
}
