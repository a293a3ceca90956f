//! Catalogs on a web server: good ones, and those that mean harm; and directories that are made to
//! be served.
#![expect(clippy::disallowed_methods, reason = "tests look at files")]

#[cfg(test)]
#[path = "../registry/fake.rs"]
#[expect(dead_code, reason = "a registry does more than a web server")]
mod fake;
#[cfg(test)]
mod hostile;
#[cfg(test)]
mod publish;
#[cfg(test)]
mod pull;
#[cfg(test)]
mod support;

#[cfg(test)]
use banger_testkit::oci::images;
