//! `banger catalog`, for whoever uses one: what names there are.

use std::collections::BTreeMap;
use std::fmt::Display;

use banger_model::{Bytes, ExitCode};
use bangerd::catalog::{
    Bundle, Catalogs, Current, ImageEntry, Index, KernelEntry, catalogs, embedded, show_time,
};
use serde::Serialize;

use crate::commands::listing::Listing;
use crate::commands::vm_list::now;
use crate::context::{self, Context};
use crate::error::CommandError;
use crate::output::{self, Table};

/// Where names come from that are a part of this program.
const OWN: &str = "banger";

/// List the names of catalogs
///
/// First those that are a part of this program, then those of the catalog that is set in
/// `config.toml`. A name is what `image pull` and `--image` take; it goes before a reference to a
/// registry.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  banger catalog show\n  banger catalog show -o json")]
pub(crate) struct ShowArgs {
    #[command(flatten)]
    listing: Listing,
}

/// Fetch the index of the catalog that is set
///
/// An index is fetched by itself when it is needed and older than an hour. This one says what is
/// wrong with it.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  banger catalog update")]
pub(crate) struct UpdateArgs {}

pub(crate) fn show(args: &ShowArgs) -> Result<ExitCode, CommandError> {
    let catalogs = configured()?;
    let current = context::runtime()?.block_on(catalogs.current(now()));
    let current = current.map_err(anyhow::Error::from)?;
    let mut rows = rows(&embedded().map_err(anyhow::Error::from)?, OWN);
    if let (Some(current), Some(configured)) = (current, catalogs.configured()) {
        rows.extend(self::rows(&current.index, &configured.url.to_string()));
    }
    args.listing.show(&without_hidden(rows), |it| it.name.clone(), table)
}

pub(crate) fn update(_: &UpdateArgs) -> Result<ExitCode, CommandError> {
    let catalogs = configured()?;
    let current = context::runtime()?.block_on(catalogs.update(now()));
    let current = current.map_err(anyhow::Error::from)?;
    match (current, catalogs.configured()) {
        (Some(current), Some(configured)) => {
            output::line(told(&current, &configured.url))?;
            Ok(ExitCode::SUCCESS)
        }
        _ => Err(CommandError::from(anyhow::anyhow!("no catalog is set"))
            .hint("set catalog.url and catalog.key in config.toml")),
    }
}

fn configured() -> Result<Catalogs, CommandError> {
    let context = Context::from_process()?;
    Ok(catalogs(&context.home, context.roots)?)
}

fn told(current: &Current, url: impl Display) -> String {
    let Index { serial, expires, images, kernels } = &current.index;
    let (images, kernels, until) = (images.len(), kernels.len(), show_time(*expires));
    format!("{url}: serial {serial}, valid until {until}, {images} images, {kernels} kernels")
}

/// A name, as it is shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Row {
    name: String,
    /// `image` or `kernel`.
    of: &'static str,
    /// `recipe`, `bundle`, `oci`, or what this program does not know.
    kind: String,
    /// The machines that it is for; empty where that is not said.
    architectures: Vec<String>,
    /// Bytes to fetch of its largest bundle.
    #[serde(skip_serializing_if = "Option::is_none")]
    size: Option<u64>,
    /// The image in a registry that it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    reference: Option<String>,
    catalog: String,
}

fn rows(index: &Index, catalog: &str) -> Vec<Row> {
    let images = index.images.iter().map(|(name, entry)| {
        let row = Row::new(name, "image", catalog);
        match entry {
            ImageEntry::Bundles(bundles) => row.of_bundles(bundles),
            ImageEntry::Oci(it) => Row { reference: Some(it.to_string()), ..row.of_kind("oci") },
            ImageEntry::Recipe(_) => row.of_kind("recipe"),
            ImageEntry::Unknown(kind) => row.of_kind(kind),
        }
    });
    let kernels = index.kernels.iter().map(|(name, entry)| {
        let row = Row::new(name, "kernel", catalog);
        match entry {
            KernelEntry::Bundles(bundles) => row.of_bundles(bundles),
            KernelEntry::Recipe(_) => row.of_kind("recipe"),
            KernelEntry::Unknown(kind) => row.of_kind(kind),
        }
    });
    images.chain(kernels).collect()
}

impl Row {
    fn new(name: impl Display, of: &'static str, catalog: &str) -> Self {
        let (name, catalog) = (name.to_string(), catalog.to_owned());
        let (kind, architectures) = (String::new(), Vec::new());
        Self { name, of, kind, architectures, size: None, reference: None, catalog }
    }

    fn of_kind(self, kind: &str) -> Self {
        Self { kind: kind.to_owned(), ..self }
    }

    fn of_bundles(self, bundles: &[Bundle]) -> Self {
        Self {
            architectures: bundles.iter().map(|it| it.architecture.clone()).collect(),
            size: bundles.iter().map(|it| it.size).max(),
            ..self.of_kind("bundle")
        }
    }
}

/// What comes first goes first: a name that is in the program is not what another catalog says.
fn without_hidden(rows: Vec<Row>) -> Vec<Row> {
    let mut first = BTreeMap::new();
    for (at, row) in rows.iter().enumerate() {
        first.entry((row.of, row.name.clone())).or_insert(at);
    }
    let is_first = |(at, row): &(usize, Row)| first.get(&(row.of, row.name.clone())) == Some(at);
    rows.into_iter().enumerate().filter(is_first).map(|(_, row)| row).collect()
}

fn table(rows: &[Row]) -> String {
    let mut table = Table::new(["NAME", "OF", "KIND", "FOR", "SIZE", "CATALOG"]);
    for row in rows {
        table.row([
            row.name.clone(),
            row.of.to_owned(),
            row.kind.clone(),
            row.architectures.join(","),
            row.size.map(|size| Bytes::new(size).to_string()).unwrap_or_default(),
            row.catalog.clone(),
        ]);
    }
    table.render(&["FOR", "SIZE"])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_the_program_hide_those_of_another_catalog() {
        let mut other = embedded().unwrap();
        let name = "tools".parse().unwrap();
        other.images.insert(name, ImageEntry::Unknown("later".to_owned()));
        let both =
            [rows(&embedded().unwrap(), OWN), rows(&other, "https://a.example.com/")].concat();
        assert_eq!(
            table(&without_hidden(both)),
            "NAME             OF      KIND    CATALOG\n\
             debian-bookworm  image   recipe  banger\n\
             debian-cloud     kernel  recipe  banger\n\
             tools            image   later   https://a.example.com/\n"
        );
    }
}
