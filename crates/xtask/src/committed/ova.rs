//! The OVA fixtures: an appliance as careful programs write it, and one whose disk is compressed by itself.

use std::fs;
use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;
use kiln_testkit::ova::{OvaBuilder, item};

use super::content::flat;
use super::{Oracle, Workshop};
use crate::failure::Outcome;

const LEN: usize = 2 * 1024 * 1024 + 3 * 512;

/// `stream.vmdk` is there already: its recipe runs first.
pub(super) fn make(workshop: &mut Workshop) -> Outcome {
    let model = flat(LEN);
    let disk = fs::read(workshop.path("stream.vmdk"))?;
    let nic = item(
        10,
        "<rasd:Connection>VM Network</rasd:Connection>",
        "<rasd:ResourceSubType>E1000</rasd:ResourceSubType>",
    );
    let mut plain = OvaBuilder { hardware: nic, ..OvaBuilder::default() };
    plain = plain.disk("box-disk1.vmdk", disk.clone(), LEN as u64);
    plain.disks[0].disk_attributes +=
        " ovf:format=\"http://www.vmware.com/interfaces/specifications/vmdk.html#streamOptimized\"";
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(&disk)?;
    let mut packed = OvaBuilder::default().disk("box-disk1.vmdk.gz", encoder.finish()?, LEN as u64);
    packed.disks[0].file_attributes += " ovf:compression=\"gzip\"";
    for (name, builder, what) in [
        ("appliance.ova", plain, "descriptor, manifest and stream.vmdk, in a ustar archive"),
        ("appliance-gzip.ova", packed, "the same with the disk in gzip (ovf:compression)"),
    ] {
        fs::write(workshop.path(name), builder.build())?;
        workshop.enter(name, "ova", &model, &Oracle::ModelOnly, &[], what)?;
    }
    Ok(())
}
