//! The VDI fixtures: dynamic and static.

use std::fs;

use super::content::flat;
use super::{Oracle, Workshop, kiln_id};
use crate::failure::Outcome;

/// Two blocks of 1 MiB and a bit.
const LEN: usize = 2 * 1024 * 1024 + 3 * 512;
/// `uuidCreate` and `uuidModify` in the header (VirtualBox, VDICore.h, `VDIHEADER1`).
const IDS: [usize; 2] = [0x188, 0x198];

pub(super) fn make(workshop: &mut Workshop) -> Outcome {
    let model = flat(LEN);
    fs::write(workshop.path("flat-vdi.raw"), &model)?;
    for (name, options) in [("dynamic.vdi", "static=off"), ("static.vdi", "static=on")] {
        let arguments = ["convert", "-f", "raw", "-O", "vdi", "-o", options, "flat-vdi.raw", name];
        workshop.tool("qemu-img", &arguments)?;
        let path = workshop.path(name);
        let mut file = fs::read(&path)?;
        for (number, at) in (0..).zip(IDS) {
            file[at..at + 16].copy_from_slice(&kiln_id(number));
        }
        fs::write(path, file)?;
        let recipe = format!("qemu-img {}, then fixed ids", arguments.join(" "));
        workshop.enter(name, "vdi", &model, &Oracle::Qemu("vdi"), &[], &recipe)?;
    }
    Ok(())
}
