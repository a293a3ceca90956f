//! Requests and their answers.

use banger_api::client::{Client, ClientError, ConnectError, Force, SandboxAction, SocketPath};
use banger_api::types::{
    ForkSandbox, Forked, GuestProcess, Image, ImportKernel, Operation, PathKind, Problem,
    ProblemCode, ProcessId, PruneRequest, PruneTemplatesRequest, Pruned, PrunedTemplates, Snapshot,
    StartProcess, StartedProcess, Template, Version,
};
use banger_model::Timestamp;
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;

use crate::fake::Fake;

const PROCESS: ProcessId = ProcessId(0xabc);

pub(crate) fn version() -> Version {
    Version { version: "1".to_owned(), pid: 7, since: Timestamp(9) }
}

pub(crate) fn operation(status: &str) -> Operation {
    serde_json::from_value(json!({
        "id": "0123456789abcdef", "action": "start", "sandbox": "0123456789ab", "name": "web",
        "started": 1, "status": status, "at": 2, "error": "no", "stages": [], "log": [],
    }))
    .unwrap()
}

fn template() -> Template {
    serde_json::from_value(json!({
        "id": "0123456789abcdef", "image": "i", "kernel": "k", "cpus": 1, "memory": 536_870_912,
        "disk": 8_589_934_592_u64, "size": 7, "made": 1, "last_used": null, "hits": 0,
        "in_use": false,
    }))
    .unwrap()
}

#[tokio::test(start_paused = true)]
async fn every_method_asks_for_its_path_and_takes_its_answer() {
    let (client, mut fake) = Fake::new();
    let id = operation("running").id;
    let server = async {
        fake.answer("GET /v1/version", &version()).await;
        fake.answer("GET /v1/sandboxes?label=a%3Db&label=c", &json!([])).await;
        fake.answer("POST /v1/sandboxes/w%20b/kill", &operation("running")).await;
        fake.answer("DELETE /v1/sandboxes/web?force=true", &operation("running")).await;
        fake.answer("DELETE /v1/sandboxes/web", &operation("running")).await;
        let pruned = Pruned { sandboxes: vec![], operations: vec![], space: 0 };
        let asked = fake.answer("POST /v1/prune", &pruned).await;
        assert_eq!(asked.header("content-type"), Some("application/json"));
        assert_eq!(asked.body, br#"{"labels":[],"dry_run":false}"#);
        fake.answer("GET /v1/templates", &[template()]).await;
        fake.answer("DELETE /v1/templates/01%2F", &template()).await;
        let pruned = PrunedTemplates { templates: vec![template()], space: 7 };
        let asked = fake.answer("POST /v1/templates/prune", &pruned).await;
        assert_eq!(asked.body, br#"{"dry_run":true}"#);
        fake.answer("GET /v1/operations/0123456789abcdef", &operation("succeeded")).await;
        fake.answer("GET /v1/operations", &[operation("failed")]).await;
        fake.answer("POST /v1/operations/0123456789abcdef/cancel", &operation("cancelled")).await;
        fake.answer("GET /v1/sandboxes/web/path?path=%2Fa%FF", &PathKind::File).await;
        fake.answer::<[GuestProcess; 0]>("GET /v1/sandboxes/web/processes", &[]).await;
        let started = StartedProcess { process: PROCESS };
        fake.answer("PUT /v1/sandboxes/web/processes/0000000000000abc", &started).await;
        let mut asked = fake.request().await;
        assert_eq!(asked.line, "DELETE /v1/sandboxes/web/processes/0000000000000abc");
        asked.send("HTTP/1.1 204 No Content\r\n\r\n").await;
        fake.answer("GET /v1/openapi.json", &json!({"openapi": "3.1.0"})).await;
    };
    let asks = async {
        assert_eq!(client.version().await.unwrap(), version());
        let labels = ["a=b".parse().unwrap(), "c".parse().unwrap()];
        assert_eq!(client.list(&labels).await.unwrap(), []);
        client.act("w b", SandboxAction::Kill).await.unwrap();
        client.delete("web", Force::Yes).await.unwrap();
        client.delete("web", Force::No).await.unwrap();
        client.prune(&PruneRequest::default()).await.unwrap();
        assert_eq!(client.templates().await.unwrap(), [template()]);
        assert_eq!(client.delete_template("01/").await.unwrap(), Some(template()));
        let looks = PruneTemplatesRequest { dry_run: true };
        assert_eq!(client.prune_templates(&looks).await.unwrap().space, 7);
        assert!(client.operation(&id).await.unwrap().status.is_final());
        assert_eq!(client.operations().await.unwrap().len(), 1);
        client.cancel(&id).await.unwrap();
        assert_eq!(client.look("web", b"/a\xff").await.unwrap(), PathKind::File);
        assert_eq!(client.processes("web").await.unwrap(), []);
        let command = StartProcess::Command(banger_api::types::Command::default());
        client.start_process("web", PROCESS, &command).await.unwrap();
        client.release("web", PROCESS).await.unwrap();
        assert_eq!(client.openapi().await.unwrap()["openapi"], "3.1.0");
    };
    tokio::join!(server, asks);
}

#[tokio::test(start_paused = true)]
async fn files_on_a_slow_disk_have_their_time_and_no_other_answer_has() {
    let (client, mut fake) = Fake::new();
    let kernel =
        json!({ "name": "mine", "release": "6", "source": "/x", "size": 1, "used_by": [] });
    let server = async {
        let mut asked = fake.request().await;
        assert_eq!(asked.line, "POST /v1/kernels");
        tokio::time::advance(Duration::from_secs(59 * 60)).await;
        asked.json("201 Created", "application/json", &kernel).await;
        let asked = fake.request().await;
        tokio::time::advance(Duration::from_secs(61)).await;
        asked
    };
    let asks = async {
        let vmlinux = "/x".to_owned();
        let wanted = ImportKernel { name: "mine".parse().unwrap(), vmlinux, modules: None };
        assert_eq!(client.import_kernel(&wanted).await.unwrap().release, "6");
        client.prune(&PruneRequest::default()).await.unwrap_err()
    };
    let (_, error) = tokio::join!(server, asks);
    assert!(matches!(error, ClientError::TimedOut { .. }), "{error:?}");
}

#[tokio::test(start_paused = true)]
async fn the_daemon_says_no_in_its_own_words() {
    let (client, mut fake) = Fake::new();
    let problem = Problem::new(ProblemCode::NotFound, "no sandbox web").hint("see vm list");
    let server = async { fake.request().await.problem(problem.clone()).await };
    let (_, answer) = tokio::join!(server, client.show("web"));
    let Err(ClientError::Problem(got)) = answer else { panic!("{answer:?}") };
    assert_eq!(got, problem);
}

#[tokio::test(start_paused = true)]
async fn what_may_be_asked_twice_is_asked_again_after_a_lost_connection() {
    let (client, mut fake) = Fake::new();
    let server = async {
        drop(fake.connection().await);
        drop(fake.request().await);
        fake.request().await.send("HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{").await;
        let ending = Problem::new(ProblemCode::ShuttingDown, "later");
        fake.request().await.problem(ending).await;
        fake.answer("GET /v1/version", &version()).await;
    };
    let (_, answer) = tokio::join!(server, client.version());
    assert_eq!(answer.unwrap(), version());
}

#[tokio::test(start_paused = true)]
async fn what_may_not_be_asked_twice_is_not_unless_the_daemon_turned_it_down() {
    let (client, mut fake) = Fake::new();
    let server = async {
        let ending = Problem::new(ProblemCode::ShuttingDown, "later");
        fake.request().await.problem(ending).await;
        drop(fake.request().await);
    };
    let all = PruneRequest::default();
    let (_, answer) = tokio::join!(server, client.prune(&all));
    let Err(ClientError::Interrupted { request, .. }) = answer else { panic!("{answer:?}") };
    assert_eq!(request, "POST /v1/prune");
}

#[tokio::test(start_paused = true)]
async fn what_a_daemon_removed_as_it_died_is_gone_and_what_was_never_there_is_told() {
    let (client, mut fake) = Fake::new();
    let missing = || Problem::new(ProblemCode::NotFound, "there is no such template");
    let server = async {
        // Its answer never came, the next connection waited before a door that went with it, and
        // the next daemon ends at once.
        drop(fake.request().await);
        drop(fake.connection().await);
        let ending = Problem::new(ProblemCode::ShuttingDown, "later");
        fake.request().await.problem(ending).await;
        fake.request().await.problem(missing()).await;
        // Who only turned it down has not done it.
        let ending = Problem::new(ProblemCode::ShuttingDown, "later");
        fake.request().await.problem(ending).await;
        fake.request().await.problem(missing()).await;
    };
    let asks = async {
        assert_eq!(client.delete_template("01").await.unwrap(), None);
        let refused = client.delete_template("01").await.unwrap_err();
        assert_eq!(refused.code(), Some(ProblemCode::NotFound));
    };
    tokio::join!(server, asks);
}

fn image(id: char) -> Image {
    serde_json::from_value(json!({
        "name": "app", "id": id.to_string().repeat(32), "source": "s", "size": 7, "used_by": [], "config": {},
    }))
    .unwrap()
}

#[tokio::test(start_paused = true)]
async fn an_image_is_removed_once_more_only_if_it_is_the_same() {
    let (client, mut fake) = Fake::new();
    let server = async {
        // By the place that it comes from it would be found by another name, if it has one.
        fake.answer("GET /v1/images/place%2Fapp", &image('a')).await;
        assert_eq!(fake.request().await.named().0, "DELETE /v1/images/app");
        fake.answer("GET /v1/images/app", &image('a')).await;
        assert_eq!(fake.request().await.named().0, "DELETE /v1/images/app");
        let gone = Problem::new(ProblemCode::NotFound, "there is no image app");
        fake.request().await.problem(gone).await;
        // Somebody has made another of that name.
        fake.answer("GET /v1/images/app", &image('a')).await;
        drop(fake.request().await);
        fake.answer("GET /v1/images/app", &image('b')).await;
    };
    let asks = async {
        assert_eq!(client.delete_image("place/app").await.unwrap(), image('a'));
        let unknown = client.delete_image("app").await;
        assert!(matches!(unknown, Err(ClientError::Interrupted { .. })), "{unknown:?}");
    };
    tokio::join!(server, asks);
}

#[tokio::test(start_paused = true)]
async fn what_is_asked_of_a_sandbox_is_asked_again_as_the_same_operation() {
    let (client, mut fake) = Fake::new();
    let server = async {
        let first = fake.request().await.named();
        let again =
            fake.answer("POST /v1/sandboxes/web/start", &operation("running")).await.named();
        assert_eq!(first, again);
        assert_eq!(first.1.map(|id| id.len()), Some(16));
    };
    let (_, answer) = tokio::join!(server, client.act("web", SandboxAction::Start));
    answer.unwrap();

    // Whether it was done is what matters, not that the daemon is gone.
    let (client, mut fake) = Fake::new();
    let server = async move { drop(fake.request().await) };
    let (_, answer) = tokio::join!(server, client.delete("web", Force::No));
    assert!(matches!(answer, Err(ClientError::Interrupted { .. })), "{answer:?}");
}

#[tokio::test(start_paused = true)]
async fn snapshots_and_forks_are_asked_for_by_name_and_asked_again_as_the_same() {
    let (client, mut fake) = Fake::new();
    let snapshot: Snapshot = serde_json::from_value(json!({
        "id": "0123456789abcdef", "name": "web@1", "image": "i", "kernel": "k", "cpus": 1,
        "memory": 536_870_912, "disk": 8_589_934_592_u64, "accelerator": "tcg", "size": 7,
        "apparent": 9, "created": 1,
    }))
    .unwrap();
    let forked = Forked { operation: operation("running"), copies: vec![] };
    let (tag, name) = (snapshot.name.tag.clone(), snapshot.name.clone());
    let server = async {
        let first = fake.request().await.named();
        let taking = operation("running");
        let again = fake.answer("POST /v1/sandboxes/web/snapshot?tag=1", &taking).await;
        assert_eq!(again.named(), first);
        let first = fake.request().await.named();
        let asked = fake.answer("POST /v1/sandboxes/web/fork", &forked).await;
        assert_eq!(asked.named(), first);
        assert_eq!(asked.body, br#"{"count":2,"name":null}"#);
        fake.answer("GET /v1/snapshots", &vec![snapshot.clone()]).await;
        fake.answer("DELETE /v1/snapshots/web%401", &snapshot).await;
    };
    let calls = async {
        client.snapshot("web", Some(&tag)).await.unwrap();
        let wanted = ForkSandbox { count: 2, name: None };
        assert_eq!(client.fork("web", &wanted).await.unwrap(), forked);
        assert_eq!(client.snapshots().await.unwrap(), std::slice::from_ref(&snapshot));
        assert_eq!(client.delete_snapshot(&name).await.unwrap().as_ref(), Some(&snapshot));
    };
    tokio::join!(server, calls);
}

#[tokio::test(start_paused = true)]
async fn releasing_what_is_gone_is_no_error() {
    let (client, mut fake) = Fake::new();
    let server = async {
        drop(fake.request().await);
        let gone = Problem::new(ProblemCode::NotFound, "no such process");
        fake.request().await.problem(gone).await;
    };
    let (_, answer) = tokio::join!(server, client.release("web", PROCESS));
    answer.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_daemon_that_never_was_there_is_not_waited_for_and_one_that_was_is() {
    let (client, fake) = Fake::new();
    drop(fake);
    let begun = tokio::time::Instant::now();
    let nobody =
        |answer| matches!(answer, Err(ClientError::Connect(ConnectError::NobodyListens { .. })));
    assert!(nobody(client.version().await));
    assert_eq!(begun.elapsed().as_secs(), 0);

    let (client, mut fake) = Fake::new();
    let server = async move { drop(fake.request().await) };
    let (_, answer) = tokio::join!(server, client.version());
    assert!(nobody(answer));
    assert!((50..=60).contains(&begun.elapsed().as_secs()));
}

#[tokio::test(start_paused = true)]
async fn a_daemon_that_does_not_answer_is_told_apart_from_one_that_is_gone() {
    let (client, mut fake) = Fake::new();
    let (_held, answer) = tokio::join!(fake.request(), client.version());
    assert!(matches!(answer, Err(ClientError::TimedOut { .. })), "{answer:?}");
}

#[tokio::test]
async fn a_socket_is_connected_to_and_a_missing_one_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("api.sock");
    let client = Client::new(Arc::new(SocketPath(path.clone())));
    let Err(ClientError::Connect(error)) = client.version().await else { panic!() };
    assert!(error.to_string().contains("api.sock"), "{error}");
    let listener = tokio::net::UnixListener::bind(&path).unwrap();
    let server = async {
        let (stream, _) = listener.accept().await.unwrap();
        let mut asked = crate::fake::Asked::read(stream).await.unwrap();
        asked.json("200 OK", "application/json", &version()).await;
    };
    let (_, answer) = tokio::join!(server, client.version());
    assert_eq!(answer.unwrap(), version());
}

#[tokio::test]
async fn a_request_that_cannot_be_written_is_an_error_before_anybody_is_asked() {
    let (client, _fake) = Fake::new();
    let answer = client.look("web", &[b'%'; 70_000]).await;
    assert!(matches!(answer, Err(ClientError::Unaskable { .. })), "{answer:?}");
}
