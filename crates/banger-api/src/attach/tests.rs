//! What must hold of frames.

use proptest::prelude::*;

use super::*;

fn stream() -> impl Strategy<Value = OutputStream> {
    prop_oneof![Just(OutputStream::Stdout), Just(OutputStream::Stderr)]
}

fn client_control() -> impl Strategy<Value = ClientControl> {
    prop_oneof![
        (stream(), any::<u64>()).prop_map(|(stream, offset)| ClientControl::Ack { stream, offset }),
        Just(ClientControl::StdinEnd),
        any::<u8>().prop_map(|signal| ClientControl::Signal { signal }),
        (any::<u16>(), any::<u16>())
            .prop_map(|(rows, cols)| ClientControl::Resize(Window { rows, cols })),
        stream().prop_map(|stream| ClientControl::CloseOutput { stream }),
    ]
}

fn daemon_control() -> impl Strategy<Value = DaemonControl> {
    prop_oneof![
        any::<(u64, u64, u64)>().prop_map(|(stdin, stdout, stderr)| DaemonControl::Attached {
            stdin,
            stdout,
            stderr
        }),
        any::<u64>().prop_map(|offset| DaemonControl::StdinTaken { offset }),
        stream().prop_map(|stream| DaemonControl::OutputEnded { stream }),
        any::<u8>().prop_map(|n| DaemonControl::Exited { end: ProcessEnd::Signaled(n) }),
        ".{0,20}".prop_map(|message| DaemonControl::Lost { message }),
        ".{0,20}".prop_map(|message| DaemonControl::Notice { message }),
        ".{0,20}".prop_map(|reason| DaemonControl::SandboxEnded { reason }),
    ]
}

fn bytes() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(any::<u8>(), 1..40)
}

fn client_frame() -> impl Strategy<Value = ClientFrame> {
    prop_oneof![
        client_control().prop_map(ClientFrame::Control),
        bytes().prop_map(ClientFrame::Stdin)
    ]
}

fn daemon_frame() -> impl Strategy<Value = DaemonFrame> {
    prop_oneof![
        daemon_control().prop_map(DaemonFrame::Control),
        (stream(), bytes()).prop_map(|(stream, bytes)| DaemonFrame::Output(stream, bytes)),
    ]
}

fn encoded<F: Frame>(frames: &[F]) -> Vec<u8> {
    let mut out = Vec::new();
    frames.iter().for_each(|frame| frame.encode(&mut out));
    out
}

proptest! {
    #[test]
    fn frames_of_a_client_come_back_over_any_cuts(
        frames in prop::collection::vec(client_frame(), 0..8), piece in 1usize..50,
    ) {
        prop_assert_eq!(decode_all(&encoded(&frames), piece), (frames, None));
    }

    #[test]
    fn frames_of_a_daemon_come_back_over_any_cuts(
        frames in prop::collection::vec(daemon_frame(), 0..8), piece in 1usize..50,
    ) {
        prop_assert_eq!(decode_all(&encoded(&frames), piece), (frames, None));
    }

    #[test]
    fn any_bytes_mean_the_same_in_any_pieces(
        input in prop::collection::vec(prop_oneof![0u8..3, any::<u8>()], 0..200), piece in 1usize..50,
    ) {
        let whole = decode_all::<DaemonFrame>(&input, usize::MAX);
        prop_assert_eq!(&decode_all::<DaemonFrame>(&input, piece), &whole);
    }
}

#[test]
fn data_of_any_size_is_cut_into_frames_of_the_size_allowed() {
    let bytes = vec![7; 2 * MAX_PAYLOAD + 1];
    let mut out = Vec::new();
    put_output(&mut out, OutputStream::Stderr, &bytes);
    assert_eq!(out.len(), bytes.len() + 3 * HEADER_LEN);
    let (frames, error) = decode_all::<DaemonFrame>(&out, 1000);
    assert_eq!(error, None);
    let mut again = Vec::new();
    for frame in frames {
        let DaemonFrame::Output(OutputStream::Stderr, piece) = frame else { panic!("{frame:?}") };
        assert!(piece.len() <= MAX_PAYLOAD);
        again.extend(piece);
    }
    assert_eq!(again, bytes);
}

#[test]
fn a_frame_longer_than_allowed_is_an_error_before_its_payload_comes() {
    let mut input = vec![KIND_DATA];
    input.extend(u32::try_from(MAX_PAYLOAD + 1).unwrap().to_be_bytes());
    let mut decoder = Decoder::<ClientFrame>::default();
    let wrong = Err(FrameError::TooLong(65537));
    assert_eq!(decoder.next(&mut &input[..]), wrong);
    assert_eq!(decoder.next(&mut &b"\x01\0\0\0\x01x"[..]), wrong, "it stays broken");
}

#[test]
fn kinds_of_the_other_direction_are_errors() {
    let frame = [KIND_STDERR, 0, 0, 0, 0];
    assert_eq!(decode_all::<ClientFrame>(&frame, 9).1, Some(FrameError::Kind(KIND_STDERR)));
    let mut message = Vec::new();
    ClientFrame::Control(ClientControl::StdinEnd).encode(&mut message);
    let (_, error) = decode_all::<DaemonFrame>(&message, 9);
    assert!(matches!(error, Some(FrameError::Control(_))));
}

#[test]
fn a_sentence_however_long_fits_a_frame() {
    for text in ["\u{1}".repeat(2 * MAX_TEXT), "é".repeat(2 * MAX_TEXT), "€".repeat(MAX_TEXT)] {
        let mut out = Vec::new();
        DaemonFrame::Control(DaemonControl::Notice { message: text.clone() }).encode(&mut out);
        let (frames, error) = decode_all::<DaemonFrame>(&out, usize::MAX);
        assert_eq!(error, None);
        let [DaemonFrame::Control(DaemonControl::Notice { message })] = &frames[..] else {
            panic!("{frames:?}")
        };
        assert!(message.len() <= MAX_TEXT && text.starts_with(message.as_str()));
    }
}

#[test]
fn control_messages_keep_their_form() {
    let json = |message: &ClientControl| serde_json::to_string(message).unwrap();
    let ack = ClientControl::Ack { stream: OutputStream::Stdout, offset: 5 };
    assert_eq!(json(&ack), r#"{"type":"ack","stream":"stdout","offset":5}"#);
    assert_eq!(json(&ClientControl::StdinEnd), r#"{"type":"stdin_end"}"#);
    let resize = ClientControl::Resize(Window { rows: 1, cols: 2 });
    assert_eq!(json(&resize), r#"{"type":"resize","rows":1,"cols":2}"#);
    let exited = DaemonControl::Exited { end: ProcessEnd::Exited(3) };
    let json = serde_json::to_string(&exited).unwrap();
    assert_eq!(json, r#"{"type":"exited","end":{"Exited":3}}"#);
}
