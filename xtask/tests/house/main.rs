//! The rules of the tree, as tests: which crate may use which, what is never named where, what
//! comes from outside and under which licence, and that documents are true where a machine can
//! tell. A rule that is not checked is a hope.
#![expect(clippy::disallowed_methods, reason = "these tests read this repository")]

#[cfg(test)]
mod dependencies;
#[cfg(test)]
mod direction;
#[cfg(test)]
mod documents;
#[cfg(test)]
mod graph;
#[cfg(test)]
mod licences;
#[cfg(test)]
mod sources;
#[cfg(test)]
mod words;
