//! Which image a name comes to mean.

use std::sync::atomic::AtomicBool;

use banger_host::home::Home;
use banger_image::Image;
use banger_image::image::{Import, ImportError, Naming, SandboxWishes};
use banger_model::{Silent, Timestamp};
use banger_testkit::oci::registry::lay_out;

use crate::images::TestImage;
use crate::support::{Place, settings, told};

/// Imports a layout of this image, which came from a place that a person would call so.
async fn imported(place: &Place, image: &TestImage, made_of: &str) -> Result<Image, ImportError> {
    let layout = tempfile::tempdir().unwrap();
    lay_out(layout.path(), "v1", image);
    let source = format!("oci:{}:v1", layout.path().display());
    let pulled = place.pull(&source, &settings(&[])).await.unwrap();
    let import = Import {
        wishes: &SandboxWishes::default(),
        home: &home(place),
        pulled: &pulled,
        source: made_of,
        now: Timestamp(0),
        called_off: &AtomicBool::new(false),
    };
    import.run(&Naming::Exactly("app".parse().unwrap()), &Silent)
}

fn home(place: &Place) -> Home {
    Home::under(&place.dir.path().join("home"))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_made_of_the_same_takes_the_place_of_what_was() {
    let (place, name) = (Place::new(), "app".parse().unwrap());
    let dockerfile = "/src/Dockerfile built in /src";
    let old = imported(&place, &TestImage::usual(90, 1000), dockerfile).await.unwrap();
    let new = imported(&place, &TestImage::usual(91, 1000), dockerfile).await.unwrap();
    assert_ne!(old.id(), new.id());
    assert_eq!(Image::open(&home(&place), &name).unwrap().id(), new.id());
    // Whoever uses the old one goes on with it.
    assert!(Image::open_stored(&home(&place), old.id()).is_ok());
    let other = TestImage::usual(92, 1000);
    let refused = imported(&place, &other, "/other/Dockerfile built in /other").await;
    let said = told(&refused.unwrap_err());
    assert!(said.contains("there is an image app already, of /src/Dockerfile"), "{said}");
    assert_eq!(Image::open(&home(&place), &name).unwrap().id(), new.id());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_name_wishes_is_nothing_to_another() {
    let (place, layout) = (Place::new(), tempfile::tempdir().unwrap());
    lay_out(layout.path(), "v1", &TestImage::usual(93, 1000));
    let source = format!("oci:{}:v1", layout.path().display());
    let mut pulled = place.pull(&source, &settings(&[])).await.unwrap();
    pulled.reference = Some("registry.example/app:1".parse().unwrap());
    let made = |name: &str, disk: Option<&str>| {
        let disk = disk.map(|size| size.parse().unwrap());
        let import = Import {
            wishes: &SandboxWishes { kernel: None, disk },
            home: &home(&place),
            pulled: &pulled,
            source: "registry.example/app:1",
            now: Timestamp(0),
            called_off: &AtomicBool::new(false),
        };
        import.run(&Naming::Exactly(name.parse().unwrap()), &Silent).unwrap()
    };
    let tiny = made("tiny", Some("64M"));
    let usual = made("usual", None);
    assert_eq!(usual.config().disk, None, "it says nothing");
    assert_eq!(made("again", None).id(), usual.id());
    assert_eq!(made("tiny", None).id(), tiny.id(), "it is as it was");
    assert_ne!(made("tiny", Some("128M")).id(), tiny.id());
}
