//! The answer of `verify`.

use kiln_catalog::ImageId;
use kiln_disk::GuestRange;
use kiln_disk::digest::{ContentDigest, Digest};
use kiln_format::partitions::Layout;
use serde::Serialize;

use super::super::key::SignatureLine;
use super::expect::Verdict;
use crate::error::Result;
use crate::judge::Judgement;
use crate::output::{FindingRecord, Printer, RangeRecord, ShortSize, Size};

/// How many ranges text shows; JSON has all.
const RANGES_SHOWN: usize = 64;

/// Everything that was found out.
pub(super) struct Report {
    /// The file as named, or the image as it is called.
    pub(super) path: String,
    pub(super) image: Option<ImageId>,
    /// The file's length, or that of the image's layers together.
    pub(super) file_bytes: u64,
    pub(super) disk_bytes: Option<u64>,
    pub(super) judgement: Judgement,
    /// None when the disk cannot be read, or is not the one that it should be.
    pub(super) content: Option<ContentDigest>,
    pub(super) raw: Option<Digest>,
    pub(super) data_bytes: Option<u64>,
    pub(super) transport: Vec<Digest>,
    pub(super) verdicts: Vec<Verdict>,
    /// Blocks that differ from a list of block digests.
    pub(super) damaged: Vec<RangeRecord>,
    /// Parts that cannot be read, when all of the disk was tried.
    pub(super) unreadable: Option<Vec<GuestRange>>,
    pub(super) against: Option<Against>,
    pub(super) signatures: Vec<SignatureLine>,
    /// Whether one of them must be by a trusted key.
    pub(super) require_signature: bool,
}

/// The comparison with another disk.
pub(super) struct Against {
    pub(super) path: String,
    pub(super) format: &'static str,
    pub(super) disk_bytes: u64,
    pub(super) content: ContentDigest,
    pub(super) same: bool,
    pub(super) differing: Vec<RangeRecord>,
}

#[derive(Serialize)]
struct Record<'a> {
    schema: &'static str,
    path: &'a str,
    image: Option<String>,
    intact: bool,
    format: Option<&'static str>,
    disk_bytes: Option<u64>,
    file_bytes: u64,
    /// Bytes in 64 KiB blocks that are not all zeros.
    data_bytes: Option<u64>,
    content_digest: Option<ContentDigest>,
    raw_digest: Option<&'a Digest>,
    file_digests: &'a [Digest],
    comparisons: Vec<VerdictRecord<'a>>,
    findings: &'a [FindingRecord],
    damaged: &'a [RangeRecord],
    /// Whether everything was read and decoded.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    deep: bool,
    /// Of a deep look: the disk's partitions, and what of the disk cannot be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    layout: Option<&'a Layout>,
    #[serde(skip_serializing_if = "Option::is_none")]
    unreadable: Option<Vec<RangeRecord>>,
    against: Option<AgainstRecord<'a>>,
    /// Signatures of the image's record.
    signatures: &'a [SignatureLine],
}

#[derive(Serialize)]
struct VerdictRecord<'a> {
    digest: &'static str,
    given_by: &'a str,
    expected: &'a str,
    found: Option<&'a str>,
    matches: bool,
}

#[derive(Serialize)]
struct AgainstRecord<'a> {
    path: &'a str,
    format: &'static str,
    disk_bytes: u64,
    content_digest: ContentDigest,
    same: bool,
    differing: &'a [RangeRecord],
}

impl Report {
    /// The answer.
    pub(super) fn intact(&self) -> bool {
        self.content.is_some()
            && !self.judgement.fails()
            && self.damaged.is_empty()
            && self.verdicts.iter().all(Verdict::matches)
            && self.against.as_ref().is_none_or(|against| against.same)
            && !self.lacks_signature()
    }

    /// Whether a signature is required and there is none by a trusted key.
    fn lacks_signature(&self) -> bool {
        self.require_signature && !self.signatures.iter().any(|signature| signature.trusted)
    }

    pub(super) fn print(&self, out: &mut Printer) -> Result<()> {
        out.json(&self.record())?;
        out.field(if self.image.is_some() { "name" } else { "file" }, &self.path);
        match (&self.image, &self.judgement.facts) {
            (Some(id), _) => out.field("image", id),
            (None, Some(facts)) => out.field("format", format!("{}, {}", facts.format, facts.variant)),
            (None, None) => out.field("format", "none that Kiln reads as it stands"),
        }
        if let Some(bytes) = self.disk_bytes {
            out.field("disk size", Size(bytes));
        }
        if let Some(content) = self.content {
            out.data_field("content", content);
        }
        if let Some(raw) = &self.raw {
            out.data_field("raw", raw);
        }
        for digest in &self.transport {
            out.data_field("file digest", digest);
        }
        for verdict in &self.verdicts {
            if verdict.matches() {
                out.field("matches", format!("{} digest of {}", verdict.what, verdict.given_by));
            } else {
                out.field("DIFFERS", format!("{} digest of {}", verdict.what, verdict.given_by));
                out.field("", format!("expected {}", verdict.expected));
                out.field(
                    "",
                    format!("found    {}", verdict.found.as_deref().unwrap_or("none: it cannot be read")),
                );
            }
        }
        for signature in &self.signatures {
            out.field("signed by", signature.words());
        }
        if self.signatures.is_empty() && self.require_signature {
            out.field("signed by", "nobody");
        }
        if let (Some(_), Some(layout)) = (&self.unreadable, self.layout()) {
            out.field("partitions", layout.scheme.words());
            for partition in &layout.partitions {
                let size = ShortSize(partition.length_bytes);
                out.field("", format!("{partition}, {size} from byte {}", partition.start_bytes));
            }
        }
        for line in self.judgement.lines() {
            out.line(&line);
        }
        if let Some(lost) = self.unreadable.as_ref().filter(|lost| !lost.is_empty()) {
            let bytes = lost.iter().map(|range| range.len).fold(0, u64::saturating_add);
            out.field("LOST", format!("{} in {} places cannot be read", Size(bytes), lost.len()));
        }
        print_ranges(out, "DAMAGED", &self.damaged);
        if let Some(against) = &self.against {
            self.print_against(against, out);
        }
        out.field("answer", self.answer());
        Ok(())
    }

    fn layout(&self) -> Option<&Layout> {
        self.judgement.layout.as_ref()
    }

    fn print_against(&self, against: &Against, out: &mut Printer) {
        out.field("against", format!("{} ({})", against.path, against.format));
        if against.same {
            out.field("", format!("same disk, {}", against.content));
            return;
        }
        out.field("", format!("content {}", against.content));
        if let Some(here) = self.disk_bytes.filter(|here| *here != against.disk_bytes) {
            out.field("DIFFERS", format!("disk size: {here} bytes here, {} there", against.disk_bytes));
        }
        print_ranges(out, "DIFFERS", &against.differing);
    }

    fn answer(&self) -> &'static str {
        let differs = self.against.as_ref().is_some_and(|against| !against.same);
        match (self.intact(), self.content) {
            (true, _) if self.against.is_some() => "intact, and the same disk",
            (true, _) if self.verdicts.is_empty() && self.unreadable.is_some() => {
                "intact: all of it was read and decoded"
            }
            (true, _) if self.verdicts.is_empty() => "intact: the structure is sound",
            (true, _) => "intact: the structure is sound and the digests match",
            (false, Some(_)) if self.lacks_signature() => "NOT signed by a trusted key",
            (false, None) => "NOT intact: see the findings above",
            (false, Some(_)) if !self.damaged.is_empty() => "NOT intact: the blocks above differ",
            (false, Some(_)) if differs => "NOT the same disk",
            (false, Some(_)) if self.judgement.fails() => "NOT intact: see the findings above",
            (false, Some(_)) => "NOT intact: it is not what was expected",
        }
    }

    fn record(&self) -> Record<'_> {
        Record {
            schema: "kiln.verify.v1",
            path: &self.path,
            image: self.image.as_ref().map(ToString::to_string),
            intact: self.intact(),
            format: self.judgement.format.map(|format| format.id),
            disk_bytes: self.disk_bytes,
            file_bytes: self.file_bytes,
            data_bytes: self.data_bytes,
            content_digest: self.content,
            raw_digest: self.raw.as_ref(),
            file_digests: &self.transport,
            comparisons: self
                .verdicts
                .iter()
                .map(|verdict| VerdictRecord {
                    digest: verdict.what,
                    given_by: &verdict.given_by,
                    expected: &verdict.expected,
                    found: verdict.found.as_deref(),
                    matches: verdict.matches(),
                })
                .collect(),
            findings: &self.judgement.findings,
            damaged: &self.damaged,
            deep: self.unreadable.is_some(),
            layout: self.layout().filter(|_| self.unreadable.is_some()),
            unreadable: self.unreadable.as_ref().map(|ranges| {
                ranges.iter().map(|range| RangeRecord::placed(*range, self.layout())).collect()
            }),
            against: self.against.as_ref().map(|against| AgainstRecord {
                path: &against.path,
                format: against.format,
                disk_bytes: against.disk_bytes,
                content_digest: against.content,
                same: against.same,
                differing: &against.differing,
            }),
            signatures: &self.signatures,
        }
    }
}

pub(crate) fn print_ranges(out: &mut Printer, word: &str, ranges: &[RangeRecord]) {
    for range in ranges.iter().take(RANGES_SHOWN) {
        let mut line = format!(
            "disk bytes {} to {} ({}, from {:#x})",
            range.start_bytes,
            range.start_bytes.saturating_add(range.length_bytes),
            ShortSize(range.length_bytes),
            range.start_bytes
        );
        if let Some(at) = range.offset_bytes {
            line += &format!(", file byte {at}");
        }
        if let Some(partition) = &range.partition {
            line += &format!(", {partition}");
        }
        out.field(word, line);
    }
    if let Some(rest) = ranges.len().checked_sub(RANGES_SHOWN).filter(|rest| *rest > 0) {
        out.field("", format!("and {rest} more ranges; --json lists all"));
    }
}
