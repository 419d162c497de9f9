//! Opening what the command line names: a file, or `-` for standard input.

pub(crate) mod spool;

use std::fs::File;
use std::io::{IsTerminal, Read};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use kiln_disk::{Budget, ByteSource, Error as DiskError, FileSource, Limits, pipeline};
use kiln_format::transfer::spool_input;
use kiln_format::wrap::{Place, Unwrapped, unwrap};
use kiln_format::{
    AllowList, CheckReport, CheckScope, Choice, Format, Image, OpenContext, Resolved, Scratch, Siblings,
    Tolerance,
};

use crate::error::{About, CliError, Result};
use crate::progress::Reporter;
use crate::subject::StoredImage;

/// How to read the source.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct SourceArgs {
    /// Require this input format; anything else is refused
    #[arg(short = 'f', long = "format", value_name = "FORMAT", conflicts_with = "as_raw")]
    pub(crate) format: Option<String>,
    /// Take the file's bytes as the disk, whatever they look like
    #[arg(long = "as", value_name = "FORM")]
    pub(crate) as_raw: Option<TakenAs>,
    /// Allow the image to use another file: NAME as the image spells it, PATH where it is
    ///
    /// Nothing that an image names is opened otherwise. The format of the other file is the one that the image
    /// declares; say NAME=PATH,format=FORMAT where it declares none. May be given several times.
    #[arg(long, value_name = "NAME=PATH")]
    pub(crate) allow_backing: Vec<String>,
    /// Of an appliance or archive of several disks, read this one: its number from 1, or the name of its file
    #[arg(long, value_name = "N|NAME")]
    pub(crate) disk: Option<String>,
}

/// What a file can be taken as against its looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum TakenAs {
    /// The bytes are the disk
    Raw,
}

/// A file that is open for reading, before its format is known.
pub(crate) struct Input {
    /// The file as it was given: its wrappers included.
    pub(crate) file: Arc<FileSource>,
    /// Its name in messages.
    pub(crate) label: String,
    /// Where it is, when it has a place: other parts of the same disk may lie beside it.
    path: Option<PathBuf>,
    /// What is inside its wrappers, once they are off.
    inside: Option<Unwrapped>,
    /// Where parts of it may be unpacked.
    scratch: Option<Arc<Scratch>>,
    /// The image of the store whose uppermost layer the file is, when it has several.
    layered: Option<Box<StoredImage>>,
}

impl Input {
    /// A file that is open already and has nothing beside it.
    pub(crate) fn unplaced(file: Arc<FileSource>, label: String) -> Self {
        Self { file, label, path: None, inside: None, scratch: None, layered: None }
    }

    /// An image of the store: the file is its uppermost layer, and what lies below is said by the manifest.
    pub(crate) fn stored(image: &StoredImage) -> Result<(Self, SourceArgs)> {
        let layers = &image.manifest.layers;
        let top =
            layers.last().ok_or(kiln_import::Error::from(kiln_import::Refusal::LayerCount { layers: 0 }))?;
        let file = Arc::new(image.store.open_layer(top)?);
        let layered = (layers.len() > 1).then(|| Box::new(image.clone()));
        let input = Self { layered, ..Self::unplaced(file, image.manifest.title()) };
        Ok((input, SourceArgs { format: Some(top.format.clone()), ..SourceArgs::default() }))
    }

    /// Opens a file.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let label = path.display().to_string();
        let file = FileSource::open(path).about(&label)?;
        Ok(Self { path: Some(path.to_owned()), ..Self::unplaced(Arc::new(file), label) })
    }

    /// Takes standard input: as it is when it is a file, else by way of an unnamed file in `spool_dir`.
    pub(crate) fn stdin(spool_dir: Option<&Path>, reporter: &Reporter) -> Result<Self> {
        let (file, label) = (stdin_file()?, STDIN.to_owned());
        let kind = file.metadata().map_err(|source| DiskError::io("stat", STDIN, source))?.file_type();
        let source = if kind.is_file() {
            FileSource::from_file(file, STDIN)?
        } else {
            let spool_dir = spool_dir.map_or_else(spool::default_dir, Path::to_owned);
            spool_input(&mut spool::PatientPipe::new(file), &spool_dir, u64::MAX, reporter)?
        };
        Ok(Self::unplaced(Arc::new(source), label))
    }

    /// Takes the wrappers off: everything after this is about what is inside. A file that is to be taken as it is
    /// keeps them. The content goes to an unnamed file in `spool_dir`.
    pub(crate) fn unwrap(
        &mut self,
        args: &SourceArgs,
        spool_dir: Option<&Path>,
        reporter: &Reporter,
    ) -> Result<(), DiskError> {
        if self.inside.is_some() || args.as_raw.is_some() {
            return Ok(());
        }
        let dir = spool_dir.map_or_else(spool::default_dir, Path::to_owned);
        let place = Place { dir: &dir, max_len: MAX_CONTENT, threads: pipeline::default_threads() };
        self.inside = unwrap(&self.source(), place, reporter)?;
        let (max_len, threads) = (place.max_len, place.threads);
        self.scratch = Some(Arc::new(Scratch::new(dir, max_len, threads, reporter.stop())));
        Ok(())
    }

    /// Ids of the wrappers that were taken off, the outermost first.
    pub(crate) fn wrappers(&self) -> &[&'static str] {
        self.inside.as_ref().map_or(&[], |inside| &inside.layers)
    }

    /// `path`, or standard input for `-`.
    pub(crate) fn open_or_stdin(path: &Path, spool_dir: Option<&Path>, reporter: &Reporter) -> Result<Self> {
        if is_dash(path) { Self::stdin(spool_dir, reporter) } else { Self::open(path) }
    }

    /// The source for the libraries: what is inside the wrappers, once they are off.
    pub(crate) fn source(&self) -> Arc<dyn ByteSource> {
        match &self.inside {
            Some(inside) => Arc::clone(&inside.source),
            None => Arc::clone(&self.file) as Arc<dyn ByteSource>,
        }
    }

    /// What an open of this file may use: what `args` allow, and extents beside it.
    pub(crate) fn context(
        &self,
        args: &SourceArgs,
        tolerance: Tolerance,
        limits: Limits,
    ) -> Result<OpenContext> {
        let mut context = args.context(tolerance, limits)?;
        // What was wrapped up has nothing beside it.
        if let Some(path) = self.path.as_ref().filter(|_| self.inside.is_none()) {
            context.resolver = Arc::new(Siblings::beside(path, context.resolver));
        }
        context.scratch.clone_from(&self.scratch);
        Ok(context)
    }

    /// Opens the container; of an image of several layers, all of them.
    pub(crate) fn image(&self, args: &SourceArgs, context: &OpenContext) -> Result<Box<dyn Image>> {
        if let Some(image) = &self.layered {
            return Ok(kiln_import::open_image(&image.store, &image.manifest)?);
        }
        kiln_format::open(self.source(), args.choice()?, context).about(&self.label)
    }
}

impl Input {
    /// Runs the checks of the format, of every layer where there are several. The inner result is what the library
    /// says of the file.
    pub(crate) fn check(
        &self,
        args: &SourceArgs,
        context: &OpenContext,
        scope: CheckScope,
        reporter: &Reporter,
    ) -> Result<Result<CheckReport, DiskError>> {
        if self.layered.is_some() {
            let image = self.image(args, context)?;
            return Ok(kiln_format::check_image(image.as_ref(), scope, reporter));
        }
        Ok(kiln_format::check(self.source(), args.choice()?, context, scope, reporter))
    }
}

impl SourceArgs {
    /// What the format library is to do about the format.
    pub(crate) fn choice(&self) -> Result<Choice> {
        Ok(match (&self.format, self.as_raw) {
            (_, Some(TakenAs::Raw)) => Choice::AsRaw,
            (Some(name), None) => Choice::Declared(format_named(name)?),
            (None, None) => Choice::Detect,
        })
    }

    /// What an open may use, wherever the file is.
    pub(crate) fn context(&self, tolerance: Tolerance, limits: Limits) -> Result<OpenContext> {
        let mut context = OpenContext::new();
        context.tolerance = tolerance;
        context.part.clone_from(&self.disk);
        context.budget = Arc::new(Budget::new(limits));
        if !self.allow_backing.is_empty() {
            let mut allowed = AllowList::default();
            for entry in &self.allow_backing {
                let (name, path, format) = parse_allowed(entry)?;
                let source = Input::open(&path)?.source();
                allowed.allow(name, Resolved { source, format });
            }
            context.resolver = Arc::new(allowed);
        }
        Ok(context)
    }
}

/// The most that is taken out of wrappers: the largest disk that an import takes by default.
const MAX_CONTENT: u64 = kiln_import::MAX_DISK_BYTES;

const STDIN: &str = "standard input";

/// Standard input as a reader that never leaves a wish to stop unheard.
pub(crate) fn pipe() -> Result<impl Read + Send + 'static> {
    Ok(spool::PatientPipe::new(stdin_file()?))
}

/// Standard input as a file of its own.
fn stdin_file() -> Result<File> {
    let stdin = std::io::stdin();
    if stdin.is_terminal() {
        return Err(CliError::usage(
            "usage.terminal",
            "standard input is a terminal",
            "send an image through a pipe, or name a file",
        ));
    }
    let copy = stdin.as_fd().try_clone_to_owned();
    Ok(File::from(copy.map_err(|source| DiskError::io("open", STDIN, source))?))
}

/// Whether the word is `-`.
pub(crate) fn is_dash(path: &Path) -> bool {
    path.as_os_str() == "-"
}

/// The row of a format by the name a user typed.
pub(crate) fn format_named(name: &str) -> Result<&'static Format> {
    kiln_format::by_name(name).ok_or_else(|| {
        let known: Vec<&str> = kiln_format::FORMATS.iter().map(|format| format.id).collect();
        CliError::usage(
            "usage.format",
            format!("no format is called {name:?}"),
            format!("known formats: {}", known.join(", ")),
        )
    })
}

/// `NAME=PATH[,format=FORMAT]`.
fn parse_allowed(entry: &str) -> Result<(String, PathBuf, Option<&'static Format>)> {
    let bad = || {
        CliError::usage(
            "usage.allow-backing",
            format!("--allow-backing {entry:?} is not NAME=PATH"),
            "write the name as the image spells it, then = and the path: --allow-backing base.img=./base.img",
        )
    };
    let (entry_without, format) = match entry.rsplit_once(",format=") {
        Some((rest, name)) => (rest, Some(format_named(name)?)),
        None => (entry, None),
    };
    let (name, path) = entry_without.split_once('=').ok_or_else(bad)?;
    if name.is_empty() || path.is_empty() {
        return Err(bad());
    }
    Ok((name.to_owned(), path.into(), format))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn allowed_references_are_split_at_the_first_equals_sign() {
        let (name, path, format) = parse_allowed("base.img=/a/b=c").unwrap();
        assert_eq!((name.as_str(), path, format.is_none()), ("base.img", PathBuf::from("/a/b=c"), true));
        let (_, path, format) = parse_allowed("b=c,format=raw").unwrap();
        assert_eq!((path, format.unwrap().id), (PathBuf::from("c"), "raw"));
        for bad in ["base.img", "=x", "x="] {
            assert_eq!(parse_allowed(bad).unwrap_err().code(), "usage.allow-backing");
        }
        assert_eq!(parse_allowed("a=b,format=zip").unwrap_err().code(), "usage.format");
    }
}
