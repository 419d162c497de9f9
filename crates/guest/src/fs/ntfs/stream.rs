//! The bytes of an attribute, wherever they are.

use std::sync::Arc;

use kiln_disk::{Disk, GuestOffset};

use super::lznt1;
use super::record::{Attribute, Body, COMPRESSED, ENCRYPTED, LZNT1, Run};
use super::{FsError, Result};

/// An attribute with all its pieces.
#[derive(Debug, Clone)]
pub(super) struct Stream {
    content: Content,
    /// Why its bytes cannot be given.
    closed: Option<&'static str>,
}

#[derive(Debug, Clone)]
enum Content {
    Resident(Vec<u8>),
    Clusters {
        runs: Vec<Run>,
        len: u64,
        initialized: u64,
        /// Clusters that are packed together; 0 for none.
        unit: u64,
    },
}

/// Bytes that are packed together at most.
const MAX_UNIT: u64 = 1 << 20;

impl Stream {
    /// Joins the pieces of one attribute; `None` when there are none.
    pub(super) fn join(mut pieces: Vec<&Attribute>) -> Result<Option<Self>> {
        let lowest = |piece: &Attribute| match piece.body {
            Body::Resident(_) => 0,
            Body::Runs { lowest, .. } => lowest,
        };
        pieces.sort_by_key(|piece| lowest(piece));
        let Some(first) = pieces.first() else { return Ok(None) };
        // In a directory's index, which is in the record, the flags are what its new files will have.
        let outside = matches!(first.body, Body::Runs { .. });
        let closed = match first.flags {
            flags if outside && flags & ENCRYPTED != 0 => Some("the file is encrypted (EFS)"),
            flags if outside && !matches!(flags & COMPRESSED, 0 | LZNT1) => {
                Some("the file is compressed by an unknown method")
            }
            _ => None,
        };
        let content = match &first.body {
            Body::Resident(bytes) => Content::Resident(bytes.clone()),
            Body::Runs { len, initialized, unit, .. } => {
                let mut all: Vec<Run> = Vec::new();
                for piece in &pieces {
                    let Body::Runs { lowest, runs, .. } = &piece.body else {
                        return Err(damaged("an attribute is in the record and outside of it"));
                    };
                    if *lowest != all.last().map_or(0, Run::end) {
                        return Err(damaged("a piece of an attribute is missing"));
                    }
                    all.extend_from_slice(runs);
                }
                let unit = if first.flags & COMPRESSED == LZNT1 { *unit } else { 0 };
                Content::Clusters { runs: all, len: *len, initialized: *initialized, unit }
            }
        };
        Ok(Some(Self { content, closed }))
    }

    /// Bytes.
    pub(super) fn len(&self) -> u64 {
        match &self.content {
            Content::Resident(bytes) => u64::try_from(bytes.len()).unwrap_or(u64::MAX),
            Content::Clusters { len, .. } => *len,
        }
    }

    /// Fills `buf` from byte `at`, as far as the stream goes.
    pub(super) fn read(&self, disk: &Arc<dyn Disk>, cluster: u64, at: u64, buf: &mut [u8]) -> Result<usize> {
        if let Some(why) = self.closed {
            return Err(FsError::Unsupported(why.to_owned()));
        }
        let left = usize::try_from(self.len().saturating_sub(at)).unwrap_or(usize::MAX);
        let want = buf.len().min(left);
        let Some(buf) = buf.get_mut(..want) else { return Ok(0) };
        match &self.content {
            Content::Resident(bytes) => {
                let from = usize::try_from(at).unwrap_or(usize::MAX);
                let bytes = bytes.get(from..).unwrap_or_default();
                buf.copy_from_slice(bytes.get(..want).unwrap_or_default());
            }
            Content::Clusters { runs, initialized, unit: 0, .. } => {
                clusters(disk, cluster, runs, *initialized, at, buf)?;
            }
            Content::Clusters { runs, initialized, unit, .. } => {
                packed(disk, (cluster, *unit), runs, *initialized, at, buf)?;
            }
        }
        Ok(want)
    }

    /// All of it, when it is at most `limit` bytes long.
    pub(super) fn all(&self, disk: &Arc<dyn Disk>, cluster: u64, limit: u64) -> Result<Vec<u8>> {
        if self.len() > limit {
            return Err(FsError::TooLong { len: self.len(), limit });
        }
        let mut bytes = vec![0; usize::try_from(self.len()).unwrap_or(0)];
        self.read(disk, cluster, 0, &mut bytes)?;
        Ok(bytes)
    }
}

fn damaged(why: &str) -> FsError {
    FsError::Damaged(why.to_owned())
}

/// Fills `buf` from byte `at` of what lies in runs; holes and what was never written are zeros.
fn clusters(
    disk: &Arc<dyn Disk>,
    cluster: u64,
    runs: &[Run],
    initialized: u64,
    at: u64,
    buf: &mut [u8],
) -> Result<()> {
    buf.fill(0);
    let written = usize::try_from(initialized.saturating_sub(at)).unwrap_or(usize::MAX);
    let (mut at, mut rest) = (at, buf.get_mut(..written.min(buf.len())).unwrap_or_default());
    while !rest.is_empty() {
        let virtual_cluster = at.checked_div(cluster).unwrap_or(0);
        let inside = at.checked_rem(cluster).unwrap_or(0);
        let index = runs.partition_point(|run| run.end() <= virtual_cluster);
        let run = runs.get(index).ok_or_else(|| damaged("a file has fewer clusters than bytes"))?;
        let skipped = virtual_cluster.saturating_sub(run.first);
        let bytes = run.clusters.saturating_sub(skipped).saturating_mul(cluster).saturating_sub(inside);
        let len = rest.len().min(usize::try_from(bytes).unwrap_or(usize::MAX));
        let Some((target, behind)) = std::mem::take(&mut rest).split_at_mut_checked(len) else { break };
        if let Some(place) = run.at {
            let place = place.saturating_add(skipped).saturating_mul(cluster).saturating_add(inside);
            disk.read_guest(GuestOffset::new(place), target)?;
        }
        at = at.saturating_add(u64::try_from(len).unwrap_or(u64::MAX));
        rest = behind;
    }
    Ok(())
}

/// Fills `buf` from byte `at` of what is packed in units of clusters: a unit without holes is as it is, one without
/// clusters is zeros, any other begins with what is packed.
fn packed(
    disk: &Arc<dyn Disk>,
    (cluster, unit): (u64, u64),
    runs: &[Run],
    initialized: u64,
    at: u64,
    buf: &mut [u8],
) -> Result<()> {
    buf.fill(0);
    let size = cluster.saturating_mul(unit);
    if size == 0 || size > MAX_UNIT {
        return Err(damaged("a file is packed in units of no usual size"));
    }
    let written = usize::try_from(initialized.saturating_sub(at)).unwrap_or(usize::MAX);
    let (mut at, mut rest) = (at, buf.get_mut(..written.min(buf.len())).unwrap_or_default());
    let mut whole = vec![0; usize::try_from(size).unwrap_or(0)];
    while !rest.is_empty() {
        let start = at.checked_div(size).unwrap_or(0).saturating_mul(size);
        unpack(disk, (cluster, unit), runs, start, &mut whole)?;
        let inside = usize::try_from(at.saturating_sub(start)).unwrap_or(usize::MAX);
        let part = whole.get(inside..).unwrap_or_default();
        let len = part.len().min(rest.len());
        let Some((target, behind)) = std::mem::take(&mut rest).split_at_mut_checked(len) else { break };
        target.copy_from_slice(part.get(..len).unwrap_or_default());
        at = at.saturating_add(u64::try_from(len).unwrap_or(u64::MAX));
        rest = behind;
    }
    Ok(())
}

/// One unit, from byte `start` of its file.
fn unpack(
    disk: &Arc<dyn Disk>,
    (cluster, unit): (u64, u64),
    runs: &[Run],
    start: u64,
    whole: &mut [u8],
) -> Result<()> {
    let first = start.checked_div(cluster).unwrap_or(0);
    let index = runs.partition_point(|run| run.end() <= first);
    // Clusters in use before the first hole.
    let mut end = first;
    for run in runs.get(index..).unwrap_or_default() {
        if run.at.is_none() || run.first > end || end >= first.saturating_add(unit) {
            break;
        }
        end = run.end();
    }
    let used = end.saturating_sub(first).min(unit);
    if used == 0 {
        whole.fill(0);
        return Ok(());
    }
    if used == unit {
        return clusters(disk, cluster, runs, u64::MAX, start, whole);
    }
    let mut bytes = vec![0; usize::try_from(used.saturating_mul(cluster)).unwrap_or(0)];
    clusters(disk, cluster, runs, u64::MAX, start, &mut bytes)?;
    lznt1::unpack(&bytes, whole).ok_or_else(|| damaged("a compressed file is damaged"))
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU64;

    use kiln_disk::{Extent, ExtentKind};

    use super::*;

    /// Every byte is the number of its sector.
    struct Sectors;

    impl Disk for Sectors {
        fn disk_len(&self) -> u64 {
            100 << 10
        }
        fn read_guest(&self, at: GuestOffset, buf: &mut [u8]) -> kiln_disk::Result<()> {
            kiln_disk::check_range(at, buf.len(), self.disk_len())?;
            buf.iter_mut().zip(at.get()..).for_each(|(byte, at)| *byte = (at / 512) as u8);
            Ok(())
        }
        fn extent_at(&self, at: GuestOffset, limit: NonZeroU64) -> kiln_disk::Result<Extent> {
            Ok(Extent { start: at, len: limit, kind: ExtentKind::Encoded })
        }
    }

    fn piece(lowest: u64, runs: &[(u64, Option<u64>)], len: u64, initialized: u64) -> Attribute {
        let mut first = lowest;
        let runs = runs.iter().map(|(clusters, at)| {
            first += clusters;
            Run { first: first - clusters, clusters: *clusters, at: *at }
        });
        let body = Body::Runs { lowest, runs: runs.collect(), len, initialized, unit: 0 };
        Attribute { kind: 0x80, name: Vec::new(), flags: 0, body }
    }

    #[test]
    fn what_was_never_written_reads_as_zeros_and_pieces_are_joined() {
        let disk: Arc<dyn Disk> = Arc::new(Sectors);
        let (first, second) =
            (piece(0, &[(2, Some(10)), (1, None)], 2600, 2100), piece(3, &[(3, Some(20))], 0, 0));
        let stream = Stream::join(vec![&second, &first]).unwrap().unwrap();
        let all = stream.all(&disk, 512, 1 << 20).unwrap();
        let sectors: Vec<u8> = (0..2600).step_by(512).map(|at| all[at]).collect();
        assert_eq!((all.len(), sectors), (2600, vec![10, 11, 0, 20, 21, 0]));
        assert_eq!((all[2099], all[2100]), (21, 0));
        let mut part = [7; 4];
        assert_eq!(stream.read(&disk, 512, 2598, &mut part).unwrap(), 2);
        assert_eq!((part, stream.read(&disk, 512, 2600, &mut part).unwrap()), ([0, 0, 7, 7], 0));
        // A piece that is missing, one that comes twice, clusters that are too few.
        assert!(Stream::join(vec![&second]).is_err());
        assert!(Stream::join(vec![&first, &second, &second]).is_err());
        let short = piece(0, &[(1, Some(10))], 2600, 2600);
        assert!(Stream::join(vec![&short]).unwrap().unwrap().all(&disk, 512, 1 << 20).is_err());
        assert!(matches!(stream.all(&disk, 512, 100), Err(FsError::TooLong { len: 2600, limit: 100 })));
    }
}
