//! Sessions with processes, over connections and daemons that break.

mod guest;

use banger_api::attach::{ClientControl, ClientFrame, DaemonControl, DaemonFrame, OutputStream};
use banger_api::client::{
    Client, ClientError, MAX_SIGNALS, ProcessSession, SessionError, SessionEvent,
};
use banger_api::types::{Problem, ProblemCode, ProcessId, Window};
use banger_model::ProcessEnd;
use proptest::prelude::*;

use crate::fake::{Fake, run};
use guest::{Break, Guest, Line};

const PROCESS: ProcessId = ProcessId(7);
const WINDOW: Window = Window { rows: 24, cols: 80 };

async fn open(client: &Client) -> Result<ProcessSession, ClientError> {
    ProcessSession::open(client, "web", PROCESS).await
}

fn control(message: ClientControl) -> ClientFrame {
    ClientFrame::Control(message)
}

const fn attached(stdin: u64, stdout: u64, stderr: u64) -> DaemonFrame {
    DaemonFrame::Control(DaemonControl::Attached { stdin, stdout, stderr })
}

const EXITED: DaemonFrame =
    DaemonFrame::Control(DaemonControl::Exited { end: ProcessEnd::Exited(0) });

fn output(bytes: &[u8]) -> DaemonFrame {
    DaemonFrame::Output(OutputStream::Stdout, bytes.to_vec())
}

#[tokio::test(start_paused = true)]
async fn what_was_asked_while_nobody_was_there_is_said_on_the_next_connection() {
    let (client, mut fake) = Fake::new();
    let (session, mut line) = tokio::join!(open(&client), async {
        let mut line = Line::accept(&mut fake).await;
        assert_eq!((line.stdout, line.stderr), (0, 0));
        line.say(&attached(0, 0, 0)).await;
        line
    });
    let mut session = session.unwrap();
    let control_of = session.control();
    control_of.write(b"abc").await.unwrap();
    control_of.resize(WINDOW);
    assert_eq!(line.hear().await, control(ClientControl::Resize(WINDOW)));
    assert_eq!(line.hear().await, ClientFrame::Stdin(b"abc".to_vec()));
    drop(line);

    for _ in 0..MAX_SIGNALS {
        control_of.signal(2).unwrap();
    }
    assert_eq!(control_of.signal(2), Err(SessionError::TooManySignals));
    control_of.end_stdin();
    control_of.close_output(OutputStream::Stderr);
    assert_eq!(control_of.write(b"x").await, Err(SessionError::StdinEnded));
    for attempt in 0..2 {
        let mut line = Line::accept(&mut fake).await;
        line.say(&attached(1, 0, 0)).await;
        for _ in 0..if attempt == 0 { MAX_SIGNALS } else { 0 } {
            assert_eq!(line.hear().await, control(ClientControl::Signal { signal: 2 }));
        }
        assert_eq!(line.hear().await, control(ClientControl::Resize(WINDOW)));
        let close = ClientControl::CloseOutput { stream: OutputStream::Stderr };
        assert_eq!(line.hear().await, control(close));
        assert_eq!(line.hear().await, ClientFrame::Stdin(b"bc".to_vec()));
        assert_eq!(line.hear().await, control(ClientControl::StdinEnd));
    }
    let mut line = Line::accept(&mut fake).await;
    line.say(&attached(3, 0, 0)).await;
    line.say(&DaemonFrame::Output(OutputStream::Stderr, b"unread".to_vec())).await;
    line.say(&EXITED).await;
    assert_eq!(session.next().await.unwrap(), SessionEvent::Exited(ProcessEnd::Exited(0)));
    assert!(matches!(session.next().await, Err(ClientError::Closed)));
    assert_eq!(control_of.write(b"x").await, Err(SessionError::Closed));
    assert_eq!(control_of.signal(2), Err(SessionError::Closed));
}

#[tokio::test(start_paused = true)]
async fn output_is_acknowledged_only_when_it_was_dealt_with() {
    let (client, mut fake) = Fake::new();
    let (session, mut line) = tokio::join!(open(&client), async {
        let mut line = Line::accept(&mut fake).await;
        line.say(&attached(0, 100, 0)).await;
        line.say(&output(b"hello")).await;
        line
    });
    let mut session = session.unwrap();
    let stream = OutputStream::Stdout;
    let event = SessionEvent::Output { stream, bytes: b"hello".to_vec() };
    assert_eq!(session.next().await.unwrap(), event);
    session.control().resize(WINDOW);
    assert_eq!(line.hear().await, control(ClientControl::Resize(WINDOW)), "and no ack before");
    session.control().consumed(stream, 2);
    assert_eq!(line.hear().await, control(ClientControl::Ack { stream, offset: 102 }));
    drop(line);
    let mut line = Line::accept(&mut fake).await;
    assert_eq!(line.stdout, 105, "what the owner has is not asked for again");
    line.say(&attached(0, 105, 0)).await;
    assert_eq!(line.hear().await, control(ClientControl::Resize(WINDOW)));
    assert_eq!(line.hear().await, control(ClientControl::Ack { stream, offset: 102 }));
    session.control().consumed(stream, 1000);
    assert_eq!(line.hear().await, control(ClientControl::Ack { stream, offset: 105 }));
}

#[tokio::test(start_paused = true)]
async fn a_writer_waits_for_room_and_learns_of_the_end() {
    let (client, mut fake) = Fake::new();
    let (session, mut line) = tokio::join!(open(&client), async {
        let mut line = Line::accept(&mut fake).await;
        line.say(&attached(0, 0, 0)).await;
        line
    });
    let (session, window) = (session.unwrap(), banger_api::attach::STDIN_WINDOW);
    let writer = session.control();
    let bytes = vec![1; 3 * window];
    let writing = tokio::spawn(async move { writer.write(&bytes).await });
    let mut got = 0;
    while got < window {
        let ClientFrame::Stdin(bytes) = line.hear().await else { panic!() };
        got += bytes.len();
    }
    assert_eq!(got, window);
    session.control().resize(WINDOW);
    assert_eq!(line.hear().await, control(ClientControl::Resize(WINDOW)), "and no more input");
    line.say(&DaemonFrame::Control(DaemonControl::StdinTaken { offset: 10 })).await;
    assert_eq!(line.hear().await, ClientFrame::Stdin(vec![1; 10]));
    drop(session);
    assert_eq!(writing.await.unwrap(), Err(SessionError::Closed));
}

/// What becomes of a session whose second connection answers so.
async fn second(answer: impl AsyncFnOnce(Line)) -> Result<SessionEvent, ClientError> {
    let (client, mut fake) = Fake::new();
    let (session, ()) = tokio::join!(open(&client), async {
        let mut line = Line::accept(&mut fake).await;
        line.say(&attached(5, 0, 0)).await;
        line.say(&output(b"ab")).await;
    });
    let mut session = session.unwrap();
    assert!(matches!(session.next().await, Ok(SessionEvent::Output { .. })));
    let server = async move {
        let line = Line::accept(&mut fake).await;
        answer(line).await;
    };
    let ((), event) = tokio::join!(server, session.next());
    event
}

#[tokio::test(start_paused = true)]
async fn gaps_and_other_nonsense_are_errors() {
    let nonsense = [
        vec![attached(5, 3, 0)],
        vec![attached(5, 1, 0)],
        vec![attached(4, 2, 0)],
        vec![attached(6, 2, 0)],
        vec![attached(5, 2, 0), attached(5, 2, 0)],
        vec![output(b"x")],
        vec![attached(5, 2, 0), DaemonFrame::Control(DaemonControl::StdinTaken { offset: 6 })],
    ];
    for frames in nonsense {
        let event = second(async |mut line: Line| {
            for frame in &frames {
                line.say(frame).await;
            }
        });
        let event = event.await;
        assert!(matches!(event, Err(ClientError::Protocol { .. })), "{frames:?}: {event:?}");
    }
    let event = second(async |mut line: Line| line.send(&[9; 5]).await).await;
    assert!(matches!(event, Err(ClientError::Protocol { .. })), "{event:?}");
}

#[tokio::test(start_paused = true)]
async fn last_words_are_heard_and_silence_ends_in_time() {
    for (said, event) in [
        (
            DaemonControl::SandboxEnded { reason: "it was stopped".to_owned() },
            SessionEvent::SandboxEnded("it was stopped".to_owned()),
        ),
        (
            DaemonControl::Lost { message: "the agent forgot it".to_owned() },
            SessionEvent::Lost("the agent forgot it".to_owned()),
        ),
    ] {
        let said = DaemonFrame::Control(said);
        let heard = second(async |mut line: Line| line.say(&said).await).await;
        assert_eq!(heard.unwrap(), event);
    }
    let begun = tokio::time::Instant::now();
    assert!(matches!(second(async |_| {}).await, Err(ClientError::Connect(_))));
    assert!((50..=60).contains(&begun.elapsed().as_secs()));
}

#[tokio::test(start_paused = true)]
async fn last_words_are_heard_by_who_is_still_talking() {
    for _ in 0..20 {
        let (client, mut fake) = Fake::new();
        let server = async {
            let mut line = Line::accept(&mut fake).await;
            line.say(&attached(0, 0, 0)).await;
            // Nothing is read any more, and there is always more to write.
            line.hear().await;
            for _ in 0..5 {
                line.say(&output(b"x")).await;
            }
            line.say(&EXITED).await;
            drop(line);
            drop(fake);
        };
        let owner = async {
            let mut session = open(&client).await.unwrap();
            let writer = session.control();
            let writing = tokio::spawn(async move { writer.write(&[0; 1 << 20]).await });
            let mut events = 0;
            while session.next().await.unwrap() != SessionEvent::Exited(ProcessEnd::Exited(0)) {
                events += 1;
            }
            assert_eq!(events, 5);
            assert_eq!(writing.await.unwrap(), Err(SessionError::Closed));
        };
        tokio::join!(server, owner);
    }
}

#[tokio::test(start_paused = true)]
async fn a_refusal_ends_a_session_and_a_daemon_that_has_yet_to_find_the_guest_does_not() {
    let (client, mut fake) = Fake::new();
    let server = async {
        for code in [ProblemCode::Unreachable, ProblemCode::ShuttingDown, ProblemCode::NotFound] {
            fake.request().await.problem(Problem::new(code, "no")).await;
        }
    };
    let (_, session) = tokio::join!(server, open(&client));
    assert_eq!(session.unwrap_err().code(), Some(ProblemCode::NotFound));
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_changes_to_nothing_is_an_error() {
    let (client, mut fake) = Fake::new();
    for answer in [
        "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 101 Other\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
    ] {
        let server = async { fake.request().await.send(answer).await };
        let (_, session) = tokio::join!(server, open(&client));
        assert!(matches!(session, Err(ClientError::Protocol { .. })), "{session:?}");
    }
}

/// A process that writes so much and reads until the end of its input, over these breaks.
async fn all_of_it(stdin: &[u8], outputs: [usize; 2], breaks: &[Break]) -> [Vec<u8>; 3] {
    let (client, mut fake) = Fake::new();
    let mut guest = Guest::new(outputs);
    // A connection may break just behind the last word, so only the owner knows the end.
    let server = async {
        for one in breaks.iter().chain(std::iter::repeat(&Break::Never)) {
            match one {
                Break::Refused => drop(fake.connection().await),
                one => Line::waiting(&mut fake).await.serve(&mut guest, *one).await,
            }
        }
    };
    let owner = async {
        let mut session = open(&client).await.unwrap();
        let (writer, input) = (session.control(), stdin.to_vec());
        let writing = tokio::spawn(async move {
            for piece in input.chunks(9000) {
                // Whether all of it arrived is seen in the guest.
                let _ = writer.write(piece).await;
            }
            writer.end_stdin();
        });
        let mut got = [Vec::new(), Vec::new()];
        loop {
            match session.next().await.unwrap() {
                SessionEvent::Output { stream, bytes } => {
                    session.control().consumed(stream, bytes.len());
                    got[stream as usize].extend(bytes);
                }
                SessionEvent::Exited(end) => {
                    assert_eq!(end, ProcessEnd::Exited(3));
                    writing.await.unwrap();
                    return got;
                }
                SessionEvent::OutputEnded { .. } | SessionEvent::Notice(_) => {}
                event => panic!("{event:?}"),
            }
        }
    };
    let [stdout, stderr] = tokio::select! {
        () = server => unreachable!("it serves for ever"),
        outputs = owner => outputs,
    };
    [guest.stdin, stdout, stderr]
}

fn broken() -> impl Strategy<Value = Break> {
    prop_oneof![
        1 => Just(Break::Refused),
        1 => (1usize..250).prop_map(|sent| Break::After { sent, heard: usize::MAX, lost: 0 }),
        4 => (150usize..90_000, 1usize..150_000, 0usize..40_000)
            .prop_map(|(sent, heard, lost)| Break::After { sent, heard, lost }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn input_and_output_arrive_exactly_once_over_any_breaks(
        stdin in 0usize..500_000, stdout in 0usize..200_000, stderr in 0usize..60_000,
        breaks in prop::collection::vec(broken(), 0..12),
    ) {
        let input = guest::stream(3, 0, stdin);
        let got = run(all_of_it(&input, [stdout, stderr], &breaks));
        prop_assert!(got[0] == input, "{} bytes of input, {} wanted", got[0].len(), input.len());
        prop_assert!(got[1] == guest::stream(0, 0, stdout), "stdout, {}", got[1].len());
        prop_assert!(got[2] == guest::stream(1, 0, stderr), "stderr, {}", got[2].len());
    }
}
