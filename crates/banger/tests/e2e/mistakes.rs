//! What each command says to its most likely mistakes: status, standard output, standard error.

use std::fmt::Write as _;

use serde_json::Value;

use crate::support::TestEnv;
use crate::vm::ran;

/// Lines as a user types them where there is no sandbox but `made`, which was never started.
const LINES: [&str; 97] = [
    "vm",
    "vm run --network nowhere -- true",
    "vm run --memory 1 -- true",
    "vm run --memory 100T -- true",
    "vm run --image 127.0.0.1:1/no-such-image -- true",
    "vm run --image UPPER -- true",
    "vm run --from nobody@1 -- true",
    "vm run --from made -- true",
    "vm run --cpus 0 -- true",
    "vm run --env =x -- true",
    "vm create made --no-start",
    "vm create UPPER --no-start",
    "vm create new --ttl 5",
    "vm create new --label =",
    "vm create new --restart often",
    "vm create new --from nobody@1",
    "vm create new --from made@1 --memory 1G",
    "vm list --label =x",
    "vm list -q -o json",
    "vm show nobody",
    "vm show",
    "vm exec nobody -- true",
    "vm exec made -- true",
    "vm exec made",
    "vm start nobody",
    "vm stop nobody",
    "vm stop made",
    "vm restart nobody",
    "vm kill nobody",
    "vm kill made",
    "vm pause nobody",
    "vm pause made",
    "vm resume nobody",
    "vm resume made",
    "vm delete nobody",
    "vm delete nobody made-up",
    "vm prune",
    "vm logs nobody",
    "vm logs made --since yesterday",
    "vm stats nobody",
    "vm stats made",
    "vm cp a b",
    "vm cp made:/a other:/b",
    "vm cp nobody:/a .",
    "vm cp no-such-file made:/a",
    "vm fork nobody",
    "vm fork made",
    "vm fork made -n 0",
    "vm fork made -n 1000",
    "vm snapshot nobody",
    "vm snapshot made",
    "vm snapshot made a/b",
    "snapshot delete nobody@1",
    "snapshot rm nobody",
    "image",
    "image pull 127.0.0.1:1/app:1",
    "image pull --name UPPER 127.0.0.1:1/app:1",
    "image pull oci:",
    "image list -q -o json",
    "image show nothing",
    "image delete nothing",
    "image cache prune --keep much",
    "template rm 00",
    "template prune",
    "image build .",
    "image build --from debian-bookworm Bad",
    "image build -f Dockerfile --name x /nonexistent",
    "image promote nobody mine",
    "image promote nobody",
    "image register mine",
    "image register mine --rootfs /nonexistent",
    "image register mine --rootfs / --kernel Bad",
    "image register mine --rootfs / --size 1M",
    "image pull --vmlinux /dev/null oci:/nonexistent",
    "image pull --size 99T 127.0.0.1:1/app:1",
    "image pull --size 9G debian-bookworm",
    "kernel pull Bad",
    "kernel show nothing",
    "kernel rm nothing",
    "kernel import debian-cloud --vmlinux /dev/null",
    "kernel import mine --vmlinux /dev/null",
    "volume create Data",
    "volume create data --size 1M",
    "volume list",
    "volume show nothing",
    "volume resize nothing 9G",
    "volume rm nothing",
    "vm create x --volume data",
    "vm create x --volume data:/",
    "vm create x --volume data:/a --volume data:/b",
    "doctor now",
    "bench",
    "bench start --rounds 0",
    "bench burst --rest 5",
    "completion tcsh",
    "version --short",
    "no-such-command",
];

#[test]
fn mistakes_are_told_with_what_to_do() {
    let env = TestEnv::empty();
    assert_eq!(ran(&env, "vm create made --no-start").0, 0);
    let shown: Value =
        serde_json::from_str(&env.run(["vm", "show", "made", "-o", "json"]).ok()).unwrap();
    let mut told = String::new();
    for line in LINES {
        let (status, stdout, stderr) = ran(&env, line);
        writeln!(told, "$ banger {line}\n[{status}]").unwrap();
        for (name, text) in [("out", stdout), ("err", stderr)] {
            for said in text.lines() {
                let line = format!("{name}: {said}");
                writeln!(told, "{}", line.trim_end()).unwrap();
            }
        }
        told.push('\n');
    }
    let told = told.replace(shown["id"].as_str().unwrap(), "ID");
    insta::assert_snapshot!(told);
}
