//! Decoding everything that is compressed.

use std::collections::HashSet;
use std::num::NonZeroUsize;

use kiln_disk::{Error, FileOffset, Observer, Result, go_on};

use super::count::each_entry;
use super::layout::Layout;
use super::{Report, specs};
use crate::image::CheckScope;
use crate::qcow2::codec;
use crate::qcow2::entry::{Cluster, Compressed};
use crate::qcow2::geometry::{as_bytes, in_memory};
use crate::qcow2::open::Qcow2Image;
use crate::qcow2::problem::Qcow2Problem;

/// Clusters that are handed to the threads at once.
const BATCH: usize = 256;

/// A compressed cluster and the entry that leads to it.
struct Job {
    at: FileOffset,
    guest: u64,
    guest_len: u64,
    active: bool,
    data: Compressed,
}

/// Decodes every compressed cluster once, on all processors; beside a read of the disk only those that are not on it.
///
/// Honest clusters share at most the sector in which one ends and the next begins. Where there is more to decode
/// than that, clusters lie on one another: the rest is left alone and that is a finding.
pub(super) fn run(
    image: &Qcow2Image,
    layout: &Layout,
    scope: CheckScope,
    report: &mut Report,
    observer: &dyn Observer,
) -> Result<()> {
    let file_len = image.source.byte_len();
    let is_read_elsewhere = scope == CheckScope::BesideReading && image.reads_active();
    let (mut bytes, mut clusters) = (0_u64, 0_u64);
    let mut skipped = 0_u64;
    let mut batch = Vec::new();
    for table in &layout.l2 {
        // Two entries that name the same data need one look; the count of references reports them.
        let mut seen = HashSet::new();
        each_entry(image, table, observer, |entry| {
            let Ok(Cluster::Compressed(data)) = entry.cluster else { return Ok(()) };
            if data.at >= file_len {
                return Ok(());
            }
            if !seen.insert(data.at) {
                if table.active != 0 {
                    let detail = || format!("the compressed data at {:#x} is used twice", data.at);
                    report.found(&specs::DATA_ALIASED, detail, |finding| entry.place(finding));
                }
                return Ok(());
            }
            bytes = bytes.saturating_add(data.len);
            clusters = clusters.saturating_add(1);
            let honest = file_len.saturating_add(clusters.saturating_mul(512));
            // Tables of snapshots share clusters with the active ones: those were decoded with them.
            if bytes > honest {
                skipped = skipped.saturating_add(u64::from(table.active != 0));
                return Ok(());
            }
            if is_read_elsewhere && table.active != 0 && entry.guest_len != 0 {
                return Ok(());
            }
            batch.push(Job {
                at: entry.at,
                guest: entry.guest,
                guest_len: entry.guest_len,
                active: table.active != 0,
                data,
            });
            if batch.len() >= BATCH { flush(image, &mut batch, report, observer) } else { Ok(()) }
        })?;
    }
    flush(image, &mut batch, report, observer)?;
    if skipped != 0 {
        let detail = || format!("{skipped} clusters are left");
        report.found(&specs::COMPRESSED_SKIPPED, detail, |finding| finding);
    }
    Ok(())
}

/// Decodes a batch and reports what failed, in order.
fn flush(
    image: &Qcow2Image,
    batch: &mut Vec<Job>,
    report: &mut Report,
    observer: &dyn Observer,
) -> Result<()> {
    go_on(observer)?;
    image.budget.check_time()?;
    let threads = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let share = batch.len().div_ceil(threads.max(1)).max(1);
    let answers = std::thread::scope(|scope| {
        let started: Vec<_> =
            batch.chunks(share).map(|jobs| scope.spawn(move || decode_all(image, jobs))).collect();
        started.into_iter().map(std::thread::ScopedJoinHandle::join).collect::<Vec<_>>()
    });
    for (jobs, answer) in batch.chunks(share).zip(answers) {
        let whys = match answer {
            Ok(whys) => whys?,
            Err(panic) => std::panic::resume_unwind(panic),
        };
        for (job, why) in jobs.iter().zip(whys) {
            let Some(why) = why else { continue };
            let cluster_len = image.header.geometry.cluster_len();
            let problem = Qcow2Problem::CompressedBad { guest: job.guest, cluster_len, why };
            let mut finding = super::finding_of(&Error::malformed("qcow2 L2 table", job.at, problem));
            if job.active && job.guest_len != 0 {
                finding = finding.guest(kiln_disk::GuestOffset::new(job.guest), job.guest_len);
            }
            report.0.push(finding);
        }
    }
    batch.clear();
    Ok(())
}

/// For each job why it failed, `None` where it did not.
fn decode_all(image: &Qcow2Image, jobs: &[Job]) -> Result<Vec<Option<codec::Why>>> {
    let mut out = vec![0; in_memory(image.header.geometry.cluster_len())];
    let mut data = Vec::new();
    jobs.iter()
        .map(|job| {
            let there = image.source.byte_len().saturating_sub(job.data.at);
            data.resize(in_memory(job.data.len.min(there)), 0);
            image.source.read_bytes(FileOffset::new(job.data.at), &mut data)?;
            let cut = as_bytes(data.len()) < job.data.len;
            Ok(codec::decode(image.compression, &data, &mut out)
                .err()
                .map(|why| if cut { "it is cut off by the end of the file" } else { why }))
        })
        .collect()
}
