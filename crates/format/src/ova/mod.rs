//! Virtual appliances: an OVF descriptor with its disks, in one tar archive (OVA) or side by side.
//!
//! Specification: DSP0243 (Open Virtualization Format) 1.0 to 2.1. The archive is read in place; a disk is a part
//! of its file. Names in the descriptor only ever lead to other members, or to what the resolver allows.

mod appliance;
mod check;
mod descriptor;
mod files;
mod hardware;
mod image;
mod manifest;
pub(crate) mod passing;
mod problem;
mod specs;
mod units;
mod write;
mod xml;

use std::sync::Arc;

use kiln_disk::{ByteSource, Result};

use self::image::ApplianceImage;
use crate::image::{Image, OpenContext};
use crate::table::{Create, Evidence, Format, ProbeInput};
use crate::tar;

pub use appliance::Appliance;
pub use descriptor::{Descriptor, DiskEntry, FileRef, System};
pub use hardware::{Controller, Drive, DriveKind, Firmware, Hardware, Network};
pub use manifest::{Manifest, ManifestLine};
pub use problem::OvaProblem;

/// The row of OVA.
pub static FORMAT: Format = Format {
    id: "ova",
    aliases: &[],
    extensions: &["ova"],
    spec: "DSP0243, Open Virtualization Format 1.0 to 2.1, in a POSIX.1-2017 ustar archive",
    probe: probe_archive,
    open: open_archive,
    create: Some(Create {
        options: write::OPTIONS,
        run: write::create,
        // Its first member says how long its last one is.
        streams: |_| false,
    }),
    checks: specs::ALL,
};

/// The row of an OVF descriptor with its files beside it.
pub static OVF: Format = Format {
    id: "ovf",
    aliases: &[],
    extensions: &["ovf"],
    spec: "DSP0243, Open Virtualization Format 1.0 to 2.1",
    probe: probe_descriptor,
    open: open_descriptor,
    create: None,
    checks: specs::ALL,
};

/// A tar archive among whose first members is a descriptor.
fn probe_archive(input: &ProbeInput<'_>) -> Option<Evidence> {
    let names = tar::first_names(input.head);
    let name = names.iter().find(|name| appliance::ends_with(name, ".ovf"))?;
    Some(Evidence { what: format!("tar archive with {name:?}"), at_start: true })
}

/// XML whose root is an envelope.
fn probe_descriptor(input: &ProbeInput<'_>) -> Option<Evidence> {
    let head = input.head.strip_prefix(b"\xef\xbb\xbf").unwrap_or(input.head);
    let start = head.iter().position(|byte| !byte.is_ascii_whitespace())?;
    let head = head.get(start..)?;
    if !head.starts_with(b"<") {
        return None;
    }
    let text = String::from_utf8_lossy(head);
    let root = text.find("Envelope").filter(|at| {
        let before = text.get(..*at).unwrap_or_default();
        let word = before.rfind('<').and_then(|tag| before.get(tag..)).unwrap_or_default();
        word == "<" || (word.ends_with(':') && !word.contains(char::is_whitespace))
    })?;
    let behind = text.get(root..).unwrap_or_default();
    let tag = behind.get(..behind.find('>')?).unwrap_or_default();
    let declares = tag.contains("/ovf/") || tag.contains("xmlns");
    declares.then(|| Evidence { what: "XML with an OVF envelope".to_owned(), at_start: true })
}

fn open_archive(source: Arc<dyn ByteSource>, context: &OpenContext) -> Result<Box<dyn Image>> {
    let appliance = Appliance::open_archive(&source, context)?;
    ApplianceImage::open(&FORMAT, source, appliance, context)
}

/// Whether a member of an archive makes it an appliance.
pub(crate) fn is_descriptor(member: &tar::Member) -> bool {
    appliance::is_named(member, ".ovf")
}

/// Opens an archive that was listed already.
pub(crate) fn open_listed(
    source: Arc<dyn ByteSource>,
    archive: tar::Archive,
    context: &OpenContext,
) -> Result<Box<dyn Image>> {
    let appliance = Appliance::open_listed(archive, context)?;
    ApplianceImage::open(&FORMAT, source, appliance, context)
}

fn open_descriptor(source: Arc<dyn ByteSource>, context: &OpenContext) -> Result<Box<dyn Image>> {
    let appliance = Appliance::open_descriptor(&source, context)?;
    ApplianceImage::open(&OVF, source, appliance, context)
}
