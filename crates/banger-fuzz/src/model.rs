//! What users type, and what is read back from files of ours: names, ids, sizes, variables.

use banger_model::{
    Bytes, CpuCount, DiskSize, EnvVar, ImageName, Limits, MemorySize, SandboxId, SandboxName,
};

/// A value that is accepted is what its type promises, and reads back as it is shown.
pub(crate) fn model(bytes: &[u8]) {
    if let Ok(variable) = EnvVar::parse(bytes) {
        assert!(!variable.name().is_empty() && !variable.name().contains(&b'='));
        assert_eq!([variable.name(), b"=", variable.value()].concat(), bytes);
        assert!(!bytes.contains(&0));
    }
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    names(text);
    sizes(text);
    if let Ok(id) = text.parse::<SandboxId>() {
        assert_eq!(SandboxId::from_random(id.bytes()), id);
    }
}

fn names(text: &str) {
    let name = text.parse::<SandboxName>();
    assert_eq!(name.is_ok(), text.parse::<ImageName>().is_ok());
    let Ok(name) = name else { return };
    // A name becomes a path component, a hostname and a word on command lines.
    assert_eq!(name.as_str(), text);
    assert!(!text.is_empty() && text.len() <= Limits::MAX_NAME_LEN);
    assert!(!text.contains('/') && !text.contains("..") && !text.starts_with(['-', '.']));
    assert!(text.bytes().all(|byte| byte.is_ascii_graphic()));
}

fn sizes(text: &str) {
    if let Ok(size) = text.parse::<Bytes>() {
        let shown = size.to_string();
        if !shown.contains('.') {
            assert_eq!(shown.parse::<Bytes>(), Ok(size), "{shown}");
        }
    }
    if let Ok(memory) = text.parse::<MemorySize>() {
        assert!((Limits::MIN_MEMORY..=Limits::MAX_MEMORY).contains(&memory.bytes()));
    }
    if let Ok(disk) = text.parse::<DiskSize>() {
        assert!((Limits::MIN_DISK..=Limits::MAX_DISK).contains(&disk.bytes()));
    }
    if let Ok(cpus) = text.parse::<CpuCount>() {
        assert!((1..=Limits::MAX_CPUS).contains(&cpus.get()));
    }
}
