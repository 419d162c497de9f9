//! What the headers say, for `inspect`.

use super::extension::{FeatureKind, bits};
use super::external::data_file_reference;
use super::header::{LAZY_REFCOUNTS, autoclear, incompatible};
use super::open::Qcow2Image;
use crate::facts::{Detail, Facts};
use crate::qcow2::FORMAT;

impl Qcow2Image {
    pub(super) fn describe(&self) -> Facts {
        let header = &self.header;
        let mut references = Vec::new();
        if header.has(incompatible::DATA_FILE) {
            references.push(data_file_reference(self.extensions.data_file.as_deref()));
        }
        references.extend(self.backing_reference.clone());
        Facts {
            format: FORMAT.id,
            variant: format!("v{}", header.version),
            disk_bytes: self.disk_len,
            file_bytes: self.source.byte_len(),
            unit_bytes: Some(header.geometry.cluster_len()),
            compression: Some(self.compression.name()),
            references,
            snapshots: self.snapshots.list.iter().map(super::snapshot::Snapshot::facts).collect(),
            details: self.details(),
        }
    }

    fn details(&self) -> Vec<Detail> {
        let header = &self.header;
        let names = |kind, mask| {
            bits(mask)
                .map(|bit| match self.extensions.feature_name(kind, bit) {
                    Some(name) => name.to_owned(),
                    None => format!("bit {bit}"),
                })
                .collect::<Vec<_>>()
        };
        let mut details = vec![
            Detail::number("l1_size", header.l1_size.into()),
            Detail::number("refcount_bits", 1_u64.unbounded_shl(header.refcount_order)),
            Detail::number("header_length", header.header_length.into()),
            Detail::flag("dirty", header.has(incompatible::DIRTY)),
            Detail::flag("corrupt", header.has(incompatible::CORRUPT)),
            Detail::flag("extended_l2", header.geometry.extended()),
            Detail::flag("lazy_refcounts", header.compatible & LAZY_REFCOUNTS != 0),
            Detail::flag("data_file_raw", header.autoclear & autoclear::RAW_EXTERNAL != 0),
            Detail::list("incompatible_features", names(FeatureKind::Incompatible, header.incompatible)),
            Detail::list("compatible_features", names(FeatureKind::Compatible, header.compatible)),
            Detail::list("autoclear_features", names(FeatureKind::Autoclear, header.autoclear)),
        ];
        if !self.bitmaps.is_empty() {
            let names = self.bitmaps.iter().map(|bitmap| bitmap.name.clone()).collect();
            details.push(Detail::list("bitmaps", names));
        }
        if !self.extensions.unknown.is_empty() {
            let kinds = self.extensions.unknown.iter().map(|kind| format!("{kind:#010x}")).collect();
            details.push(Detail::list("unknown_extensions", kinds));
        }
        details
    }
}
