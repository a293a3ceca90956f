//! What `vm run` passes in and out.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;
use std::process::Stdio;

use sha2::{Digest as _, Sha256};

use crate::support::TestEnv;

#[test]
fn the_status_is_the_commands_own() {
    let Some(env) = TestEnv::with_machines() else { return };
    let cases: [(&[&str], i32); 4] = [
        (&["true"], 0),
        (&["false"], 1),
        (&["sh", "-c", "exit 7"], 7),
        (&["sh", "-c", "kill -9 $$"], 137),
    ];
    for (command, status) in cases {
        let ran = env.run([&["vm", "run", "--"], command].concat());
        assert_eq!((ran.status, ran.stderr.as_str()), (status, ""), "{command:?}");
    }
    env.assert_nothing_left();
}

#[test]
fn a_command_that_cannot_run_says_why() {
    let Some(env) = TestEnv::with_machines() else { return };
    let missing = env.run(["vm", "run", "--", "no-such-command"]);
    assert_eq!(missing.status, 127);
    assert_eq!(missing.stderr, "banger: no-such-command: command not found\n");
    let directory = env.run(["vm", "run", "--", "/etc"]);
    assert_eq!(directory.status, 126);
    assert!(directory.stderr.contains("/etc: cannot be executed"), "{}", directory.stderr);
    env.assert_nothing_left();
}

#[test]
fn a_hundred_megabytes_pass_through_unchanged_in_both_outputs() {
    let Some(env) = TestEnv::with_machines() else { return };
    let mut state = 1u64;
    let input: Vec<u8> = std::iter::repeat_with(|| {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        state.to_le_bytes()[7]
    })
    .take(100_000_000)
    .collect();
    let output = env.output_with_input(&["vm", "run", "--", "tee", "/dev/stderr"], &input);
    let expected = Sha256::digest(&input);
    assert!(output.status.success());
    assert_eq!(Sha256::digest(&output.stdout), expected, "stdout");
    assert_eq!(Sha256::digest(&output.stderr), expected, "stderr");
}

#[test]
fn standard_input_may_be_closed_or_left_unread() {
    let Some(env) = TestEnv::with_machines() else { return };
    let script = format!("exec {} vm run -- cat <&-", env.program().display());
    let output = std::process::Command::new("sh")
        .args(["-c", &script])
        .env("BANGER_HOME", env.home())
        .env("BANGER_SPARES", "0")
        .output()
        .unwrap();
    assert_eq!((output.status.code(), output.stdout), (Some(0), Vec::new()));
    // More than any buffer on the way holds, for a command that never reads.
    let unread = env.run_with_input(&["vm", "run", "--", "true"], &vec![7; 4_000_000]);
    assert_eq!((unread.status, unread.stderr.as_str()), (0, ""));
}

#[test]
fn a_reader_that_goes_ends_the_command_as_in_any_pipeline() {
    let Some(env) = TestEnv::with_machines() else { return };
    let script =
        format!("{} vm run -- sh -c 'yes; echo \"$?\" >&2' | head -1", env.program().display());
    let output = std::process::Command::new("sh")
        .args(["-c", &script])
        .env("BANGER_HOME", env.home())
        .env("BANGER_SPARES", "0")
        .output()
        .unwrap();
    assert_eq!(output.stdout, b"y\n");
    // 128 and the number of SIGPIPE: the kernel in the guest told `yes`.
    assert_eq!(String::from_utf8_lossy(&output.stderr), "141\n");
    env.assert_nothing_left();
}

#[test]
fn a_stream_that_nobody_reads_does_not_stop_the_other() {
    let Some(env) = TestEnv::with_machines() else { return };
    let script = "yes & yes=$!; sleep 1; echo heard >&2; kill $yes";
    let mut child = env
        .command(["vm", "run", "--", "sh", "-c", script])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stderr = std::io::BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    std::io::BufRead::read_line(&mut stderr, &mut line).unwrap();
    assert_eq!(line, "heard\n");
    drop(child.stdout.take());
    child.wait().unwrap();
    env.assert_nothing_left();
}

#[test]
fn ten_thousand_arguments_and_any_bytes_arrive() {
    let Some(env) = TestEnv::with_machines() else { return };
    let script = r#"echo $#; shift 9999; printf %s "$1""#;
    let mut args: Vec<OsString> =
        ["vm", "run", "--", "sh", "-c", script, "sh"].map(OsString::from).into();
    args.extend((1..10_000).map(|n| OsString::from(n.to_string())));
    args.push(OsString::from_vec(b"a\xff\xfe\n b".to_vec()));
    let ran = env.run(args);
    assert_eq!(ran.status, 0, "{}", ran.stderr);
    assert_eq!(ran.stdout, b"10000\na\xff\xfe\n b");
}

#[test]
fn user_environment_and_directory_are_as_asked() {
    let Some(env) = TestEnv::with_machines() else { return };
    let script = "id -un; id -u; pwd; echo \"$A|$LANG|$HOME\"";
    let args = ["vm", "run", "--user", "nobody", "--env", "A=x y", "--workdir", "/tmp"];
    let ran = env.run(args.iter().chain(&["--", "sh", "-c", script]));
    assert_eq!(ran.ok(), "nobody\n65534\n/tmp\nx y|C.UTF-8|/nonexistent\n");
    let unknown = env.run(["vm", "run", "--user", "nosuchuser", "--", "true"]);
    assert_eq!(unknown.status, 125);
    assert_eq!(unknown.stderr, "banger: no user or group \"nosuchuser\" in the image\n");
}
