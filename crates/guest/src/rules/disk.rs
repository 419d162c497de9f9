//! Rules of the partition table.

use kiln_disk::partition::{GptCopy, GptFault, PartitionType, Scheme, TableFault, types};
use kiln_disk::wire::le32;
use kiln_disk::{Disk as _, GuestOffset};

use super::{Case, Firmware, Hits, Impact};
use crate::facts::media::{Medium, MediumKind};
use crate::facts::{Seen, fault_words};
use crate::volume::{Content, Volume};

/// part.table
pub(super) fn table(case: &Case<'_>, hits: &mut Hits) {
    let Some(table) = case.report.tables.first() else { return };
    for fault in &table.typed_faults {
        match fault {
            TableFault::Gpt { copy: GptCopy::Primary, at, .. } => {
                let seen = Seen::Disk { disk_byte: *at };
                let words = fault_words(fault);
                let backup = table.gpt.as_ref().is_some_and(|gpt| gpt.used == GptCopy::Backup);
                // UEFI writes the first copy again from the second before it looks for a loader (EDK II, PartitionDxe).
                let repaired = backup
                    && case.firmwares().next().is_some()
                    && case.firmwares().all(|firmware| firmware == Firmware::Uefi)
                    && super::boot::starts(case, Firmware::Uefi);
                if repaired {
                    hits.add_as(Impact::Advice, format!("{words}; UEFI repairs it from the backup"), seen);
                } else {
                    hits.add(words, seen);
                }
            }
            TableFault::Chain { at } => hits.add(fault_words(fault), Seen::Disk { disk_byte: *at }),
            _ => {}
        }
    }
    if table.scheme == Scheme::Gpt && !(table.mbr.signed && table.mbr.protective) {
        let what =
            "the first sector holds no protective entry (0xEE): neither firmware nor Linux looks for the GPT";
        hits.add(what, Seen::Disk { disk_byte: 446 });
    }
    if table.scheme == Scheme::None {
        let whole = case.report.volumes.first();
        let content = whole.map_or(Content::Unknown, |volume| volume.probed.content);
        let what = match content {
            Content::Empty => "the disk begins with zeros: there is no partition table".to_owned(),
            Content::Unknown => "there is no partition table, and no file system that is known".to_owned(),
            _ => {
                let kind = whole.map_or("", |volume| volume.probed.kind.as_str());
                format!("there is no partition table: {kind} covers the whole disk")
            }
        };
        if content == Content::Unknown && table.mbr.signed && table.mbr.has_code && table.mbr.loader.is_none()
        {
            hits.unknown("the first sector holds code of a program that is not known here");
        } else if content == Content::Empty || content == Content::Unknown || case.place.id == "tencent" {
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
        let medium = case.report.media.as_ref().map(Medium::words);
        let what = medium.unwrap_or_else(|| MediumKind::Unknown.words().to_owned());
        hits.add(format!("it is an ISO 9660 image: {what}"), Seen::Disk { disk_byte: 0x8000 });
    }
}

/// Whether a table says that a BSD, Solaris, Haiku or macOS is in a partition: their slices and disk labels within it are
/// not read.
fn is_of_another_system(kind: PartitionType) -> bool {
    match kind {
        PartitionType::Mbr(kind) => matches!(kind, 0xa5 | 0xa6 | 0xa8 | 0xa9 | 0xaf | 0xbf | 0xeb),
        // The first field of the GUIDs: FreeBSD's seven, OpenBSD, NetBSD's six, Apple's HFS+ and APFS, Haiku, Solaris.
        PartitionType::Gpt(guid) => matches!(
            le32(&guid.0, 0),
            Some(
                0x516e_7cb4
                    ..=0x516e_7cba
                        | 0x824c_c7a0
                        | 0x49f4_8d32
                        | 0x49f4_8d5a
                        | 0x49f4_8d82
                        | 0x49f4_8daa
                        | 0x2db5_19c4
                        | 0x2db5_19ec
                        | 0x4846_5300
                        | 0x7c34_57ef
                        | 0x4246_5331
                        | 0x6a82_cb45
                        | 0x6a85_cf4d
            )
        ),
    }
}

/// A volume of unknown content that begins as a boot sector does: firmware, or a loader that asks no questions, starts it.
fn starts_by_itself<'a>(case: &'a Case<'_>) -> Option<&'a Volume> {
    let table = case.report.tables.first()?;
    // Loaders that look for files find none there.
    let by_files = matches!(table.mbr.loader, Some("grub2" | "grub-legacy" | "lilo"));
    case.report.volumes.iter().find(|volume| {
        let mut sector = [0; 512];
        !by_files
            && table.mbr.signed
            && table.mbr.has_code
            && volume.probed.content == Content::Unknown
            && volume.disk.read_guest(GuestOffset::ZERO, &mut sector).is_ok()
            && sector.ends_with(&[0x55, 0xaa])
            && sector.iter().take(440).filter(|byte| **byte != 0).count() > 16
    })
}

/// os.root
pub(super) fn root(case: &Case<'_>, hits: &mut Hits) {
    if !case.report.roots.is_empty() {
        return;
    }
    let contents = || case.report.volumes.iter().map(|volume| volume.probed.content);
    if contents().any(|content| matches!(content, Content::Luks | Content::BitLocker | Content::MdRaid)) {
        return hits.unknown("the root may be in an encrypted or RAID volume, which is not opened");
    }
    // FreeBSD on UFS or ZFS, Linux on F2FS or a live system's squashfs: these start, and are not looked into.
    let closed = case.report.volumes.iter().find(|volume| {
        matches!(
            volume.probed.content,
            Content::Foreign | Content::F2fs | Content::Erofs | Content::Squashfs | Content::Iso9660
        )
    });
    if let Some(volume) = closed {
        let kind = &volume.probed.kind;
        let place = &volume.place;
        return hits.unknown(format!("the root may be on {kind} ({place}), which is not judged as a root"));
    }
    let partitions = case.report.tables.iter().flat_map(|table| &table.partitions);
    if let Some(other) = partitions.into_iter().find(|partition| is_of_another_system(partition.kind)) {
        let (number, kind) = (other.number, other.kind);
        return hits.unknown(format!("partition {number} (type {kind}) is of a system that is not judged"));
    }
    let unreadable = case.report.volumes.iter().find(|volume| {
        matches!(volume.probed.content, Content::Ext | Content::Xfs | Content::Btrfs | Content::Ntfs)
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
    if let Some(volume) = starts_by_itself(case) {
        return hits.unknown(format!("{} begins with code of a system that is not known here", volume.place));
    }
    let seen: Vec<&str> = case
        .report
        .volumes
        .iter()
        .filter(|volume| volume.probed.content != Content::Empty)
        .map(|volume| volume.probed.kind.as_str())
        .collect();
    let what = if seen.is_empty() { "nothing".to_owned() } else { seen.join(", ") };
    if super::boot::may_make_its_root(case) {
        return hits.unknown(format!(
            "no volume holds a system as it is known here (there is: {what}), and what is started may make it or find it: \
             ostree, a /usr of its own, a system in the initramfs"
        ));
    }
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

/// part.overlap
pub(super) fn overlap(case: &Case<'_>, hits: &mut Hits) {
    for fault in case.report.tables.iter().take(1).flat_map(|table| &table.typed_faults) {
        if let TableFault::Overlap { at, .. } = fault {
            hits.add(fault_words(fault), Seen::Disk { disk_byte: *at });
        }
    }
}

/// part.bounds
pub(super) fn bounds(case: &Case<'_>, hits: &mut Hits) {
    let Some(table) = case.report.tables.first() else { return };
    if let Some(gpt) = table.gpt.as_ref().filter(|gpt| gpt.end_usable > table.disk_len) {
        // Linux block/partitions/efi.c, is_gpt_valid.
        let what = format!(
            "the GPT is for a disk of at least {} bytes, this one has {}: Linux refuses the whole table",
            gpt.end_usable, table.disk_len
        );
        return hits.add(what, Seen::Disk { disk_byte: table.sector_len });
    }
    for fault in &table.typed_faults {
        let TableFault::PastEnd { number, end } = fault else { continue };
        let seen = Seen::Disk { disk_byte: *end };
        let here = case.report.volumes.iter().position(|volume| {
            matches!(volume.place, crate::volume::Place::Partition { disk: 0, number: known, .. } if known == *number)
        });
        let volume = here.and_then(|index| case.report.volumes.get(index));
        // Linux cuts such a partition of an MBR. What ends before the cut is whole.
        let fits =
            volume.is_some_and(|volume| volume.probed.space.is_some_and(|space| space.total <= volume.len));
        let used = here.is_some_and(|index| case.report.mounts.iter().any(|mount| mount.volume == index));
        if fits || (!used && !case.report.roots.is_empty()) {
            hits.add_as(Impact::Advice, fault_words(fault), seen);
        } else {
            hits.add(fault_words(fault), seen);
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
    // Of a Windows win.part speaks.
    if case.place.id == "tencent" && gpt && case.report.windows.is_none() {
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
