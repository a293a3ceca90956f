//! Tests with Debian's real packages, real tools and the real kernel.

#[cfg(test)]
mod compare;
#[cfg(test)]
mod image;
#[cfg(test)]
mod kernel;
#[cfg(test)]
mod mount;
#[cfg(test)]
mod support;
