//! What a file is, by its content alone.

use std::sync::Arc;

use kiln_disk::{ByteSource, CheckSpec, Error, FileOffset, Finding, Findings, Observer, Result, Severity};

use crate::completeness;
use crate::facts::Facts;
use crate::foreign::{FOREIGN, Foreign};
use crate::image::{CheckScope, Image, OpenContext, Tolerance};
use crate::partitions::{Layout, primaries};
use crate::raw;
use crate::sectors::{PADDED, in_whole_sectors};
use crate::table::{Evidence, FORMATS, Format, ProbeInput};
use crate::wire::{bytes, le16};

/// What the content of a file says that it is.
#[derive(Debug)]
pub enum Identity {
    /// A container of a known format.
    Container {
        /// Its row.
        format: &'static Format,
        /// Why.
        evidence: Evidence,
    },
    /// No container's signature: the bytes of a disk themselves, as far as anyone can tell.
    Raw {
        /// What of a disk was seen.
        evidence: &'static str,
    },
    /// Something else that is known by sight.
    Foreign(&'static Foreign),
    /// Several things at once: two readers would disagree about it.
    Polyglot(Vec<&'static str>),
}

/// How a caller wants a file to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Choice {
    /// As its content says.
    #[default]
    Detect,
    /// As this format, which its content must confirm.
    Declared(&'static Format),
    /// As the bytes of a disk, whatever it looks like.
    AsRaw,
}

/// Looks at the first and last bytes of a file. Reads at most 69 KiB, follows nothing.
///
/// # Errors
/// [`Error::Io`].
pub fn identify(source: &dyn ByteSource) -> Result<Identity> {
    let file_len = source.byte_len();
    let cut = |len: usize| usize::try_from(file_len).unwrap_or(usize::MAX).min(len);
    let mut head = vec![0; cut(ProbeInput::HEAD_LEN)];
    let mut tail = vec![0; cut(ProbeInput::TAIL_LEN)];
    source.read_bytes(FileOffset::ZERO, &mut head)?;
    let tail_at = file_len.saturating_sub(u64::try_from(tail.len()).unwrap_or(0));
    source.read_bytes(FileOffset::new(tail_at), &mut tail)?;
    Ok(judge(&ProbeInput { head: &head, tail: &tail, file_len }))
}

/// Whether a file is a wrapper ([`crate::wrap`]) and nothing else.
///
/// # Errors
/// [`Error::Io`].
pub fn is_wrapped(source: &dyn ByteSource) -> Result<bool> {
    Ok(match identify(source)? {
        Identity::Foreign(foreign) => crate::wrap::by_id(foreign.id).is_some(),
        _ => false,
    })
}

/// The pure part of [`identify`].
#[must_use]
pub fn judge(input: &ProbeInput<'_>) -> Identity {
    let mut containers: Vec<_> =
        FORMATS.iter().filter_map(|format| Some((*format, (format.probe)(input)?))).collect();
    let mut foreign: Vec<_> = FOREIGN.iter().filter(|foreign| (foreign.matches)(input)).collect();
    let disk = disk_evidence(input.head);
    // A container whose own header is not at byte 0 (a fixed VHD) begins with the guest's bytes; those may look
    // like a disk or a volume. A header at byte 0 leaves no room for a partition table.
    let own_header = containers.iter().any(|(_, evidence)| evidence.at_start);
    if !containers.is_empty() && !own_header {
        foreign.retain(|foreign| !foreign.may_be_content);
    }
    let mut names: Vec<&'static str> = containers.iter().map(|(format, _)| format.id).collect();
    names.extend(foreign.iter().map(|foreign| foreign.id));
    if let Some(table) = disk.filter(|table| own_header && table.is_table) {
        names.push(table.name);
    }
    match (names.len(), containers.pop(), foreign.pop()) {
        (0, ..) => Identity::Raw { evidence: disk.map_or("no known structure", |disk| disk.name) },
        (1, Some((format, evidence)), _) => Identity::Container { format, evidence },
        (1, None, Some(foreign)) => Identity::Foreign(foreign),
        _ => Identity::Polyglot(names),
    }
}

/// Something of a disk at its first bytes.
#[derive(Debug, Clone, Copy)]
struct DiskEvidence {
    name: &'static str,
    /// A partition table, which nothing but a disk has.
    is_table: bool,
}

fn disk_evidence(head: &[u8]) -> Option<DiskEvidence> {
    let table = |name| DiskEvidence { name, is_table: true };
    let volume = |name| DiskEvidence { name, is_table: false };
    if bytes(head, 512) == Some(*b"EFI PART") || bytes(head, 4096) == Some(*b"EFI PART") {
        return Some(table("a GUID partition table"));
    }
    if primaries(head).is_some_and(|partitions| !partitions.is_empty()) {
        return Some(table("an MBR partition table"));
    }
    if le16(head, 1080) == Some(0xef53) {
        return Some(volume("an ext file system"));
    }
    if head.starts_with(b"XFSB") {
        return Some(volume("an XFS file system"));
    }
    if bytes(head, 65_600) == Some(*b"_BHRfS_M") {
        return Some(volume("a btrfs file system"));
    }
    if bytes(head, 3) == Some(*b"NTFS    ") {
        return Some(volume("an NTFS file system"));
    }
    if bytes(head, 512) == Some(*b"LABELONE") {
        return Some(volume("an LVM2 physical volume"));
    }
    if le16(head, 510) == Some(0xaa55) {
        return Some(volume("a boot sector"));
    }
    None
}

/// Decides which format a file is to be read as.
///
/// # Errors
/// [`Error::Unsupported`] (`format.foreign`) for what is no disk image as it stands, [`Error::Refused`]
/// (`format.polyglot`, `format.mismatch`), [`Error::Io`].
pub fn select(source: &dyn ByteSource, choice: Choice) -> Result<&'static Format> {
    if choice == Choice::AsRaw {
        return Ok(&raw::FORMAT);
    }
    let found = match identify(source)? {
        Identity::Container { format, .. } => format,
        Identity::Raw { .. } => &raw::FORMAT,
        Identity::Foreign(foreign) => {
            return Err(Error::Unsupported {
                code: "format.foreign",
                feature: format!("{} is {}, which", source.label(), foreign.name),
                hint: foreign.advice,
            });
        }
        Identity::Polyglot(names) => {
            return Err(Error::Refused {
                code: "format.polyglot",
                what: format!("{} looks like {} at once", source.label(), names.join(" and ")),
                asked: 0,
                allowed: 0,
                hint: "two programs would read two different disks from it; if you know better, use --as raw",
            });
        }
    };
    match choice {
        Choice::Declared(declared) if declared != found => Err(Error::Refused {
            code: "format.mismatch",
            what: format!("{} was said to be {} and is {}", source.label(), declared.id, found.id),
            asked: 0,
            allowed: 0,
            hint: "leave -f out, or use --as raw to take the bytes as they are",
        }),
        _ => Ok(found),
    }
}

/// Opens a container.
///
/// # Errors
/// As [`select`], and whatever the format says.
pub fn open(source: Arc<dyn ByteSource>, choice: Choice, context: &OpenContext) -> Result<Box<dyn Image>> {
    open_as(select(source.as_ref(), choice)?, source, context)
}

/// Opens a container of a known format. An incomplete last sector is filled up with zeros, which
/// [`Image::remarks`] tells.
///
/// # Errors
/// [`Error::Refused`] (`disk.only-one`) when `context` chooses a disk and the file is one; whatever the format says.
pub fn open_as(
    format: &'static Format,
    source: Arc<dyn ByteSource>,
    context: &OpenContext,
) -> Result<Box<dyn Image>> {
    let image = in_whole_sectors((format.open)(source, context)?);
    match &context.part {
        Some(part) if !image.has_parts() => Err(Error::Refused {
            code: "disk.only-one",
            what: format!("disk {part:?} of a file that is one disk ({})", format.id),
            asked: 0,
            allowed: 0,
            hint: "leave --disk out",
        }),
        _ => Ok(image),
    }
}

/// What checks of any format can find before or beside the format's own.
pub static CHECKS: &[CheckSpec] = &[UNREADABLE, NO_IMAGE, REFERENCE, PADDED];

static UNREADABLE: CheckSpec = CheckSpec {
    id: "format.unreadable",
    severity: Severity::Fatal,
    summary: "the container cannot be opened",
    effect: "nothing of the disk can be read",
    fix: "fetch or export the file again",
};

static NO_IMAGE: CheckSpec = CheckSpec {
    id: "format.no-image",
    severity: Severity::Fatal,
    summary: "this is not a disk image as it stands",
    effect: "a program that takes it for a raw disk makes a disk of garbage",
    fix: "unpack or convert it first",
};

static REFERENCE: CheckSpec = CheckSpec {
    id: "format.reference",
    severity: Severity::Fatal,
    summary: "a part of the disk is in another file",
    effect: "the image is not the disk by itself; a program that follows the name opens whatever is there",
    fix: "if you trust it, say where the other file is with --allow-backing NAME=PATH, and convert the two into one",
};

/// The result of [`check`].
#[derive(Debug)]
pub struct CheckReport {
    /// The format, where the file has one.
    pub format: Option<&'static Format>,
    /// Everything found.
    pub findings: Findings,
    /// What the headers say, when they could be read.
    pub facts: Option<Facts>,
    /// Where the partitions are, when anything was found that may fall into one.
    pub layout: Option<Layout>,
}

/// Checks a file: its format's own table, and whether the disk inside reaches as far as its partition table says.
/// A file that cannot be opened gives a finding, not an error.
///
/// # Errors
/// [`Error::Io`], [`Error::Cancelled`], and refusals other than of the file's kind.
pub fn check(
    source: Arc<dyn ByteSource>,
    choice: Choice,
    context: &OpenContext,
    scope: CheckScope,
    observer: &dyn Observer,
) -> Result<CheckReport> {
    let (mut report, image) = open_checked(source, choice, context, scope, observer)?;
    if let Some(image) = image {
        report.place(image.as_ref())?;
    }
    Ok(report)
}

/// As [`check`], of an image that is open already: one that consists of several files, for instance.
///
/// # Errors
/// [`Error::Io`], [`Error::Cancelled`].
pub fn check_image(image: &dyn Image, scope: CheckScope, observer: &dyn Observer) -> Result<CheckReport> {
    let findings = image.check(scope, observer)?;
    let facts = Some(image.facts());
    let mut report = CheckReport { format: Some(image.format()), findings, facts, layout: None };
    completeness::check(image, &mut report.findings)?;
    report.place(image)?;
    Ok(report)
}

impl CheckReport {
    /// Reads where the partitions are, when a finding may fall into one.
    fn place(&mut self, image: &dyn Image) -> Result<()> {
        if self.findings.list().iter().any(|finding| finding.guest.is_some()) {
            self.layout = Some(Layout::read(image)?);
        }
        Ok(())
    }
}

/// As [`check`], and the image, where it could be opened.
pub(crate) fn open_checked(
    source: Arc<dyn ByteSource>,
    choice: Choice,
    context: &OpenContext,
    scope: CheckScope,
    observer: &dyn Observer,
) -> Result<(CheckReport, Option<Box<dyn Image>>)> {
    let mut report = CheckReport { format: None, findings: Findings::default(), facts: None, layout: None };
    let format = match select(source.as_ref(), choice) {
        Ok(format) => format,
        Err(error) if matches!(error.code(), "format.foreign" | "format.polyglot") => {
            report.findings.push(finding_of(&NO_IMAGE, &error).at(FileOffset::ZERO));
            return Ok((report, None));
        }
        Err(error) => return Err(error),
    };
    report.format = Some(format);
    let context = OpenContext { tolerance: Tolerance::Damaged, ..context.clone() };
    let image = match (format.open)(source, &context) {
        Ok(image) => in_whole_sectors(image),
        Err(error @ (Error::Malformed { .. } | Error::Unsupported { .. })) => {
            report.findings.push(finding_of(&UNREADABLE, &error));
            return Ok((report, None));
        }
        Err(error) => return Err(error),
    };
    report.facts = Some(image.facts());
    references(report.facts.as_ref(), &context, &mut report.findings);
    report.findings.extend(image.check(scope, observer)?);
    completeness::check(image.as_ref(), &mut report.findings)?;
    Ok((report, Some(image)))
}

/// Finds references that lead nowhere. A parent disk may have several names, of which one is enough.
fn references(facts: Option<&Facts>, context: &OpenContext, findings: &mut Findings) {
    let all = facts.map_or(&[][..], |facts| &facts.references);
    let found = |role| {
        all.iter().filter(|other| other.role == role).any(|other| context.resolver.resolve(other).is_ok())
    };
    for (index, reference) in all.iter().enumerate() {
        let is_first = all.iter().take(index).all(|before| before.role != reference.role);
        if is_first && !found(reference.role) {
            let detail = format!("{} {:?}", reference.role.words(), reference.name);
            findings.push(REFERENCE.found(detail).at(reference.at));
        }
    }
}

/// An error as a finding: the whole chain in the detail, its offset as the place.
fn finding_of(check: &'static CheckSpec, error: &Error) -> Finding {
    let (detail, at) = explained(error);
    let finding = check.found(detail);
    match at {
        Some(at) => finding.at(at),
        None => finding,
    }
}

/// The whole chain of an error with its hint, and its place.
pub(crate) fn explained(error: &Error) -> (String, Option<FileOffset>) {
    let mut detail = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        detail.push_str(": ");
        detail.push_str(&error.to_string());
        cause = error.source();
    }
    if let Some(hint) = error.hint() {
        detail.push_str("; ");
        detail.push_str(hint);
    }
    (detail, error.offset())
}
