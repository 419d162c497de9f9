//! The VMDK fixtures: each subformat that qemu-img writes.

use std::fs;

use super::content::flat;
use super::{Oracle, Workshop, sha256};
use crate::failure::Outcome;

const LEN: usize = 2 * 1024 * 1024 + 3 * 512;

/// Subformat, name, and the extents in files of their own.
const IMAGES: [(&str, &str, &[&str]); 5] = [
    ("monolithicSparse", "sparse.vmdk", &[]),
    ("streamOptimized", "stream.vmdk", &[]),
    ("monolithicFlat", "flat.vmdk", &["flat-flat.vmdk"]),
    ("twoGbMaxExtentSparse", "split.vmdk", &["split-s001.vmdk"]),
    ("twoGbMaxExtentFlat", "split-flat.vmdk", &["split-flat-f001.vmdk"]),
];

pub(super) fn make(workshop: &mut Workshop) -> Outcome {
    let model = flat(LEN);
    fs::write(workshop.path("flat-vmdk.raw"), &model)?;
    for (subformat, name, extents) in IMAGES {
        let options = format!("subformat={subformat}");
        let arguments = ["convert", "-f", "raw", "-O", "vmdk", "-o", &options, "flat-vmdk.raw", name];
        workshop.tool("qemu-img", &arguments)?;
        let path = workshop.path(name);
        let mut file = fs::read(&path)?;
        settle(&mut file);
        fs::write(path, file)?;
        let recipe = format!("qemu-img {}, then a fixed CID", arguments.join(" "));
        workshop.enter(name, "vmdk", &model, &Oracle::Qemu("vmdk"), extents, &recipe)?;
        for extent in extents {
            let bytes = fs::read(workshop.path(extent))?;
            let recipe = format!("the extent of {name}");
            workshop.enter(extent, "raw", &bytes, &Oracle::ModelOnly, &[], &recipe)?;
        }
    }
    Ok(())
}

/// Sets the content id, which qemu-img makes up: the text `CID=` and hex digits at the beginning of a line. qemu-img
/// writes it without leading zeros (`%x`, as `vmdk_create` in block/vmdk.c does), so that one image in sixteen has less
/// than eight digits; what the line gains is taken from the zeros behind the text, so that what follows keeps its place.
fn settle(file: &mut Vec<u8>) {
    let Some(found) = file.windows(5).position(|five| five == b"\nCID=") else { return };
    let at = found + 5;
    let digits = file[at..].iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
    file.splice(at..at + digits, sha256(b"kiln fixture").bytes().take(8));
    if let Some(end) = file[at..].iter().position(|&byte| byte == 0) {
        file.drain(at + end..at + end + 8 - digits);
    }
}
