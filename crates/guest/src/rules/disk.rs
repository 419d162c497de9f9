//! Rules of the partition table.

use kiln_disk::partition::{GptCopy, GptFault, PartitionType, Scheme, TableFault, types};

use super::{Case, Firmware, Hits, Impact};
use crate::facts::{Seen, fault_words};
use crate::volume::Content;

/// part.table
pub(super) fn table(case: &Case<'_>, hits: &mut Hits) {
    let Some(table) = case.report.tables.first() else { return };
    for fault in &table.typed_faults {
        match fault {
            TableFault::Gpt { copy: GptCopy::Primary, at, .. } => {
                hits.add(fault_words(fault), Seen::Disk { disk_byte: *at });
            }
            TableFault::Chain { at } => hits.add(fault_words(fault), Seen::Disk { disk_byte: *at }),
            _ => {}
        }
    }
    if table.scheme == Scheme::None {
        let whole = case.report.volumes.first();
        let content = whole.map_or(Content::Unknown, |volume| volume.probed.content);
        let what = match content {
            Content::Empty => "the disk begins with zeros: there is no partition table".to_owned(),
            Content::Unknown => "there is no partition table, and no file system that is known".to_owned(),
            other => format!("there is no partition table: {} covers the whole disk", other.word()),
        };
        if content == Content::Empty || content == Content::Unknown || case.place.id == "tencent" {
            hits.add(what, Seen::Disk { disk_byte: 0 });
        } else {
            hits.add_as(Impact::Advice, what, Seen::Disk { disk_byte: 0 });
        }
    }
}

/// container.iso
pub(super) fn iso(case: &Case<'_>, hits: &mut Hits) {
    let Some(first) = case.report.volumes.first() else { return };
    if first.probed.content == Content::Iso9660 && case.report.roots.is_empty() {
        hits.add("it is an ISO 9660 image: an installer or a live system", Seen::Disk { disk_byte: 0x8000 });
    }
}

/// os.root
pub(super) fn root(case: &Case<'_>, hits: &mut Hits) {
    if !case.report.roots.is_empty() {
        return;
    }
    let contents = || case.report.volumes.iter().map(|volume| volume.probed.content);
    if contents().any(|content| content == Content::Ntfs) {
        return hits.unknown("the disk looks like Windows, which is not judged yet");
    }
    if contents().any(|content| matches!(content, Content::Luks | Content::BitLocker | Content::MdRaid)) {
        return hits.unknown("the root may be in an encrypted or RAID volume, which is not opened");
    }
    let unreadable = case.report.volumes.iter().find(|volume| {
        matches!(volume.probed.content, Content::Ext | Content::Xfs | Content::Btrfs)
            && case.report.problems.iter().any(|problem| problem.starts_with(&volume.place.to_string()))
    });
    if let Some(volume) = unreadable {
        return hits.unknown(format!("{} ({}) cannot be read", volume.place, volume.probed.kind));
    }
    if case
        .report
        .groups
        .iter()
        .any(|group| group.volumes.iter().any(|volume| !volume.unsupported.is_empty()))
    {
        return hits.unknown("the root may be on a logical volume of a kind that is not read");
    }
    let seen: Vec<&str> =
        contents().filter(|content| *content != Content::Empty).map(Content::word).collect();
    let what = if seen.is_empty() { "nothing".to_owned() } else { seen.join(", ") };
    hits.add(format!("no volume holds a system; there is: {what}"), Seen::Disk { disk_byte: 0 });
}

/// part.gpt-backup
pub(super) fn backup(case: &Case<'_>, hits: &mut Hits) {
    let Some(table) = case.report.tables.first() else { return };
    for fault in &table.typed_faults {
        if let TableFault::Gpt { copy: GptCopy::Backup, at, fault: kind } = fault {
            // A header that is only at the wrong place is moved by growpart and systemd-repart.
            let words = fault_words(fault);
            match kind {
                GptFault::NotAtEnd { .. } => {
                    hits.add_as(Impact::Advice, words, Seen::Disk { disk_byte: *at });
                }
                _ => hits.add(words, Seen::Disk { disk_byte: *at }),
            }
        }
    }
}

/// part.overlap and part.bounds
pub(super) fn overlap(case: &Case<'_>, hits: &mut Hits) {
    for fault in case.report.tables.iter().take(1).flat_map(|table| &table.typed_faults) {
        if let TableFault::Overlap { at, .. } = fault {
            hits.add(fault_words(fault), Seen::Disk { disk_byte: *at });
        }
    }
}

/// part.bounds
pub(super) fn bounds(case: &Case<'_>, hits: &mut Hits) {
    for fault in case.report.tables.iter().take(1).flat_map(|table| &table.typed_faults) {
        if let TableFault::PastEnd { end, .. } = fault {
            hits.add(fault_words(fault), Seen::Disk { disk_byte: *end });
        }
    }
}

/// part.align
pub(super) fn align(case: &Case<'_>, hits: &mut Hits) {
    for partition in case.report.tables.iter().take(1).flat_map(|table| &table.partitions) {
        if !partition.start.is_multiple_of(4096) {
            hits.add(
                format!(
                    "partition {} starts at byte {}, inside a block of 4096",
                    partition.number, partition.start
                ),
                Seen::Disk { disk_byte: partition.start },
            );
        }
    }
}

/// part.hybrid
pub(super) fn hybrid(case: &Case<'_>, hits: &mut Hits) {
    if case.report.tables.first().is_some_and(|table| table.scheme == Scheme::HybridGpt) {
        hits.add("the MBR names real partitions beside the protective one", Seen::Disk { disk_byte: 446 });
    }
}

/// part.scheme: GPT where the documents of the place know only MBR, MBR where only UEFI starts.
pub(super) fn scheme(case: &Case<'_>, hits: &mut Hits) {
    let Some(table) = case.report.tables.first() else { return };
    let gpt = matches!(table.scheme, Scheme::Gpt | Scheme::HybridGpt);
    if case.place.id == "tencent" && gpt {
        let seen = Seen::Disk { disk_byte: table.sector_len };
        if super::boot::starts(case, Firmware::Uefi)
            && case.firmwares().any(|firmware| firmware == Firmware::Uefi)
        {
            hits.add_as(
                Impact::Advice,
                "the disk has a GPT: import it with BootMode UEFI; as Legacy BIOS it is refused",
                seen,
            );
        } else {
            hits.add(
                "the disk has a GPT and cannot be started by UEFI; only MBR disks are taken for Legacy BIOS",
                seen,
            );
        }
    }
}

/// part.logical-sector
pub(super) fn sector(case: &Case<'_>, hits: &mut Hits) {
    let Some(table) = case.report.tables.first() else { return };
    if table.sector_len == 4096 {
        hits.add(
            "the GPT counts sectors of 4096 bytes; the place's disks have 512",
            Seen::Disk { disk_byte: 4096 },
        );
    }
}

/// part.root-last
pub(super) fn root_last(case: &Case<'_>, hits: &mut Hits) {
    let Some(crate::volume::Place::Partition { disk: 0, number, start, .. }) =
        case.report.root().map(|volume| &volume.place)
    else {
        return;
    };
    let behind = case.report.tables.first().and_then(|table| {
        table
            .partitions
            .iter()
            .filter(|partition| partition.start > *start)
            .min_by_key(|partition| partition.start)
    });
    if let Some(behind) = behind {
        let kind = match behind.kind {
            PartitionType::Gpt(types::SWAP) | PartitionType::Mbr(0x82) => "swap ",
            _ => "",
        };
        hits.add(
            format!("{kind}partition {} lies behind the root, partition {number}", behind.number),
            Seen::Disk { disk_byte: behind.start },
        );
    }
}
