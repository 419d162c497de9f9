//! The VHD fixtures: fixed, dynamic and differencing, with the size rules of different creators.

use std::fs;

use super::content::flat;
use super::vhd::{Footer, SECTOR, differencing, settle};
use super::{Oracle, Workshop};
use crate::failure::Outcome;

/// Not a size that CHS geometry can express.
const LEN: usize = 5 * 1024 * 1024 + 3 * SECTOR;
const PARENT: &str = "dynamic.vhd";
/// Reads the size from "Current Size" whatever the creator, as the images below mean it.
const BY_SIZE: Oracle = Oracle::Qemu("vpc");

fn id(last: u8) -> [u8; 16] {
    let mut id = *b"kiln fixture  \0\0";
    id[15] = last;
    id
}

pub(super) fn make(workshop: &mut Workshop) -> Outcome {
    let model = flat(LEN);
    fs::write(workshop.path("flat-vhd.raw"), &model)?;
    exact(workshop, &model)?;
    geometry(workshop)?;
    short_footer(workshop)?;
    child(workshop, &model)
}

fn convert(workshop: &Workshop, source: &str, options: &str, name: &str) -> Outcome<String> {
    let arguments = ["convert", "-f", "raw", "-O", "vpc", "-o", options, source, name];
    workshop.tool("qemu-img", &arguments)?;
    Ok(format!("qemu-img {}, then fixed id and time", arguments.join(" ")))
}

fn finish(workshop: &Workshop, name: &str, footer: &Footer<'_>) -> Outcome {
    let path = workshop.path(name);
    let mut file = fs::read(&path)?;
    settle(&mut file, footer);
    Ok(fs::write(path, file)?)
}

/// Sizes kept exactly (`force_size`), with creators whose "Current Size" counts.
fn exact(workshop: &mut Workshop, model: &[u8]) -> Outcome {
    let images: [(&str, &str, &[u8; 4], u8); 4] = [
        (PARENT, "dynamic", b"qem2", 1),
        ("dynamic-win.vhd", "dynamic", b"win ", 2),
        ("fixed.vhd", "fixed", b"qem2", 3),
        ("dynamic-d2v.vhd", "dynamic", b"d2v ", 4),
    ];
    for (name, subformat, creator, number) in images {
        let recipe =
            convert(workshop, "flat-vhd.raw", &format!("subformat={subformat},force_size=on"), name)?;
        finish(workshop, name, &Footer { creator, id: id(number), current_size: None })?;
        workshop.enter(name, "vhd", model, &BY_SIZE, &[], &recipe)?;
    }
    Ok(())
}

/// Virtual PC: the geometry counts, whatever "Current Size" says; Hyper-V: the other way round. The same file
/// but for the creator, with a "Current Size" of one sector more than its geometry.
fn geometry(workshop: &mut Workshop) -> Outcome {
    // 602 cylinders of 4 heads and 17 sectors: qemu-img takes this size as it is.
    let by_geometry = 602 * 4 * 17 * SECTOR;
    let model = flat(by_geometry);
    let mut larger = model.clone();
    larger.resize(by_geometry + SECTOR, 0);
    fs::write(workshop.path("flat-chs.raw"), &model)?;
    let size = (by_geometry + SECTOR) as u64;
    for (name, creator, content, number) in
        [("dynamic-vpc-chs.vhd", b"vpc ", &model, 5), ("dynamic-win-size.vhd", b"win ", &larger, 6)]
    {
        let recipe = convert(workshop, "flat-chs.raw", "subformat=dynamic", name)?;
        let recipe = format!("{recipe}; Current Size one sector above the geometry");
        finish(workshop, name, &Footer { creator, id: id(number), current_size: Some(size) })?;
        workshop.enter(name, "vhd", content, &BY_SIZE, &[], &recipe)?;
    }
    Ok(())
}

/// Virtual PC before 2004 wrote footers of 511 bytes.
fn short_footer(workshop: &mut Workshop) -> Outcome {
    let name = "fixed-511.vhd";
    let len = 602 * 4 * 17 * SECTOR;
    let recipe = convert(workshop, "flat-chs.raw", "subformat=fixed", name)?;
    finish(workshop, name, &Footer { creator: b"vpc ", id: id(7), current_size: None })?;
    let path = workshop.path(name);
    let mut file = fs::read(&path)?;
    file.pop();
    fs::write(path, file)?;
    workshop.enter(name, "vhd", &flat(len), &Oracle::ModelOnly, &[], &format!("{recipe}; last byte cut off"))
}

/// A child whose own sectors are scattered over two of three blocks, at both ends of the sector bitmap.
fn child(workshop: &mut Workshop, parent_model: &[u8]) -> Outcome {
    let name = "differencing.vhd";
    let sectors =
        [(0, 0x71), (1, 0x72), (130, 0x73), (4095, 0x74), (LEN / SECTOR - 1, 0x75), (200, 0), (8193, 0x76)];
    let parent = fs::read(workshop.path(PARENT))?;
    fs::write(workshop.path(name), differencing(&parent, PARENT, id(8), &sectors))?;
    let mut model = parent_model.to_vec();
    for (sector, byte) in sectors {
        model[sector * SECTOR..][..SECTOR].fill(byte);
    }
    let recipe =
        "by hand over dynamic.vhd: sectors 0, 1, 130, 200 (zeros over text), 4095, 8193 and the last";
    workshop.enter(name, "vhd", &model, &Oracle::ModelOnly, &[PARENT], recipe)
}
