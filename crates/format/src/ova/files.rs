//! The files of an appliance: members of an archive, or neighbours of the descriptor.

use std::collections::HashMap;
use std::sync::Arc;

use kiln_disk::{ByteSource, Error, FileOffset, Result, Run};

use super::descriptor::{FileRef, percent_decoded};
use super::problem::OvaProblem;
use crate::resolver::{ExternalRef, ExternalRole, Resolved, Resolver};
use crate::tar::{Archive, Member};

/// One file of an appliance.
#[derive(Clone)]
pub(super) struct Part {
    pub(super) name: String,
    pub(super) source: Arc<dyn ByteSource>,
    /// Where it begins in the user's file, when it lies there in one piece.
    pub(super) at: Option<FileOffset>,
    /// Longer than what is stored of it.
    pub(super) is_sparse: bool,
    /// Ids of the wrappers that were taken off.
    pub(super) wrappers: Vec<&'static str>,
}

/// Where the files are.
pub(super) enum Files {
    /// In a tar archive.
    Archive(Members),
    /// Beside the descriptor, as far as the resolver allows.
    Beside(Arc<dyn Resolver>),
}

impl Files {
    /// The file of this name. `at` is the byte that asks for it.
    ///
    /// # Errors
    /// [`OvaProblem::FileTwice`]; whatever the resolver says.
    pub(super) fn find(&self, name: &str, at: FileOffset) -> Result<Option<Part>> {
        match self {
            Self::Archive(members) => match members.named(name) {
                None => Ok(None),
                Some((_, Some(other))) => {
                    let problem = OvaProblem::FileTwice(name.to_owned());
                    Err(Error::malformed("appliance", other.header_at, problem))
                }
                Some((member, None)) => Ok(member.is_file().then(|| part(member, name))),
            },
            Self::Beside(resolver) => {
                let reference =
                    ExternalRef { role: ExternalRole::Extent, name: name.to_owned(), format: None, at };
                match resolver.resolve(&reference) {
                    Ok(Resolved { source, .. }) => Ok(Some(Part {
                        name: name.to_owned(),
                        source,
                        at: None,
                        is_sparse: false,
                        wrappers: Vec::new(),
                    })),
                    Err(error) if error.code() == "io.not-found" => Ok(None),
                    Err(error) => Err(error),
                }
            }
        }
    }

    /// A referenced file, its pieces put together.
    ///
    /// # Errors
    /// As [`Files::find`]; [`OvaProblem::FileMissing`].
    pub(super) fn get(&self, file: &FileRef, at: FileOffset) -> Result<Part> {
        let missing =
            |name: &str| Error::malformed("appliance", at, OvaProblem::FileMissing(name.to_owned()));
        let decoded = percent_decoded(&file.href);
        for name in [file.href.as_str(), decoded.as_str()] {
            let Some(chunk) = file.chunk_bytes.filter(|chunk| *chunk > 0) else {
                match self.find(name, at)? {
                    Some(part) => return Ok(part),
                    None => continue,
                }
            };
            // DSP0243 section 7.1: "name.000000000", "name.000000001", ...
            let mut joined = Joined { pieces: Vec::new(), len: 0, label: name.to_owned() };
            while let Some(piece) = self.find(&format!("{name}.{:09}", joined.pieces.len()), at)? {
                joined.push(piece.source);
                // Only the last piece is shorter.
                if joined.pieces.len() >= MOST_PIECES || joined.last_len() != chunk {
                    break;
                }
            }
            if file.size_bytes.is_some_and(|size| size > joined.len) {
                return Err(missing(&format!("{name}.{:09}", joined.pieces.len())));
            }
            if !joined.pieces.is_empty() {
                return Ok(Part {
                    name: name.to_owned(),
                    source: Arc::new(joined),
                    at: None,
                    is_sparse: false,
                    wrappers: Vec::new(),
                });
            }
        }
        Err(missing(&file.href))
    }

    /// What a disk of the appliance may ask for: the appliance's other files, by plain name.
    pub(super) fn resolver(&self, context: &Arc<dyn Resolver>) -> Arc<dyn Resolver> {
        match self {
            Self::Archive(members) => {
                Arc::new(Neighbours { members: members.clone(), outer: Arc::clone(context) })
            }
            Self::Beside(resolver) => Arc::clone(resolver),
        }
    }
}

/// More pieces of one file than any program writes.
const MOST_PIECES: usize = 10_000;

/// A member as a file.
pub(super) fn part(member: &Member, name: &str) -> Part {
    Part {
        name: name.to_owned(),
        source: member.source(),
        at: (!member.is_sparse()).then_some(member.data_at),
        is_sparse: member.is_sparse(),
        wrappers: Vec::new(),
    }
}

/// The members of an archive by the names that a descriptor in one of its folders has for them.
#[derive(Clone)]
pub(super) struct Members {
    pub(super) archive: Arc<Archive>,
    /// Where the descriptor is: ends with a slash, or is empty.
    pub(super) folder: String,
    /// Plain name to the first member that has it, and the second.
    index: Arc<HashMap<String, (usize, Option<usize>)>>,
}

impl Members {
    pub(super) fn new(archive: Archive, folder: &str) -> Self {
        let mut index: HashMap<String, (usize, Option<usize>)> = HashMap::new();
        for (number, member) in archive.members.iter().enumerate() {
            if let Some(name) = member.plain_name() {
                index
                    .entry(name.to_owned())
                    .and_modify(|(_, other)| *other = other.or(Some(number)))
                    .or_insert((number, None));
            }
        }
        Self { archive: Arc::new(archive), folder: folder.to_owned(), index: Arc::new(index) }
    }

    /// The member of this name, and the next one of the same name.
    fn named(&self, name: &str) -> Option<(&Member, Option<&Member>)> {
        let (first, other) = self.index.get(&format!("{}{name}", self.folder))?;
        let other = other.and_then(|other| self.archive.members.get(other));
        Some((self.archive.members.get(*first)?, other))
    }
}

/// Members of the archive before whatever the user allowed.
struct Neighbours {
    members: Members,
    outer: Arc<dyn Resolver>,
}

impl Resolver for Neighbours {
    fn resolve(&self, reference: &ExternalRef) -> Result<Resolved> {
        let plain = !reference.name.contains('/');
        match self.members.named(&reference.name).filter(|(member, _)| plain && member.is_file()) {
            // Only parts of the same disk: a backing file or a parent is another disk.
            Some((member, None)) if reference.role == ExternalRole::Extent => {
                Ok(Resolved { source: member.source(), format: None })
            }
            _ => self.outer.resolve(reference),
        }
    }
}

/// Several sources one behind the other.
struct Joined {
    /// Where each begins, and it.
    pieces: Vec<(u64, Arc<dyn ByteSource>)>,
    len: u64,
    label: String,
}

impl Joined {
    fn push(&mut self, source: Arc<dyn ByteSource>) {
        let len = source.byte_len();
        self.pieces.push((self.len, source));
        self.len = self.len.saturating_add(len);
    }

    fn last_len(&self) -> u64 {
        self.pieces.last().map_or(0, |(_, source)| source.byte_len())
    }

    /// The piece that holds byte `at`, and where in it that is.
    fn piece(&self, at: u64) -> Option<(&Arc<dyn ByteSource>, u64)> {
        let index = self.pieces.partition_point(|(start, _)| *start <= at).checked_sub(1)?;
        let (start, source) = self.pieces.get(index)?;
        let inside = at.checked_sub(*start)?;
        (inside < source.byte_len()).then_some((source, inside))
    }
}

impl ByteSource for Joined {
    fn byte_len(&self) -> u64 {
        self.len
    }

    fn read_bytes(&self, at: FileOffset, buf: &mut [u8]) -> Result<()> {
        let mut here = at.get();
        let mut rest = buf;
        while !rest.is_empty() {
            let Some((source, inside)) = self.piece(here) else {
                return Err(Error::Io {
                    operation: "read",
                    target: self.label.clone(),
                    at: Some(at),
                    source: std::io::ErrorKind::UnexpectedEof.into(),
                });
            };
            let left = source.byte_len().saturating_sub(inside);
            let take = usize::try_from(left).unwrap_or(usize::MAX).min(rest.len());
            let (now, behind) = rest.split_at_mut_checked(take).unwrap_or_default();
            source.read_bytes(FileOffset::new(inside), now)?;
            here = here.saturating_add(u64::try_from(take).unwrap_or(left));
            rest = behind;
        }
        Ok(())
    }

    fn run_at(&self, at: FileOffset) -> Result<Option<Run>> {
        match self.piece(at.get()) {
            Some((source, inside)) => source.run_at(FileOffset::new(inside)),
            None => Ok(None),
        }
    }

    fn label(&self) -> &str {
        &self.label
    }
}
