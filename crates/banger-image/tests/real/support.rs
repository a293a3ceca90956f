//! What the tests share: a home that is kept, so that repeated runs are fast, and the one way to
//! say that a test cannot run here.

use std::error::Error;

use banger_host::home::Home;
use banger_image::image::{EnsureImageError, MakeImageError};
use banger_image::kernel::{AptError, EnsureKernelError, MakeKernelError};
use banger_image::{Image, Kernel};
use banger_model::Silent;

/// An error with all its causes.
pub(crate) fn chain(error: &dyn Error) -> String {
    let causes = std::iter::successors(error.source(), |error: &&dyn Error| (*error).source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

/// The home that tests share: `BANGER_TEST_HOME`, or one among the build results.
pub(crate) fn home() -> Home {
    let root = banger_testkit::test_home();
    std::fs::create_dir_all(&root).unwrap();
    Home::under(&root.canonicalize().unwrap())
}

/// The default kernel; `None` when this machine cannot make it.
pub(crate) fn kernel() -> Option<Kernel> {
    let error = match Kernel::ensure(&home(), &"debian-cloud".parse().unwrap(), &Silent) {
        Ok(kernel) => return Some(kernel),
        Err(error) => error,
    };
    if let EnsureKernelError::Make { source, .. } = &error
        && let MakeKernelError::Missing(_) | MakeKernelError::Apt(AptError::NotFound { .. }) =
            **source
    {
        banger_testkit::skipped(&chain(&error));
        return None;
    }
    panic!("{}", chain(&error));
}

/// The default image; `None` when this machine cannot make it.
pub(crate) fn image() -> Option<Image> {
    let error = match Image::ensure(&home(), &"debian-bookworm".parse().unwrap(), &Silent) {
        Ok(image) => return Some(image),
        Err(error) => error,
    };
    let EnsureImageError::Make { source, .. } = &error else { panic!("{}", chain(&error)) };
    let cannot = match &**source {
        MakeImageError::Missing(_) => true,
        MakeImageError::Bootstrap { said, .. } => {
            ["Temporary failure resolving", "Could not connect", "Could not resolve"]
                .iter()
                .any(|unreachable| said.contains(unreachable))
        }
        _ => false,
    };
    assert!(cannot, "{}", chain(&error));
    banger_testkit::skipped(&chain(&error));
    None
}

/// What it is called.
pub(crate) fn name() -> banger_model::ImageName {
    "debian-bookworm".parse().unwrap()
}
