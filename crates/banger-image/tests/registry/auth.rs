//! Who the user is: tokens, names and passwords, Docker's configuration, and where none of that
//! may go.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use banger_image::oci::Settings;
use banger_testkit::skipped;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::fake::Content;
use crate::fake::{Fake, Reply};
use crate::images::TestImage;
use crate::support::{Place, assert_is, settings, told};

/// `someone:pass:word` as a header has it.
const BASIC: &str = "Basic c29tZW9uZTpwYXNzOndvcmQ=";

/// Docker's configuration with these lines.
fn configured(place: &Place, settings: &mut Settings, json: &str) -> PathBuf {
    let path = place.dir.path().join("config.json");
    std::fs::write(&path, json).unwrap();
    settings.credentials = Some(path.clone());
    path
}

/// A registry that wants a token, and gives it to whom it likes.
async fn guarded(image: &TestImage, wants: &'static str) -> Fake {
    let content = Content::of("team/app", "1", image);
    let given = AtomicUsize::new(0);
    Fake::start(move |request| {
        if request.path == "/token" {
            let known = request.header("authorization") == wants;
            let n = given.fetch_add(1, Ordering::SeqCst);
            let token = format!(r#"{{"token":"t{n}","expires_in":60}}"#);
            return if known { Reply::new(200, token) } else { Reply::new(401, "") };
        }
        // A token is good for two requests.
        let used = request.header("authorization").strip_prefix("Bearer t");
        let last = given.load(Ordering::SeqCst).wrapping_sub(1);
        if used.is_some_and(|n| n == last.to_string()) && !(request.is_blob() && last == 0) {
            return content.answer(request);
        }
        let realm = format!(
            r#"Bearer realm="http://{}/token?x=1",service="the one",scope="repository:team/app:pull,push""#,
            request.header("host")
        );
        Reply::new(401, "").with("www-authenticate", realm)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_asked_for_to_read_alone_and_again_when_it_has_run_out() {
    let image = TestImage::usual(20, 1000);
    let fake = guarded(&image, "").await;
    let source = format!("{}/team/app:1", fake.host());
    let mut settings = settings(&[&fake.host()]);
    settings.at_once = 1.try_into().unwrap();
    assert_is(&Place::new().pull(&source, &settings).await.unwrap(), &image);
    let tokens: Vec<_> = fake.requests().into_iter().filter(|r| r.path == "/token").collect();
    assert_eq!(tokens.len(), 2);
    for token in tokens {
        assert_eq!(
            token.query,
            "x=1&service=the+one&scope=repository%3Ateam%2Fapp%3Apull&client_id=banger"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_come_from_dockers_configuration() {
    let image = TestImage::usual(21, 1000);
    let fake = guarded(&image, BASIC).await;
    let source = format!("{}/team/app:1", fake.host());
    let (place, mut settings) = (Place::new(), settings(&[&fake.host()]));
    settings.at_once = 1.try_into().unwrap();
    let error = told(&place.pull(&source, &settings).await.unwrap_err());
    assert!(error.contains(&format!("`docker login {}` first", fake.host())), "{error}");

    let auth = BASIC.strip_prefix("Basic ").unwrap();
    let json = format!(r#"{{"auths":{{"{}":{{"auth":"{auth}"}}}}}}"#, fake.host());
    configured(&place, &mut settings, &json);
    assert_is(&place.pull(&source, &settings).await.unwrap(), &image);

    let json = format!(r#"{{"auths":{{"{}":{{"auth":"!"}}}}}}"#, fake.host());
    configured(&place, &mut settings, &json);
    let error = told(&place.pull(&source, &settings).await.unwrap_err());
    assert!(error.contains("cannot make sense of the credentials"), "{error}");
}

fn helper(dir: &Path, name: &str, script: &str) {
    let path = dir.join(format!("docker-credential-{name}"));
    std::fs::write(&path, format!("#!/bin/sh\nread -r server\n{script}\n")).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_come_from_programs() {
    let image = TestImage::usual(22, 1000);
    let fake = guarded(&image, BASIC).await;
    let source = format!("{}/team/app:1", fake.host());
    let (place, mut settings) = (Place::new(), settings(&[&fake.host()]));
    settings.at_once = 1.try_into().unwrap();
    let bin = place.dir.path().join("bin");
    std::fs::create_dir(&bin).unwrap();
    settings.search_path = format!("{}:/usr/bin:/bin", bin.display()).into();
    configured(&place, &mut settings, r#"{"credsStore":"test"}"#);
    let error = told(&place.pull(&source, &settings).await.unwrap_err());
    assert!(error.contains("docker-credential-test is not installed"), "{error}");

    helper(&bin, "test", r#"echo "$1 of $server: locked"; exit 1"#);
    let error = told(&place.pull(&source, &settings).await.unwrap_err());
    assert!(error.contains(&format!("get of {}: locked", fake.host())), "{error}");

    helper(&bin, "test", "echo credentials not found in native keychain; exit 1");
    let error = told(&place.pull(&source, &settings).await.unwrap_err());
    assert!(error.contains("docker login"), "{error}");

    helper(&bin, "test", r#"echo '{"ServerURL":"x","Username":"someone","Secret":"pass:word"}'"#);
    assert_is(&place.pull(&source, &settings).await.unwrap(), &image);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_gets_tokens_is_sent_in_a_form() {
    let image = TestImage::usual(23, 1000);
    let content = Content::of("app", "1", &image);
    let fake = Fake::start(move |request| {
        if request.path == "/token" {
            assert_eq!(request.method, "POST");
            let form = String::from_utf8(request.body.clone()).unwrap();
            assert!(form.contains("grant_type=refresh_token&refresh_token=mine"), "{form}");
            return Reply::new(200, r#"{"access_token":"yes"}"#);
        }
        if request.header("authorization") == "Bearer yes" {
            return content.answer(request);
        }
        let realm = format!("Bearer realm=\"http://{}/token\"", request.header("host"));
        Reply::new(401, "").with("www-authenticate", realm)
    })
    .await;
    let (place, mut settings) = (Place::new(), settings(&[&fake.host()]));
    let json = format!(r#"{{"auths":{{"{}":{{"identitytoken":"mine"}}}}}}"#, fake.host());
    configured(&place, &mut settings, &json);
    let source = format!("{}/app:1", fake.host());
    assert_is(&place.pull(&source, &settings).await.unwrap(), &image);
}

/// A registry with basic authentication, which keeps its blobs elsewhere.
async fn redirecting(content: Content, elsewhere: String) -> Fake {
    Fake::start(move |request| {
        if request.header("authorization") != BASIC {
            return Reply::new(401, "").with("www-authenticate", "Basic realm=\"r\"");
        }
        if request.is_blob() {
            let place = format!("{elsewhere}{}?signed=1", request.path);
            return Reply::new(307, "").with("location", place);
        }
        content.answer(request)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_do_not_follow_a_redirect_to_another_host() {
    let image = TestImage::usual(24, 1000);
    let storage = Fake::good(Content::of("app", "1", &image)).await;
    let elsewhere = format!("http://{}", storage.host());
    let fake = redirecting(Content::of("app", "1", &image), elsewhere).await;
    let (place, mut settings) = (Place::new(), settings(&[&fake.host()]));
    let auth = BASIC.strip_prefix("Basic ").unwrap();
    let json = format!(r#"{{"auths":{{"{}":{{"auth":"{auth}"}}}}}}"#, fake.host());
    configured(&place, &mut settings, &json);
    let source = format!("{}/app:1", fake.host());
    // Nobody said that the storage may be spoken to without TLS.
    let error = told(&place.pull(&source, &settings).await.unwrap_err());
    assert!(
        error.contains(&format!("{} would be spoken to without TLS", storage.host())),
        "{error}"
    );
    assert!(storage.requests().is_empty());

    settings.insecure.insert(storage.host());
    assert_is(&place.pull(&source, &settings).await.unwrap(), &image);
    assert_eq!(storage.requests().len(), 4);
    for request in storage.requests() {
        assert_eq!((request.header("authorization"), request.query.as_str()), ("", "signed=1"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn redirects_end() {
    let fake =
        Fake::start(|request| Reply::new(302, "").with("location", format!("{}x", request.path)))
            .await;
    let source = format!("{}/app:1", fake.host());
    let error = told(&Place::new().pull(&source, &settings(&[&fake.host()])).await.unwrap_err());
    assert!(error.contains("redirects more than 5 times"), "{error}");
    assert_eq!(fake.requests().len(), 6);
    for nowhere in ["ftp://x/", "http://u:p@x/", ""] {
        let fake = Fake::start(move |_| Reply::new(302, "").with("location", nowhere)).await;
        let source = format!("{}/app:1", fake.host());
        let error =
            told(&Place::new().pull(&source, &settings(&[&fake.host()])).await.unwrap_err());
        assert!(error.contains("redirects"), "{error}");
    }
}

/// A server's side of TLS for `localhost`, and the file with its certificate.
fn tls(dir: &Path) -> Option<(TlsAcceptor, PathBuf)> {
    let (key, certificate) = (dir.join("key.pem"), dir.join("cert.pem"));
    let made = std::process::Command::new("openssl")
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"])
        .args(["-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"])
        .args(["-addext", "basicConstraints=critical,CA:FALSE", "-keyout"])
        .arg(&key)
        .arg("-out")
        .arg(&certificate)
        .output();
    if !made.is_ok_and(|output| output.status.success()) {
        skipped("openssl cannot make a certificate");
        return None;
    }
    let pem = std::fs::read(&certificate).unwrap();
    let chain = CertificateDer::pem_slice_iter(&pem).map(Result::unwrap).collect();
    let key = PrivateKeyDer::from_pem_slice(&std::fs::read(&key).unwrap()).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    Some((TlsAcceptor::from(Arc::new(config)), certificate))
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_is_the_rule_and_certificates_are_checked() {
    let (place, image) = (Place::new(), TestImage::usual(25, 100_000));
    let Some((acceptor, certificate)) = tls(place.dir.path()) else { return };
    let content = Content::of("app", "1", &image);
    let fake = Fake::start_tls(acceptor, move |request| content.answer(request)).await;
    let mut settings = settings(&[]);
    let source = format!("{}/app:1", fake.named_host());
    let error = told(&place.pull(&source, &settings).await.unwrap_err());
    assert!(error.contains("TLS failed") || error.contains("no certificates to trust"), "{error}");
    settings.roots = Some(certificate);
    assert_is(&place.pull(&source, &settings).await.unwrap(), &image);
    // The certificate is for the name, not for the address.
    let error = told(&place.pull(&format!("{}/app:1", fake.host()), &settings).await.unwrap_err());
    assert!(error.contains("TLS failed"), "{error}");
    settings.roots = Some(place.dir.path().join("key.pem"));
    let error = told(&place.pull(&source, &settings).await.unwrap_err());
    assert!(error.contains("has no certificate in it"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redirect_never_gives_up_tls() {
    let (place, image) = (Place::new(), TestImage::usual(26, 1000));
    let Some((acceptor, certificate)) = tls(place.dir.path()) else { return };
    let content = Content::of("app", "1", &image);
    let plain = Fake::good(content.clone()).await;
    let to = format!("http://{}", plain.host());
    let fake = Fake::start_tls(acceptor.clone(), move |request| {
        Reply::new(307, "").with("location", format!("{to}{}", request.path))
    })
    .await;
    // Not even where the other host may be spoken to without TLS.
    let mut settings = settings(&[&plain.host()]);
    settings.roots = Some(certificate);
    let source = format!("{}/app:1", fake.named_host());
    let error = told(&place.pull(&source, &settings).await.unwrap_err());
    assert!(error.contains("which is without TLS: that is not followed"), "{error}");
    assert!(plain.requests().is_empty());

    // Nor does a token come from there.
    let realm = format!("Bearer realm=\"http://{}/token\"", plain.host());
    let fake = Fake::start_tls(acceptor, move |_| {
        Reply::new(401, "").with("www-authenticate", realm.clone())
    })
    .await;
    let error =
        told(&place.pull(&format!("{}/app:1", fake.named_host()), &settings).await.unwrap_err());
    assert!(error.contains("which is no address or has no TLS"), "{error}");
    assert!(plain.requests().is_empty());
}
