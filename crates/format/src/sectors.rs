//! Disks in whole sectors.
//!
//! A raw file may have any length: a copy that was cut, a newline behind the last byte, a tool that does not fill
//! up. Every program that gives a guest such a file rounds its length up to whole sectors of 512 bytes and lets
//! zeros be read behind the end (QEMU: `block/io.c`, reads past the end of file). Kiln does the same, and says so.

use std::num::NonZeroU64;

use kiln_disk::{
    CheckSpec, Disk, Extent, ExtentKind, FileOffset, Finding, Findings, GuestOffset, Observer, PaddedDisk,
    Result, Severity,
};

use crate::facts::{Detail, Facts};
use crate::image::{CheckScope, Image};
use crate::ova::Appliance;
use crate::table::Format;

/// Bytes of a sector.
const SECTOR: u64 = 512;

/// What an incomplete last sector is found as.
pub(crate) static PADDED: CheckSpec = CheckSpec {
    id: "disk.length.padded",
    severity: Severity::Advice,
    summary: "the last sector is incomplete and is filled up with zeros",
    effect: "the disk is longer than the file; its content digest is that of the filled-up disk",
    fix: "if the file was cut, fetch or copy it again; else fill it up yourself: truncate -s %512 FILE",
};

/// `len` bytes in whole sectors; a length next to 2^64 stays what it is.
#[must_use]
pub fn whole_sectors(len: u64) -> u64 {
    len.checked_next_multiple_of(SECTOR).unwrap_or(len)
}

/// What there is to say about a disk of `len` bytes, whose last byte is in front of `end` in the file.
#[must_use]
pub fn padding(len: u64, end: Option<FileOffset>) -> Option<Finding> {
    let added = whole_sectors(len).checked_sub(len).filter(|added| *added > 0)?;
    let detail = format!("{len} bytes are there, {added} zeros are added to make whole sectors of {SECTOR}");
    let finding = PADDED.found(detail).guest(GuestOffset::new(len), added);
    Some(match end {
        Some(end) => finding.at(end),
        None => finding,
    })
}

/// The same image in whole sectors.
pub(crate) fn in_whole_sectors(image: Box<dyn Image>) -> Box<dyn Image> {
    let len = whole_sectors(image.disk_len());
    if len == image.disk_len() { image } else { Box::new(PaddedImage { image, len }) }
}

/// An image whose last sector is incomplete, filled up.
struct PaddedImage {
    image: Box<dyn Image>,
    len: u64,
}

impl PaddedImage {
    fn disk(&self) -> PaddedDisk<'_> {
        PaddedDisk::new(self.image.as_ref(), self.len)
    }

    /// Where the byte behind the last one would be in the file.
    fn end(&self) -> Option<FileOffset> {
        let last = self.image.disk_len().checked_sub(1)?;
        match self.image.extent_at(GuestOffset::new(last), NonZeroU64::MIN).ok()?.kind {
            ExtentKind::Data { file: 0, at } => at.checked_add(1),
            _ => None,
        }
    }
}

impl Disk for PaddedImage {
    fn disk_len(&self) -> u64 {
        self.len
    }

    fn read_guest(&self, at: GuestOffset, buf: &mut [u8]) -> Result<()> {
        self.disk().read_guest(at, buf)
    }

    fn extent_at(&self, at: GuestOffset, limit: NonZeroU64) -> Result<Extent> {
        self.disk().extent_at(at, limit)
    }
}

impl Image for PaddedImage {
    fn format(&self) -> &'static Format {
        self.image.format()
    }

    fn facts(&self) -> Facts {
        let mut facts = self.image.facts();
        let added = self.len.saturating_sub(facts.disk_bytes);
        facts.disk_bytes = self.len;
        facts.details.push(Detail::number("padding_bytes", added));
        facts
    }

    fn check(&self, scope: CheckScope, observer: &dyn Observer) -> Result<Findings> {
        let mut findings = self.image.check(scope, observer)?;
        findings.extend(self.remarks());
        Ok(findings)
    }

    fn has_parts(&self) -> bool {
        self.image.has_parts()
    }

    fn appliance(&self) -> Option<&Appliance> {
        self.image.appliance()
    }

    fn remarks(&self) -> Findings {
        let mut findings = self.image.remarks();
        if let Some(finding) = padding(self.image.disk_len(), self.end()) {
            findings.push(finding);
        }
        findings
    }
}
