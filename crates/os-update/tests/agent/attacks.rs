//! What a server, or somebody between, may do about signatures and contents.

use std::fs;

use banger_trust::SecretKey;
use banger_update::Slot;
use os_update::agent::AgentError;
use os_update::settings::Key;

use crate::appliance::{Appliance, PLAIN, Release};
use crate::server::Server;

/// Serves a release after `damage`, and has it applied.
fn attacked(damage: impl FnOnce(&Appliance)) -> (Appliance, AgentError) {
    let mut appliance = Appliance::new();
    Release::new("2.0.0").publish(&appliance.path("www"), &appliance.secret);
    damage(&appliance);
    let server = Server::of(&appliance.path("www"));
    appliance.set(Key::Server, &server.url);
    let error = appliance.apply(PLAIN).unwrap_err();
    assert!(!appliance.path("boot/os/b/vmlinuz").exists(), "nothing has its name");
    assert!(matches!(appliance.activate(PLAIN), Err(AgentError::NothingStaged(_))));
    assert_eq!(appliance.boot("2.0.0"), Slot::A);
    (appliance, error)
}

const FILES: [&str; 3] = ["latest.json", "vmlinuz", "kubesolo-os.gz"];

#[test]
fn t06_each_signature_alone_and_all_together_have_to_be_there() {
    for mask in 1..8 {
        let (_, error) = attacked(|appliance| {
            for (bit, name) in FILES.iter().enumerate() {
                if mask & (1 << bit) != 0 {
                    fs::remove_file(appliance.path(&format!("www/{name}.sig"))).unwrap();
                }
            }
        });
        assert_eq!(error.exit_code(), 5, "{mask}: {error}");
    }
    for name in FILES {
        let put = |bytes: &[u8]| {
            let (_, error) = attacked(|appliance| {
                fs::write(appliance.path(&format!("www/{name}.sig")), bytes).unwrap();
            });
            assert_eq!(error.exit_code(), 5, "{name}: {error}");
        };
        put(b"");
        put(&[0; 64]);
        put(b"not a signature");
    }
}

#[test]
fn t02_signatures_of_one_file_are_none_of_another() {
    for (from, to) in [("vmlinuz", "kubesolo-os.gz"), ("vmlinuz", "latest.json")] {
        let (_, error) = attacked(|appliance| {
            let at = |name: &str| appliance.path(&format!("www/{name}.sig"));
            fs::copy(at(from), at(to)).unwrap();
        });
        assert_eq!(error.exit_code(), 5, "{error}");
    }
}

#[test]
fn t01_t14_a_manifest_by_somebody_else_is_refused() {
    let (_, error) = attacked(|appliance| {
        let other = SecretKey::from_seed([9; 32]);
        Release::new("99.0.0").publish(&appliance.path("www"), &other);
    });
    assert_eq!(error.exit_code(), 5, "{error}");
    let (_, error) = attacked(|appliance| {
        let path = appliance.path("www/latest.json");
        let text = fs::read_to_string(&path).unwrap().replace("2.0.0", "2.0.1");
        fs::write(path, text).unwrap();
    });
    assert_eq!(error.exit_code(), 5, "{error}");
}

#[test]
fn t13_the_files_of_two_releases_do_not_mix() {
    let (appliance, error) = attacked(|appliance| {
        let other = Release { system: b"older".to_vec(), ..Release::new("1.5.0") };
        let www = appliance.path("www");
        fs::write(www.join("kubesolo-os.gz"), &other.system).unwrap();
        let signature = appliance.secret.sign(&other.system);
        fs::write(www.join("kubesolo-os.gz.sig"), signature.bytes()).unwrap();
    });
    assert_eq!(error.exit_code(), 5, "{error}");
    let parts = fs::read_dir(appliance.path("boot/os/b")).unwrap();
    let names: Vec<_> = parts.map(|part| part.unwrap().file_name()).collect();
    assert!(names.iter().all(|name| name.to_string_lossy().starts_with("vmlinuz.")), "{names:?}");
}

#[test]
fn n08_a_hint_that_leads_elsewhere_is_not_followed() {
    let mut appliance = Appliance::new();
    let elsewhere = Server::answering(|asked, _| panic!("{asked:?} was asked"));
    let hint = format!(r#", "metadata_sig_url": "{}/latest.json.sig""#, elsewhere.url);
    Release::new("2.0.0").with(&hint).publish(&appliance.path("www"), &appliance.secret);
    let server = Server::of(&appliance.path("www"));
    appliance.set(Key::Server, &server.url);
    assert!(appliance.check(PLAIN).is_ok(), "the conventional place is asked");
}

#[test]
fn n08_files_of_other_hosts_are_not_fetched() {
    let mut appliance = Appliance::new();
    let release = Release::new("2.0.0");
    release.publish(&appliance.path("www"), &appliance.secret);
    let elsewhere = Server::of(&appliance.path("www"));
    let manifest = release.manifest().replace(
        r#""vmlinuz_url": "vmlinuz""#,
        &format!(r#""vmlinuz_url": "{}/vmlinuz""#, elsewhere.url),
    );
    fs::write(appliance.path("www/latest.json"), &manifest).unwrap();
    let signature = appliance.secret.sign(manifest.as_bytes());
    fs::write(appliance.path("www/latest.json.sig"), signature.bytes()).unwrap();
    let server = Server::of(&appliance.path("www"));
    appliance.set(Key::Server, &server.url);
    let error = appliance.apply(PLAIN).unwrap_err();
    assert!(os_update::health::chain(error).contains("another host"));
    let host = elsewhere.url.trim_start_matches("http://").to_owned();
    appliance.set(Key::AllowedHosts, &host);
    assert!(appliance.apply(PLAIN).is_ok(), "unless it is listed");
}
