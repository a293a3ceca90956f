#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| banger_fuzz::run("update_manifest", bytes));
