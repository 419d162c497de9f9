//! The trace of a conversion that was stopped.
//!
//! QEMU writes guest data first and keeps the tables that lead to it in memory until the end. A conversion that is
//! killed leaves a file with the right virtual size, sound tables, and a disk of nothing but zeros in front of
//! megabytes of data that nothing leads to. No count of references sees that: there are none.

use kiln_disk::{FileOffset, Observer, Result, RunKind, go_on, zero};

use super::count::each_entry;
use super::layout::Layout;
use super::{Report, specs};
use crate::qcow2::open::Qcow2Image;

const READ_LEN: u64 = 1 << 16;

/// Looks for data behind the tables of an image that maps nothing. Reads up to the first byte that is not zero.
pub(super) fn run(
    image: &Qcow2Image,
    layout: &Layout,
    report: &mut Report,
    observer: &dyn Observer,
) -> Result<()> {
    let elsewhere = image.backing_reference.is_some() || image.extensions.data_file.is_some();
    if elsewhere || !image.snapshots.list.is_empty() || report.0.fails() {
        return Ok(());
    }
    for table in &layout.l2 {
        let mut mapped = false;
        each_entry(image, table, observer, |_| {
            mapped = true;
            Ok(())
        })?;
        if mapped {
            return Ok(());
        }
    }
    let cluster = image.header.geometry.cluster_len();
    let single = layout.blocks.iter().copied().chain(layout.l2.iter().map(|table| table.start));
    let single = single.map(|start| start.saturating_add(cluster));
    let tables_end = layout.fixed.values().map(|(end, _)| *end).chain(single).max().unwrap_or(0);
    if let Some(at) = first_data(image, tables_end, observer)? {
        let file_len = image.source.byte_len();
        report.found(
            &specs::UNFINISHED,
            || {
                format!(
                    "the tables end at {tables_end:#x}, data goes on to {file_len:#x}, and the disk is all zeros"
                )
            },
            |finding| finding.at(FileOffset::new(at)),
        );
    }
    Ok(())
}

/// The first stretch with a byte that is not zero, at or behind `from`.
fn first_data(image: &Qcow2Image, from: u64, observer: &dyn Observer) -> Result<Option<u64>> {
    let mut at = from;
    let mut buffer = vec![0; usize::try_from(READ_LEN).unwrap_or(0)];
    while let Some(run) = image.source.run_at(FileOffset::new(at))? {
        go_on(observer)?;
        if run.kind == RunKind::Hole {
            at = at.saturating_add(run.len.get());
            continue;
        }
        let take = run.len.get().min(READ_LEN);
        let bytes = buffer.get_mut(..usize::try_from(take).unwrap_or(0)).unwrap_or_default();
        image.source.read_bytes(FileOffset::new(at), bytes)?;
        if !zero::is_zero(bytes) {
            return Ok(Some(at));
        }
        at = at.saturating_add(take);
    }
    Ok(None)
}
