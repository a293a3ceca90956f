//! What becomes of the layers of an image when it is made, and how soon that ends when nobody wants it.

use std::fs::File;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use banger_host::home::Home;
use banger_image::image::{Import, ImportError, Naming, SandboxWishes};
use banger_image::oci::{Allowance, Pulled, Settings, UnpackError};
use banger_image::{Image, Until};
use banger_model::{Bytes, Progress, Silent, Timestamp};
use banger_testkit::oci::registry::lay_out;
use mkext4::reader::Fs;

use crate::images::{TestImage, TestLayer, noise, tar_of};
use crate::support::{Place, settings, told};

async fn pulled(place: &Place, layers: &[&TestLayer], settings: &Settings) -> Pulled {
    let layout = tempfile::tempdir().unwrap();
    lay_out(layout.path(), "v1", &TestImage::new(layers.iter().copied().cloned().collect()));
    let source = format!("oci:{}:v1", layout.path().display());
    place.pull(&source, settings).await.unwrap()
}

fn made(
    place: &Place,
    pulled: &Pulled,
    (called_off, progress): (&AtomicBool, &dyn Progress),
) -> Result<Image, ImportError> {
    let import = Import {
        wishes: &SandboxWishes::default(),
        home: &Home::under(&place.dir.path().join("home")),
        pulled,
        source: "a test",
        now: Timestamp(0),
        called_off,
    };
    import.run(&Naming::Exactly("app".parse().unwrap()), progress)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_layer_that_occurs_again_is_unpacked_once_and_laid_each_time() {
    let mut settings = settings(&[]);
    // There is room for one of it.
    settings.limits.max_unpacked = Bytes::mib(2);
    let file = TestLayer::gzip(tar_of("file", &noise(95, 1_500_000)));
    let hides = TestLayer::plain(tar_of(".wh.file", b""));
    for (layers, there) in [
        (vec![&file, &hides, &file, &file], true),
        (vec![&file, &hides, &file, &hides], false),
        (vec![&hides, &file, &hides, &file], true),
    ] {
        let place = Place::new();
        let pulled = pulled(&place, &layers, &settings).await;
        let image = made(&place, &pulled, (&AtomicBool::new(false), &Silent));
        let image = image.unwrap_or_else(|error| panic!("{}", told(&error)));
        let root = Fs::open(File::open(image.root()).unwrap()).unwrap();
        assert_eq!(root.resolve("file").is_ok(), there, "{} layers", layers.len());
    }
}

/// Calls off what is made when it comes to a stage, and tells how far it has come in that.
struct CallsOff {
    at: &'static str,
    called_off: AtomicBool,
    advanced: Mutex<Vec<u64>>,
}

impl Progress for CallsOff {
    fn stage(&self, what: &str) {
        self.called_off.fetch_or(what == self.at, Ordering::Relaxed);
    }

    fn advance(&self, done: u64, _whole: Option<u64>) {
        if self.called_off.load(Ordering::Relaxed) {
            self.advanced.lock().unwrap().push(done);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_called_off_ends_in_the_midst() {
    let place = Place::new();
    let layer = TestLayer::gzip(tar_of("file", &noise(96, 9_000_000)));
    let pulled = pulled(&place, &[&layer], &settings(&[])).await;
    let (over, file) = (AtomicBool::new(true), tempfile::tempfile().unwrap());
    let allowance = Allowance::of(&pulled.layers).until(Until::set(&over));
    let error = pulled.layers[0].unpack_into(&file, &allowance).unwrap_err();
    assert!(matches!(error, UnpackError::CalledOff), "{}", told(&error));
    assert_eq!(file.metadata().unwrap().len(), 0);

    for at in ["unpacking the layers", "writing the image"] {
        let called_off = AtomicBool::new(false);
        let calls = CallsOff { at, called_off, advanced: Mutex::default() };
        let error = made(&place, &pulled, (&calls.called_off, &calls)).unwrap_err();
        assert!(matches!(error, ImportError::CalledOff), "{at}: {}", told(&error));
        let advanced = calls.advanced.lock().unwrap();
        assert!(at != "writing the image" || advanced.is_empty(), "{advanced:?}");
        let store = place.dir.path().join("home/data/image-store");
        let left = std::fs::read_dir(store).unwrap().map(|it| it.unwrap().file_name());
        let left: Vec<_> = left.filter(|name| name.to_string_lossy().ends_with(".new")).collect();
        assert!(left.is_empty(), "{at}: {left:?}");
    }
    made(&place, &pulled, (&AtomicBool::new(false), &Silent)).unwrap();
}
