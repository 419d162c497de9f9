//! An archive as an image: the one disk in it, or the one that was chosen.

use std::num::NonZeroU64;
use std::sync::Arc;

use kiln_disk::{
    ByteSource, CheckSpec, Disk, Error, Extent, FileOffset, Findings, GuestOffset, Observer, Result, Severity,
};

use super::{Archive, Ending, Member, list};
use crate::facts::{Detail, Facts};
use crate::identify::{Identity, identify};
use crate::image::{CheckScope, Image, OpenContext};
use crate::nested::{Nested, moved};
use crate::table::{Evidence, Format, ProbeInput};
use crate::wire::bytes;
use crate::{ova, raw};

/// The row of tar: an archive with a disk in it, as Google's cloud takes and gives them.
pub static FORMAT: Format = Format {
    id: "tar",
    aliases: &[],
    extensions: &["tar"],
    spec: "POSIX.1-2017 pax: ustar and pax interchange formats; GNU tar manual, Basic Tar Format",
    probe,
    open,
    create: None,
    checks: CHECKS,
};

/// Everything that the check of an archive can find.
static CHECKS: &[CheckSpec] = &[NO_END, HIDDEN];

pub(crate) static NO_END: CheckSpec = CheckSpec {
    id: "tar.no-end",
    severity: Severity::Advice,
    summary: "the archive ends without its end mark",
    effect: "members behind the last one may have been cut off; those there are whole",
    fix: "get the archive again and compare its checksum",
};

pub(crate) static HIDDEN: CheckSpec = CheckSpec {
    id: "tar.hidden",
    severity: Severity::Damage,
    summary: "there are bytes behind the end of the archive",
    effect: "programs that read on (tar -i) see other members than those that stop",
    fix: "get the archive again and compare its checksum",
};

/// What is wrong with an archive as such.
pub(crate) fn check_archive(archive: &Archive, findings: &mut Findings) {
    let detail = || format!("the list of members ends at {}", archive.end);
    if archive.ending == Ending::Unmarked {
        findings.push(NO_END.found(detail()).at(archive.end));
    }
    if let Some(at) = archive.hidden {
        findings.push(HIDDEN.found(detail()).at(at));
    }
}

/// POSIX or GNU magic, and no appliance by what can be seen from here.
fn probe(input: &ProbeInput<'_>) -> Option<Evidence> {
    let is_tar = bytes::<5>(input.head, 257) == Some(*b"ustar");
    (is_tar && (ova::FORMAT.probe)(input).is_none())
        .then(|| Evidence { what: "tar archive (magic \"ustar\")".to_owned(), at_start: true })
}

fn open(source: Arc<dyn ByteSource>, context: &OpenContext) -> Result<Box<dyn Image>> {
    let archive = list(&source, &context.budget)?;
    // The descriptor of an appliance may stand behind a disk, out of sight of a look at the head.
    if archive.members.iter().any(ova::is_descriptor) {
        return ova::open_listed(source, archive, context);
    }
    TarImage::open(source, archive, context).map(|image| -> Box<dyn Image> { Box::new(image) })
}

impl TarImage {
    /// Opens the disk in an archive that is no appliance.
    pub(super) fn open(source: Arc<dyn ByteSource>, archive: Archive, context: &OpenContext) -> Result<Self> {
        let member = choose(&archive, source.label(), context.part.as_deref())?;
        let inner = member.source();
        let base = (!member.is_sparse()).then_some(member.data_at);
        let opened = crate::identify::select(inner.as_ref(), crate::Choice::Detect).and_then(|format| {
            if *format == FORMAT || *format == ova::FORMAT || *format == ova::OVF {
                return Err(Error::Unsupported {
                    code: "tar.nested",
                    feature: format!("{:?}, an archive inside another,", member.name()),
                    hint: "unpack the outer one and import the inner one",
                });
            }
            (format.open)(inner, &context.deeper()?)
        });
        let disk = Nested::new(opened.map_err(|error| moved(error, base))?, base);
        let (name, header_at) = (member.name(), member.header_at);
        Ok(Self { source, archive, name, header_at, disk })
    }

    /// Whether the disk is a raw one, in the member with the header at `at`.
    pub(super) fn is_raw_at(&self, at: FileOffset) -> bool {
        self.header_at == at && self.disk.format_id() == raw::FORMAT.id
    }
}

/// The member that is the disk: the one that is asked for by number from 1 or by name, else the only one that can
/// be a disk.
fn choose<'a>(archive: &'a Archive, label: &str, part: Option<&str>) -> Result<&'a Member> {
    let mut disks = Vec::new();
    for member in archive.members.iter().filter(|member| member.is_file()) {
        if may_be_disk(member)? {
            disks.push(member);
        }
    }
    let refused = |code, what: String| {
        let names: Vec<String> = disks
            .iter()
            .take(20)
            .enumerate()
            .map(|(index, member)| {
                format!("{} is {}, {} bytes", index.saturating_add(1), member.name(), member.byte_len())
            })
            .collect();
        Err(Error::Refused {
            code,
            what: format!("{what}: {}", names.join("; ")),
            asked: 0,
            allowed: 0,
            hint: "choose one with --disk N, or with --disk and its name",
        })
    };
    if let Some(part) = part {
        let by_number = part.parse::<usize>().ok().and_then(|number| number.checked_sub(1));
        let mut by_name =
            archive.members.iter().filter(|member| member.is_file() && member.plain_name() == Some(part));
        return match (by_number.and_then(|index| disks.get(index).copied()), by_name.next(), by_name.next()) {
            (Some(member), ..) | (None, Some(member), None) => Ok(member),
            (None, Some(_), Some(_)) => {
                refused("tar.which-disk", format!("two members of {label} have the name {part:?}"))
            }
            (None, None, _) => refused("tar.no-such-disk", format!("{label} has no disk {part:?}")),
        };
    }
    match disks.as_slice() {
        [member] => Ok(member),
        [] => Err(Error::Unsupported {
            code: "tar.no-disk",
            feature: format!("{label}, a tar archive in which no member looks like a disk,"),
            hint: "if one of them is a disk, unpack it and name it with --as raw",
        }),
        all => refused("tar.which-disk", format!("{label} has {} members that may be disks", all.len())),
    }
}

/// Whether a member is a disk by its content, or has the name and the look of a raw one.
fn may_be_disk(member: &Member) -> Result<bool> {
    // Most members need no look at their content.
    let worth_a_look = looks_like_disk(member, &Identity::Raw { evidence: "" });
    Ok(worth_a_look && looks_like_disk(member, &identify(member.source().as_ref())?))
}

/// The same of a member that looks like this.
pub(super) fn looks_like_disk(member: &Member, identity: &Identity) -> bool {
    let Some(name) = member.plain_name() else { return false };
    let base = name.rsplit('/').next().unwrap_or(name).to_ascii_lowercase();
    // What macOS makes of extended attributes.
    if base.starts_with("._") || member.byte_len() < 512 {
        return false;
    }
    match identity {
        Identity::Container { .. } => true,
        Identity::Raw { evidence } => {
            let ending = base.rsplit('.').next().unwrap_or_default();
            *evidence != "no known structure" || raw::FORMAT.extensions.contains(&ending)
        }
        Identity::Foreign(_) | Identity::Polyglot(_) => false,
    }
}

/// The disk in an archive.
pub(super) struct TarImage {
    source: Arc<dyn ByteSource>,
    archive: Archive,
    name: String,
    header_at: FileOffset,
    disk: Nested,
}

impl Disk for TarImage {
    fn disk_len(&self) -> u64 {
        self.disk.disk_len()
    }

    fn read_guest(&self, at: GuestOffset, buf: &mut [u8]) -> Result<()> {
        self.disk.read_guest(at, buf)
    }

    fn extent_at(&self, at: GuestOffset, limit: NonZeroU64) -> Result<Extent> {
        self.disk.extent_at(at, limit)
    }
}

impl Image for TarImage {
    fn format(&self) -> &'static Format {
        &FORMAT
    }

    fn facts(&self) -> Facts {
        let disk = self.disk.facts();
        let members = u64::try_from(self.archive.members.len()).unwrap_or(u64::MAX);
        let mut details = vec![
            Detail::text("member", self.name.as_str()),
            Detail::text("member_format", format!("{}, {}", disk.format, disk.variant)),
            Detail::number("members", members),
        ];
        details.extend(disk.details);
        Facts {
            format: FORMAT.id,
            variant: format!("with {}", disk.format),
            disk_bytes: self.disk_len(),
            file_bytes: self.source.byte_len(),
            details,
            ..disk
        }
    }

    fn check(&self, scope: CheckScope, observer: &dyn Observer) -> Result<Findings> {
        let mut findings = Findings::default();
        check_archive(&self.archive, &mut findings);
        findings.extend(self.disk.check(scope, observer)?);
        Ok(findings)
    }

    fn has_parts(&self) -> bool {
        true
    }
}
