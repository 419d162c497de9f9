//! Reading a point in time over NBD.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use kiln_disk::{ByteSource, Disk, FileOffset, FileSource, Observer, RunKind, go_on};
use kiln_qemu::nbd::{BASE_ALLOCATION, Client, NbdDisk, Span, bitmap_context};
use kiln_qemu::{Channel, Limits, socket};

use super::point::{Rig, Tap};
use crate::error::Result;

/// Connections over which one disk is read.
const CONNECTIONS: usize = 4;
/// QEMU's context that tells how deep in the stack of nodes a range is held: 1 is the node itself.
const ALLOCATION_DEPTH: &str = "qemu:allocation-depth";
/// How much block status is asked about at once.
const STATUS: u64 = 1 << 30;

/// The disk at the point in time.
pub(crate) fn disk(rig: &Rig, tap: &Tap, threads: usize) -> Result<Arc<dyn Disk>> {
    let export = format!("disk{}", tap.number);
    let count = threads.clamp(1, CONNECTIONS);
    Ok(Arc::new(NbdDisk::new(count, |contexts| connect(rig, &export, contexts))?))
}

/// Where the bitmap that has counted until the point in time has bits.
pub(crate) fn counted(rig: &Rig, tap: &Tap, observer: &dyn Observer) -> Result<Vec<(u64, u64)>> {
    let context = bitmap_context(&rig.name("counted", tap.number));
    let export = format!("disk{}", tap.number);
    ranges(connect(rig, &export, &[&context])?, |flags| flags & Span::DIRTY != 0, observer)
}

/// What the node holds itself, some time behind the point in time: at least what it held then, as what was written
/// never stops being held.
pub(crate) fn held(rig: &Rig, tap: &Tap, observer: &dyn Observer) -> Result<Vec<(u64, u64)>> {
    let export = format!("now{}", tap.number);
    ranges(connect(rig, &export, &[ALLOCATION_DEPTH])?, |flags| flags == 1, observer)
}

/// Where there may be anything but zeros: what the node has now, and then what was copied because the guest wrote over
/// it. In this order: zeros that were data at the point in time have been copied before they became zeros.
pub(crate) fn not_zeros(rig: &Rig, tap: &Tap, observer: &dyn Observer) -> Result<Vec<(u64, u64)>> {
    let export = format!("now{}", tap.number);
    let now = connect(rig, &export, &[BASE_ALLOCATION])?;
    let mut found = ranges(now, |flags| flags & Span::ZERO == 0, observer)?;
    found.extend(data_of(&tap.fleece)?);
    Ok(found)
}

fn data_of(path: &Path) -> Result<Vec<(u64, u64)>> {
    let file = FileSource::open(path)?;
    let (mut at, mut found) = (0, Vec::new());
    while let Some(run) = file.run_at(FileOffset::new(at))? {
        if run.kind == RunKind::Data {
            found.push((at, run.len.get()));
        }
        at += run.len.get();
    }
    Ok(found)
}

fn ranges(
    mut client: Client,
    wanted: impl Fn(u32) -> bool,
    observer: &dyn Observer,
) -> Result<Vec<(u64, u64)>> {
    let (mut at, mut found) = (0, Vec::<(u64, u64)>::new());
    while at < client.byte_len() {
        go_on(observer)?;
        let spans = client.block_status(0, at, STATUS)?;
        for span in &spans {
            if wanted(span.flags) {
                match found.last_mut() {
                    Some((start, len)) if *start + *len == span.start => *len += span.len,
                    _ => found.push((span.start, span.len)),
                }
            }
            at = span.end();
        }
    }
    client.disconnect();
    Ok(found)
}

fn connect(rig: &Rig, export: &str, contexts: &[&str]) -> kiln_qemu::Result<Client> {
    let (dir, name) = (rig.socket.parent(), rig.socket.file_name());
    let (dir, name) = (dir.unwrap_or(Path::new(".")), name.unwrap_or_default().to_string_lossy());
    let stream = socket::connect(dir, &name, Duration::from_secs(5))?;
    let channel = Channel::new(stream, "the running machine's disk");
    Client::connect(
        channel,
        Limits { reply_time: Duration::from_secs(60), ..Limits::default() },
        export,
        contexts,
    )
}
