//! One tree becomes one read-only image file.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use banger_host::{HostError, fs};
use banger_model::{Bytes, Progress};
use bstr::BString;
use mkext4::{FsBuilder, InodeCount, Options, RegionSink};
use thiserror::Error;

use super::declare::{Declared, Refused, declare};
use super::plan::{ImagePlan, JOURNAL_BLOCKS};
use crate::archive::Content;
use crate::tree::{NodeId, NodeKind, Place, Tree};
use crate::until::Until;

/// Progress is told after so many bytes.
const PROGRESS_STEP: u64 = 4 * 1024 * 1024;

/// Why an image could not be written.
#[derive(Debug, Error)]
pub enum WriteImageError {
    /// The file could not be made.
    #[error("cannot make the image file")]
    Create(#[source] HostError),
    /// The file system of the host is full.
    #[error("no space left for {path}: it needs about {needs}", path = path.display())]
    NoSpace {
        /// The image file.
        path: PathBuf,
        /// What it takes when whole.
        needs: Bytes,
    },
    /// Whoever wanted the image does so no more.
    #[error("it was called off")]
    CalledOff,
    /// An entry that ext4 cannot hold, for a reason of ours.
    #[error("{path:?} cannot be put into an image: {problem}")]
    Refused {
        /// Its path.
        path: BString,
        /// Why not.
        problem: &'static str,
    },
    /// An entry that failed.
    #[error("cannot put {path:?} into the image")]
    Entry {
        /// Its path.
        path: BString,
        /// Why not.
        source: mkext4::Error,
    },
    /// The image as a whole failed.
    #[error("cannot write the image {path}", path = path.display())]
    Image {
        /// The image file.
        path: PathBuf,
        /// Why not.
        source: mkext4::Error,
    },
}

/// Writes everything that is in `tree` into a new ext4 image at `target`.
///
/// The same tree gives the same bytes. The file is not synced: whoever puts it in place does.
///
/// # Errors
/// [`WriteImageError`]; what was written before remains, for the caller to remove.
pub fn write_image(
    target: &Path,
    label: &str,
    tree: &Tree,
    progress: &dyn Progress,
) -> Result<(), WriteImageError> {
    write_image_until(target, label, tree, (progress, Until::default()))
}

/// The same, as long as somebody wants it.
///
/// # Errors
/// [`WriteImageError`]; what was written before remains, for the caller to remove.
pub fn write_image_until(
    target: &Path,
    label: &str,
    tree: &Tree,
    (progress, until): (&dyn Progress, Until<'_>),
) -> Result<(), WriteImageError> {
    let plan = ImagePlan::of(tree);
    let failed = |source| image_error(target, &plan, source);
    let builder = FsBuilder::new(options(&plan, label)).map_err(failed)?;
    let declared = declare(builder, tree).map_err(|(node, why)| node_error(tree, node, why))?;
    let Declared { builder, files, spelling, .. } = declared;
    let layout = builder.seal().map_err(failed)?;

    let file = fs::create_new(target).map_err(WriteImageError::Create)?;
    file.set_len(layout.image_len()).map_err(|error| failed(error.into()))?;
    let mut writer = layout.writer(ImageFile(&file)).map_err(failed)?;
    let (mut done, mut told) = (0, 0);
    for (handle, node) in in_order_of_archives(tree, files) {
        let NodeKind::File(place) = &tree.node(node).kind else { continue };
        let mut reader = ContentReader::new(tree.archive(place), &place.content, until);
        writer.fill(handle, &mut reader).map_err(|source| match source {
            _ if until.is_over() => WriteImageError::CalledOff,
            mkext4::Error::Io(error) if no_space(&error) => failed(error.into()),
            source => node_error(tree, node, Refused::Writer(source)),
        })?;
        done += place.content.len();
        if done - told >= PROGRESS_STEP {
            told = done;
            progress.advance(done, Some(plan.content));
        }
    }
    writer.finish().map_err(failed)?;
    spelling.correct(&file, tree).map_err(failed)?;
    progress.advance(plan.content, Some(plan.content));
    Ok(())
}

/// Files as their bytes lie in the archives, so that these are read from begin to end.
fn in_order_of_archives<T>(tree: &Tree, mut files: Vec<(T, NodeId)>) -> Vec<(T, NodeId)> {
    files.sort_by_key(|(_, node)| match &tree.node(*node).kind {
        NodeKind::File(Place { archive, content }) => match content {
            Content::Archived { offset, .. } => (*archive, *offset),
            Content::Sparse { extents, .. } => {
                (*archive, extents.first().map_or(0, |extent| extent.offset))
            }
            Content::Inline(_) => (usize::MAX, 0),
        },
        _ => (usize::MAX, 0),
    });
    files
}

fn options(plan: &ImagePlan, label: &str) -> Options {
    let mut options = Options::new(plan.size, plan.uuid, plan.epoch);
    options.inodes = InodeCount::Exact(plan.inodes);
    // Labels hold 16 bytes; they help people, nothing depends on them.
    options.label = Some(label.chars().filter(char::is_ascii).take(16).collect());
    options.reserved_percent = 0;
    options.journal_blocks = Some(JOURNAL_BLOCKS);
    options
}

fn no_space(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

fn image_error(target: &Path, plan: &ImagePlan, source: mkext4::Error) -> WriteImageError {
    let path = target.to_owned();
    match source {
        mkext4::Error::Io(error) if no_space(&error) => {
            WriteImageError::NoSpace { path, needs: Bytes::new(plan.content) }
        }
        source => WriteImageError::Image { path, source },
    }
}

fn node_error(tree: &Tree, node: NodeId, refused: Refused) -> WriteImageError {
    let path = tree.path_of(node);
    match refused {
        Refused::Problem(problem) => WriteImageError::Refused { path, problem },
        Refused::Writer(source) => WriteImageError::Entry { path, source },
    }
}

/// The image's bytes go to their places in the file; zeros are left as holes.
struct ImageFile<'a>(&'a File);

impl RegionSink for ImageFile<'_> {
    fn data(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        // Most images have files full of zeros: those cost nothing then.
        if bytes.iter().all(|byte| *byte == 0) {
            return Ok(());
        }
        self.0.write_all_at(bytes, offset)
    }

    fn zeros(&mut self, _offset: u64, _len: u64) -> io::Result<()> {
        Ok(())
    }
}

/// Reads content from where it is.
struct ContentReader<'a> {
    archive: Option<&'a File>,
    content: &'a Content,
    read: u64,
    until: Until<'a>,
}

impl<'a> ContentReader<'a> {
    fn new(archive: Option<&'a File>, content: &'a Content, until: Until<'a>) -> Self {
        Self { archive, content, read: 0, until }
    }
}

impl Read for ContentReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.until.is_over() {
            return Err(io::Error::other("nobody wants it any more"));
        }
        let n = self.content.read_at(self.archive, buffer, self.read)?;
        self.read += n as u64;
        Ok(n)
    }
}
