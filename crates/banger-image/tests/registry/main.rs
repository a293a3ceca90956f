//! Pulling images: from a real registry, from one that does whatever a test wants, and from
//! files; and what is left when the puller is killed.
#![expect(clippy::disallowed_methods, reason = "tests start programs and look at files")]

#[cfg(test)]
mod auth;
#[cfg(test)]
mod crash;
#[cfg(test)]
mod fake;
#[cfg(test)]
mod faults;
#[cfg(test)]
mod hostile;
#[cfg(test)]
mod layers;
#[cfg(test)]
mod names;
#[cfg(test)]
mod real;
#[cfg(test)]
mod support;

#[cfg(test)]
use banger_testkit::oci::images;
