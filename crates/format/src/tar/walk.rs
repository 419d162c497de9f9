//! From header to header.

use std::sync::Arc;

use kiln_disk::zero::is_zero;
use kiln_disk::{Budget, ByteSource, Cost, Error, FileOffset, Result};

use super::header::{BLOCK, BLOCK_LEN, Block, Header, Magic};
use super::member::{Member, MemberKind};
use super::pax::{Pax, check_global};
use super::problem::TarProblem;
use super::sparse::{self, SparseMap};
use super::{MAX_EXTENSION_LEN, MAX_MEMBERS, MAX_NAME_LEN};

/// Type flag of GNU tar's sparse members.
pub(super) const SPARSE: u8 = b'S';

/// How the list of members ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// With a block of zeros, as it should.
    Marked,
    /// With the file: it may have been cut off between two members.
    Unmarked,
}

/// The members of an archive.
#[derive(Debug, Clone)]
pub struct Archive {
    /// All members in the order of the file.
    pub members: Vec<Member>,
    /// Where the list ends.
    pub end: FileOffset,
    /// How.
    pub ending: Ending,
    /// The first byte behind the end that is not zero, when there is one in the first MiB there: programs that
    /// ignore the end (`tar -i`) see more members than others.
    pub hidden: Option<FileOffset>,
}

/// Lists the members of an archive from its headers alone; contents are not read.
///
/// Everything about which programs disagree is an error, not a guess: two sizes for one member, an extension that
/// belongs to no member, sparse maps that do not fit. Names and links are given as they are and nothing is ever
/// opened by them.
///
/// # Errors
/// [`Error::Malformed`] with a [`TarProblem`]; [`Error::Unsupported`] (`tar.multi-volume`, `tar.sparse.version`);
/// [`Error::Refused`] (`tar.members`, `tar.name-length`, `tar.extension-length`, or by the budget); [`Error::Io`].
pub fn list(source: &Arc<dyn ByteSource>, budget: &Budget) -> Result<Archive> {
    let mut walk = Walk::new(source, budget);
    let ending = walk.run()?;
    let Walk { at: end, members, .. } = walk;
    let hidden = match ending {
        Ending::Marked => first_non_zero(source.as_ref(), end)?,
        Ending::Unmarked => None,
    };
    Ok(Archive { members, end, ending, hidden })
}

/// Reads the block at `at`.
pub(super) fn read_block(source: &dyn ByteSource, at: FileOffset, budget: &Budget) -> Result<Block> {
    budget.charge(Cost::MetadataBytes, BLOCK_LEN)?;
    budget.check_time()?;
    inside(source, at, BLOCK_LEN)?;
    let mut block = [0; BLOCK];
    source.read_bytes(at, &mut block)?;
    Ok(block)
}

/// Confirms that `len` bytes from `at` are in the archive.
fn inside(source: &dyn ByteSource, at: FileOffset, len: u64) -> Result<()> {
    let end = at.get().saturating_add(len);
    match end.checked_sub(source.byte_len()) {
        None | Some(0) => Ok(()),
        Some(missing) => Err(Error::malformed("tar archive", at, TarProblem::Truncated { missing })),
    }
}

/// The first byte that is not zero in the MiB from `at`.
fn first_non_zero(source: &dyn ByteSource, at: FileOffset) -> Result<Option<FileOffset>> {
    let len = source.byte_len().saturating_sub(at.get()).min(1 << 20);
    let mut bytes = vec![0; usize::try_from(len).unwrap_or(0)];
    source.read_bytes(at, &mut bytes)?;
    let found = bytes.iter().position(|byte| *byte != 0).and_then(|found| u64::try_from(found).ok());
    Ok(found.map(|found| at.saturating_add(found)))
}

/// Extension headers that wait for their member.
#[derive(Default)]
struct Pending {
    pax: Option<Pax>,
    long_name: Option<Vec<u8>>,
    long_link: Option<Vec<u8>>,
    /// The last of them: its type and place.
    last: Option<(u8, FileOffset)>,
}

/// A walk over an archive.
pub(crate) struct Walk<'a> {
    source: &'a Arc<dyn ByteSource>,
    budget: &'a Budget,
    at: FileOffset,
    /// Those that were met.
    pub(crate) members: Vec<Member>,
}

impl<'a> Walk<'a> {
    /// At the beginning.
    pub(crate) fn new(source: &'a Arc<dyn ByteSource>, budget: &'a Budget) -> Self {
        Self { source, budget, at: FileOffset::ZERO, members: Vec::new() }
    }

    fn run(&mut self) -> Result<Ending> {
        loop {
            if let Some(ending) = self.step()? {
                return Ok(ending);
            }
        }
    }

    /// Goes on to the next member, which is then the last of `members`, or to the end.
    pub(crate) fn step(&mut self) -> Result<Option<Ending>> {
        let mut pending = Pending::default();
        loop {
            let left = self.source.byte_len().saturating_sub(self.at.get());
            let block =
                if left == 0 { None } else { Some(read_block(self.source.as_ref(), self.at, self.budget)?) };
            let block = match block {
                Some(block) if !is_zero(&block) => block,
                end => {
                    if let Some((kind, at)) = pending.last {
                        return Err(dangling(kind, at));
                    }
                    return Ok(Some(if end.is_some() { Ending::Marked } else { Ending::Unmarked }));
                }
            };
            let header = Header::parse(&block, self.at)?;
            if !self.extension(&header, &mut pending)? {
                self.member(header, &block, std::mem::take(&mut pending))?;
                return Ok(None);
            }
        }
    }

    /// Takes an extension header in; answers whether it was one.
    fn extension(&mut self, header: &Header, pending: &mut Pending) -> Result<bool> {
        let here = self.at;
        let twice = |what| Err(Error::malformed("tar header", here, TarProblem::Twice { what }));
        match header.kind {
            b'x' | b'X' => {
                if pending.pax.is_some() {
                    return twice("pax properties");
                }
                let (at, payload) = self.payload(header)?;
                pending.pax = Some(Pax::parse(&payload, at)?);
            }
            b'L' | b'K' => {
                let (at, payload) = self.payload(header)?;
                let text = payload.split(|byte| *byte == 0).next().unwrap_or_default();
                if text.is_empty() {
                    return Err(Error::malformed("long name", at, TarProblem::Name("is empty")));
                }
                let (slot, what) = match header.kind {
                    b'L' => (&mut pending.long_name, "name"),
                    _ => (&mut pending.long_link, "link"),
                };
                if slot.is_some() {
                    return twice(what);
                }
                *slot = Some(text.to_vec());
            }
            b'g' => {
                // Between an extension and its member it is skipped by some readers and ends it for others.
                if let Some((kind, at)) = pending.last {
                    return Err(dangling(kind, at));
                }
                let (at, payload) = self.payload(header)?;
                check_global(&payload, at)?;
                return Ok(true);
            }
            b'M' | b'N' => {
                return Err(Error::Unsupported {
                    code: "tar.multi-volume",
                    feature: format!("a tar archive of several volumes (byte {here})"),
                    hint: "join the volumes by unpacking them with GNU tar, then pack the files again",
                });
            }
            _ => return Ok(false),
        }
        pending.last = Some((header.kind, here));
        Ok(true)
    }

    /// The content of an extension header and its place; goes on to the next header.
    fn payload(&mut self, header: &Header) -> Result<(FileOffset, Vec<u8>)> {
        if header.size > MAX_EXTENSION_LEN {
            return Err(Error::Refused {
                code: "tar.extension-length",
                what: format!("bytes of the extension header at byte {}", self.at),
                asked: header.size,
                allowed: MAX_EXTENSION_LEN,
                hint: "no name or property is that long; the archive was made to harm",
            });
        }
        let at = self.at.saturating_add(BLOCK_LEN);
        inside(self.source.as_ref(), at, header.size)?;
        self.budget.charge(Cost::MetadataBytes, header.size)?;
        let mut payload = vec![0; usize::try_from(header.size).unwrap_or(0)];
        self.source.read_bytes(at, &mut payload)?;
        self.skip(at, header.size);
        Ok((at, payload))
    }

    /// Goes behind content of `len` bytes at `at`, and what fills its last block; to the end of the file when that
    /// is missing.
    fn skip(&mut self, at: FileOffset, len: u64) {
        let end = at.get().saturating_add(len).checked_next_multiple_of(BLOCK_LEN).unwrap_or(u64::MAX);
        self.at = FileOffset::new(end.min(self.source.byte_len()));
    }

    fn member(&mut self, header: Header, block: &Block, pending: Pending) -> Result<()> {
        let here = self.at;
        let wrong = |problem| Error::malformed("tar header", here, problem);
        let twice = |what| wrong(TarProblem::Twice { what });
        let mut kind = kind_of(&header);
        let pax = pending.pax.unwrap_or_default();
        let size = pax.size.map_or(Ok(header.size), |size| one_size(header.size, size).map_err(wrong))?;
        if !matches!(kind, MemberKind::File | MemberKind::Other(_)) && size > 0 {
            return Err(wrong(TarProblem::SizeOfNoFile { kind: char::from(header.kind), size }));
        }
        let sparse_name = pax.sparse.as_ref().and_then(|sparse| sparse.name.clone());
        let raw_name = match (pending.long_name, sparse_name, pax.path) {
            (Some(_), Some(_), _) | (Some(_), _, Some(_)) => return Err(twice("name")),
            (Some(name), None, None) | (None, Some(name), _) | (None, None, Some(name)) => name,
            (None, None, None) => header.name,
        };
        if raw_name.is_empty() {
            return Err(wrong(TarProblem::Name("is empty")));
        }
        // Before POSIX a directory was a file whose name ends with a slash; readers skip its content or do not.
        if kind == MemberKind::File && raw_name.ends_with(b"/") {
            if size > 0 {
                return Err(wrong(TarProblem::SizeOfNoFile { kind: '/', size }));
            }
            kind = MemberKind::Directory;
        }
        let raw_link = match (pending.long_link, pax.link) {
            (Some(_), Some(_)) => return Err(twice("link")),
            (Some(link), None) | (None, Some(link)) => link,
            (None, None) => header.link,
        };
        for text in [&raw_name, &raw_link] {
            if text.len() > MAX_NAME_LEN {
                return Err(Error::Refused {
                    code: "tar.name-length",
                    what: format!("bytes in the name of the member at byte {here}"),
                    asked: u64::try_from(text.len()).unwrap_or(u64::MAX),
                    allowed: u64::try_from(MAX_NAME_LEN).unwrap_or(u64::MAX),
                    hint: "no file system has such names; the archive was made to harm",
                });
            }
        }
        let after_header = here.saturating_add(BLOCK_LEN);
        let old_sparse = header.kind == SPARSE;
        if old_sparse && header.magic != Magic::Gnu {
            let what = "is in a header without GNU magic";
            return Err(wrong(TarProblem::Sparse { entry: 0, what }));
        }
        let (data_at, sparse) = match (old_sparse, &pax.sparse) {
            (true, Some(_)) => return Err(twice("sparse map")),
            (true, None) => {
                let (map, at) = sparse::old_gnu(self.source.as_ref(), block, here, size, self.budget)?;
                (at, Some(map))
            }
            (_, Some(said)) if kind == MemberKind::File => {
                inside(self.source.as_ref(), after_header, size)?;
                let (map, at) =
                    sparse::pax(self.source.as_ref(), said, here, after_header, size, self.budget)?;
                (at, Some(map))
            }
            (_, Some(_)) => {
                return Err(wrong(TarProblem::SizeOfNoFile { kind: char::from(header.kind), size }));
            }
            (_, None) => (after_header, None),
        };
        // The map of version 1.0 is a part of the content.
        let before = if old_sparse { 0 } else { data_at.bytes_since(after_header).unwrap_or(0) };
        let stored_len = size.saturating_sub(before);
        inside(self.source.as_ref(), data_at, stored_len)?;
        self.push(kind, raw_name, raw_link, data_at, stored_len, sparse)?;
        self.skip(data_at, stored_len);
        Ok(())
    }

    fn push(
        &mut self,
        kind: MemberKind,
        raw_name: Vec<u8>,
        raw_link: Vec<u8>,
        data_at: FileOffset,
        stored_len: u64,
        sparse: Option<SparseMap>,
    ) -> Result<()> {
        if self.members.len() >= MAX_MEMBERS {
            return Err(Error::Refused {
                code: "tar.members",
                what: format!("members of the archive (the next one is at byte {})", self.at),
                asked: u64::try_from(MAX_MEMBERS).unwrap_or(u64::MAX).saturating_add(1),
                allowed: u64::try_from(MAX_MEMBERS).unwrap_or(u64::MAX),
                hint: "an archive of disk images has a handful; unpack this one and name the image in it",
            });
        }
        let held = raw_name.len().saturating_add(raw_link.len()).saturating_mul(2).saturating_add(200);
        self.budget.charge(Cost::Nodes, 1)?;
        self.budget.charge(Cost::Memory, u64::try_from(held).unwrap_or(u64::MAX))?;
        let label = format!("{} in {}", String::from_utf8_lossy(&raw_name), self.source.label());
        self.members.push(Member {
            kind,
            raw_name,
            raw_link,
            header_at: self.at,
            data_at,
            stored_len,
            sparse: sparse.map(Arc::new),
            archive: Arc::clone(self.source),
            label: label.into(),
        });
        Ok(())
    }
}

fn dangling(kind: u8, at: FileOffset) -> Error {
    Error::malformed("tar archive", at, TarProblem::Dangling { kind: char::from(kind) })
}

fn kind_of(header: &Header) -> MemberKind {
    match header.kind {
        b'0' | b'7' | SPARSE => MemberKind::File,
        b'1' => MemberKind::HardLink,
        b'2' => MemberKind::SymbolicLink,
        b'3' | b'4' | b'6' => MemberKind::Device,
        b'5' => MemberKind::Directory,
        b'V' if header.magic == Magic::Gnu => MemberKind::Label,
        other => MemberKind::Other(other),
    }
}

/// The size of a member for which header and pax record give one each. They must agree, but for sizes that the
/// header's eleven octal digits cannot hold.
fn one_size(header: u64, pax: u64) -> std::result::Result<u64, TarProblem> {
    const LARGEST_OCTAL: u64 = 0o77_777_777_777;
    if header == pax || (pax > LARGEST_OCTAL && (header == 0 || header == LARGEST_OCTAL)) {
        return Ok(pax);
    }
    Err(TarProblem::SizesDiffer { header, pax })
}

/// The names of the first members, as far as they can be told from the first bytes of an archive alone.
pub(crate) fn first_names(head: &[u8]) -> Vec<String> {
    let mut names = Vec::new();
    let mut rest = head;
    while let Some(block) = rest.first_chunk::<BLOCK>() {
        let Ok(header) = Header::parse(block, FileOffset::ZERO) else { break };
        if header.magic == Magic::None {
            break;
        }
        names.push(String::from_utf8_lossy(&header.name).into_owned());
        let skip = header.size.checked_next_multiple_of(BLOCK_LEN).and_then(|len| len.checked_add(BLOCK_LEN));
        let skip = skip.and_then(|skip| usize::try_from(skip).ok());
        rest = skip.and_then(|skip| rest.get(skip..)).unwrap_or_default();
    }
    names
}
