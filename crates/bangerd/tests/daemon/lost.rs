//! A daemon whose database is lost throws nothing away.

use std::process::{Command, Stdio};

use banger_host::home::Home;

#[test]
fn sandboxes_without_a_database_are_not_removed() {
    for empty in [false, true] {
        let root = tempfile::tempdir().unwrap();
        let home = Home::under(root.path());
        let disk = home.sandboxes().join("0123456789ab/disk.ext4");
        std::fs::create_dir_all(disk.parent().unwrap()).unwrap();
        std::fs::write(&disk, "precious").unwrap();
        if empty {
            std::fs::write(home.database(), "").unwrap();
        }
        let daemon = Command::new(env!("CARGO_BIN_EXE_bangerd"))
            .env_clear()
            .env("BANGER_HOME", root.path())
            .stdin(Stdio::null())
            .output()
            .unwrap();
        assert!(!daemon.status.success());
        let said = String::from_utf8_lossy(&daemon.stderr);
        assert!(said.contains("there are 1 sandboxes in ") && said.contains("backup"), "{said}");
        assert_eq!(std::fs::read_to_string(&disk).unwrap(), "precious");
    }
}
