//! Answers that no daemon gives.

use banger_api::client::ClientError;

use crate::fake::{Asked, Fake};

/// What the client makes of one answer.
async fn told(answer: impl AsyncFnOnce(Asked)) -> ClientError {
    let (client, mut fake) = Fake::new();
    let server = async {
        let asked = fake.request().await;
        answer(asked).await;
        // Whoever asks again finds nobody.
        drop(fake);
    };
    let id = "0123456789abcdef".parse().unwrap();
    let (_, answer) = tokio::join!(server, client.cancel(&id));
    answer.unwrap_err()
}

#[track_caller]
fn is_nonsense(error: &ClientError, with: &str) {
    assert!(matches!(error, ClientError::Protocol { .. }), "{error:?}");
    assert!(error.to_string().contains(with), "{error}");
}

#[tokio::test(start_paused = true)]
async fn endless_heads_end() {
    for line in [&b"X-Y: 0123456789\r\n"[..], b"x"] {
        let error = told(async |mut asked: Asked| {
            asked.send("HTTP/1.1 200 OK\r\n").await;
            asked.send(line.repeat(1_000_000 / line.len())).await;
        });
        is_nonsense(&error.await, "too large");
    }
    let error = told(async |mut asked: Asked| {
        let long = "x".repeat(40_000);
        let head = format!("HTTP/1.1 200 OK\r\nX: {long}\r\nContent-Length: 2\r\n\r\n[]");
        asked.send(head).await;
    });
    is_nonsense(&error.await, "too large");
}

#[tokio::test(start_paused = true)]
async fn bodies_that_are_too_long_are_refused_as_early_as_they_are_told() {
    let error = told(async |mut asked: Asked| {
        asked.send("HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n").await;
    });
    is_nonsense(&error.await, "longer than");
    let error = told(async |mut asked: Asked| {
        asked.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await;
        let megabyte = vec![b' '; 1 << 20];
        for _ in 0..65 {
            asked.chunk(&megabyte).await;
        }
    });
    is_nonsense(&error.await, "longer than");
}

#[tokio::test(start_paused = true)]
async fn lengths_that_are_wrong_are_errors() {
    let error = told(async |mut asked: Asked| {
        asked.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n").await;
    });
    is_nonsense(&error.await, "cancel");
    let error = told(async |mut asked: Asked| {
        asked.send("HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n").await;
    });
    is_nonsense(&error.await, "cancel");
    let error = told(async |mut asked: Asked| {
        asked.send("HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\n{").await;
    });
    assert!(matches!(error.await, ClientError::Interrupted { .. }));
}

#[tokio::test(start_paused = true)]
async fn answers_that_mean_nothing_are_errors() {
    let error = told(async |mut asked: Asked| asked.send("SSH-2.0-OpenSSH\r\n\r\n").await);
    is_nonsense(&error.await, "cancel");
    let error = told(async |mut asked: Asked| {
        asked.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]").await;
    });
    is_nonsense(&error.await, "cancel");
    let error = told(async |mut asked: Asked| {
        asked.send("HTTP/1.1 500 Oops\r\nContent-Length: 6\r\n\r\n<html>").await;
    });
    is_nonsense(&error.await, "500");
    let error = told(async |mut asked: Asked| {
        let nested = "[".repeat(100_000);
        asked.send(format!("HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n{nested}")).await;
    });
    is_nonsense(&error.await, "cancel");
}
