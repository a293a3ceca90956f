//! What needs no machine: help, version, completion, manual, doctor.

use crate::support::TestEnv;

#[test]
fn help_has_examples() {
    let env = TestEnv::empty();
    let help = env.run(["--help"]).ok();
    assert!(help.contains("Examples:") && help.contains("banger vm run"), "{help}");
    let help = env.run(["vm", "run", "--help"]).ok();
    for option in ["--image", "--kernel", "--cpus", "--memory", "--disk", "--env", "--user"] {
        assert!(help.contains(option), "{option} in {help}");
    }
}

#[test]
fn the_version_is_told_to_people_and_programs() {
    let env = TestEnv::empty();
    let text = env.run(["version"]).ok();
    assert!(text.starts_with("banger 0."), "{text}");
    let json: serde_json::Value =
        serde_json::from_str(&env.run(["version", "-o", "json"]).ok()).unwrap();
    let fields: Vec<_> = json.as_object().unwrap().keys().cloned().collect();
    assert_eq!(fields, ["built", "commit", "version"]);
}

#[test]
fn completions_are_there_for_each_shell_and_know_the_images() {
    let env = TestEnv::empty();
    for shell in ["bash", "zsh", "fish"] {
        assert!(env.run(["completion", shell]).ok().contains("banger"), "{shell}");
    }
    std::fs::create_dir_all(env.home().join("data/images/my-image")).unwrap();
    let mut command = env.command(["--", "banger", "vm", "run", "--image", ""]);
    command.env("COMPLETE", "fish");
    let output = command.output().unwrap();
    let offered = String::from_utf8_lossy(&output.stdout);
    assert!(offered.contains("my-image"), "{offered:?}");
}

#[test]
fn there_is_a_page_of_the_manual_for_each_command() {
    let env = TestEnv::empty();
    let dir = env.home().join("man");
    env.run(["man", &dir.to_string_lossy()]).ok();
    for page in
        ["banger.1", "banger-vm.1", "banger-vm-run.1", "banger-doctor.1", "banger-bench-start.1"]
    {
        let text = std::fs::read_to_string(dir.join(page)).unwrap();
        assert!(text.contains(".SH SYNOPSIS"), "{page}");
    }
}

#[test]
fn the_doctor_reports_each_thing_and_fails_when_one_does() {
    let env = TestEnv::empty();
    let json = |ran: &str| serde_json::from_str::<serde_json::Value>(ran).unwrap();
    let ran = env.run(["doctor", "-o", "json"]);
    let report = json(&ran.text());
    let checks = report.as_array().unwrap();
    assert!(checks.len() >= 10, "{report}");
    let failed = checks.iter().any(|check| check["level"] == "fail");
    assert_eq!(ran.status, i32::from(failed));
    let mut command = env.command(["doctor"]);
    let output = command.env("PATH", "/nonexistent").output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("fail  QEMU") && text.contains("qemu-system-x86"), "{text}");
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let env = TestEnv::empty();
    let script = format!("{} doctor | true; echo ${{PIPESTATUS[0]}}", env.program().display());
    let output = std::process::Command::new("bash")
        .args(["-c", &script])
        .env("BANGER_HOME", env.home())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(["0\n", "1\n"].contains(&&*text), "{text}");
    assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
}
