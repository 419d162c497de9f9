//! What descriptor and headers say.

use super::descriptor::{Descriptor, Kind};
use super::header::flag;
use super::image::{Body, VmdkImage};
use super::sparse::Sparse;
use super::{FORMAT, extents, open};
use crate::facts::{Detail, Facts};
use crate::resolver::ExternalRef;

pub(super) fn of(image: &VmdkImage) -> Facts {
    let sparse = image.parts.iter().find_map(|part| match &part.body {
        Body::Sparse(sparse) => Some(sparse.as_ref()),
        _ => None,
    });
    let compressed = sparse.is_some_and(|sparse| sparse.header.is_compressed());
    let descriptor = image.descriptor.as_ref();
    let mut details = Vec::new();
    if let Some(sparse) = sparse {
        headers(sparse, &mut details);
    }
    if let Some(descriptor) = descriptor {
        texts(descriptor, &mut details);
    }
    Facts {
        format: FORMAT.id,
        variant: descriptor.map_or("without descriptor", |found| found.create_type.as_str()).to_owned(),
        disk_bytes: image.disk_len,
        file_bytes: image.source.byte_len(),
        unit_bytes: sparse.map(Sparse::grain_len),
        compression: compressed.then_some("zlib"),
        references: references(image),
        snapshots: Vec::new(),
        details,
    }
}

fn headers(sparse: &Sparse, details: &mut Vec<Detail>) {
    let header = &sparse.header;
    details.push(Detail::number("version", header.version.into()));
    details.push(Detail::text("flags", format!("{:#x}", header.flags)));
    details.push(Detail::number("grain_size", sparse.grain_len()));
    details.push(Detail::number("num_gtes_per_gt", header.num_gtes_per_gt.into()));
    details.push(Detail::flag("unclean_shutdown", header.unclean_shutdown != 0));
    details.push(Detail::flag("markers", header.has(flag::MARKERS)));
    details.push(Detail::flag("footer", sparse.tail.is_some()));
}

fn texts(descriptor: &Descriptor, details: &mut Vec<Detail>) {
    details.push(Detail::text("create_type", descriptor.create_type.clone()));
    if let Some(cid) = descriptor.cid {
        details.push(Detail::text("cid", format!("{cid:08x}")));
    }
    details.push(Detail::text("parent_cid", format!("{:08x}", descriptor.parent_cid)));
    if let Some(name) = &descriptor.parent_file_name_hint {
        details.push(Detail::text("parent_file_name_hint", name.clone()));
    }
    let lines = descriptor.extents.iter().map(|line| match line.kind {
        Kind::Zero => format!("{} ZERO", line.sectors),
        kind => format!("{} {} {}", line.sectors, kind.word(), line.name),
    });
    details.push(Detail::list("extents", lines.collect()));
    let data_base = [
        ("adapterType", "adapter_type"),
        ("virtualHWVersion", "virtual_hw_version"),
        ("toolsVersion", "tools_version"),
        ("uuid", "uuid"),
        ("longContentID", "long_content_id"),
        ("thinProvisioned", "thin_provisioned"),
    ];
    for (key, name) in data_base {
        if let Some((_, value)) = descriptor.ddb.iter().find(|(known, _)| known == key) {
            details.push(Detail::text(name, value.clone()));
        }
    }
}

/// The other files of the disk: extents of a descriptor in a file of its own, and the parent.
fn references(image: &VmdkImage) -> Vec<ExternalRef> {
    let Some(descriptor) = &image.descriptor else { return Vec::new() };
    // The only extent of a disk in one file is that file, whatever its descriptor calls it.
    let own = image.parts.first().is_some_and(|part| part.file == 0);
    let lines = if own { &[][..] } else { &descriptor.extents };
    lines.iter().filter_map(extents::reference).chain(open::parent_reference(descriptor)).collect()
}
