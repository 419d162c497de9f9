//! Reading and mapping: the [`Disk`] of an open image.

use std::num::NonZeroU64;
use std::sync::Arc;

use kiln_disk::{ByteSource, Disk, Extent, ExtentKind, FileOffset, GuestOffset, Result, check_range};

use super::codec;
use super::entry::Compressed;
use super::external::External;
use super::geometry::{as_bytes, in_memory};
use super::map::Stored;
use super::open::Qcow2Image;
use super::problem::Qcow2Problem;
use crate::encoded::{READ_AHEAD, Window};

/// Table entries that one answer of `extent_at` may cost. Where a backing file answers too, a short answer of the
/// one must not throw away a long look at the other.
const PATIENCE: u64 = 1 << 20;
/// The same over a backing file.
const PATIENCE_OVER_BACKING: u64 = 1 << 12;

impl Disk for Qcow2Image {
    fn disk_len(&self) -> u64 {
        self.disk_len
    }

    fn read_guest(&self, at: GuestOffset, buf: &mut [u8]) -> Result<()> {
        check_range(at, buf.len(), self.disk_len)?;
        let mut window = Window::default();
        let (mut at, mut rest) = (at.get(), buf);
        while !rest.is_empty() {
            let wanted = as_bytes(rest.len());
            let run = self.map.run_at(at, wanted, u64::MAX)?;
            let len = in_memory(run.len).min(rest.len());
            let Some((part, behind)) = rest.split_at_mut_checked(len) else { break };
            match run.stored {
                Stored::Zero => part.fill(0),
                Stored::Plain(start) => self.read_plain(at, start, part)?,
                Stored::Compressed { cluster, data } => {
                    self.read_compressed(at, cluster, data, part, wanted, &mut window)?;
                }
                Stored::Unallocated => self.read_backing(at, part)?,
            }
            at = at.saturating_add(run.len);
            rest = behind;
        }
        Ok(())
    }

    fn extent_at(&self, at: GuestOffset, limit: NonZeroU64) -> Result<Extent> {
        check_range(at, 1, self.disk_len)?;
        let most = limit.get().min(self.disk_len.saturating_sub(at.get()));
        let patience = match self.backing {
            External::None => PATIENCE,
            External::Open(_) | External::Denied { .. } => PATIENCE_OVER_BACKING,
        };
        let run = self.map.run_at(at.get(), most, patience)?;
        let len = NonZeroU64::new(run.len).unwrap_or(NonZeroU64::MIN);
        let kind = match run.stored {
            Stored::Zero => ExtentKind::Zero,
            Stored::Plain(start) => self.data_extent(at.get(), start, run.len)?,
            Stored::Compressed { .. } => ExtentKind::Encoded,
            Stored::Unallocated => return self.backing_extent(at, len),
        };
        Ok(Extent { start: at, len, kind })
    }
}

impl Qcow2Image {
    /// The file that holds plain clusters.
    ///
    /// # Errors
    /// `reference.denied` for a data file that the resolver did not give.
    fn data_source(&self) -> Result<&Arc<dyn ByteSource>> {
        Ok(self.data_file.get()?.unwrap_or(&self.source))
    }

    fn data_extent(&self, at: u64, start: u64, len: u64) -> Result<ExtentKind> {
        let (file, source) = match self.data_file.get()? {
            None => (0, &self.source),
            Some(source) => (1, source),
        };
        self.confirm_inside(at, start, len, source)?;
        Ok(ExtentKind::Data { file, at: FileOffset::new(start) })
    }

    /// Guest data must be in the file to its last byte: a missing tail is a file cut short, not zeros.
    fn confirm_inside(&self, at: u64, start: u64, len: u64, source: &Arc<dyn ByteSource>) -> Result<()> {
        let file_len = source.byte_len();
        if start.checked_add(len).is_some_and(|end| end <= file_len) {
            return Ok(());
        }
        // The first byte of the run that is not there.
        let present = file_len.saturating_sub(start);
        let (guest, start) = (at.saturating_add(present), start.saturating_add(present));
        Err(self.map.entry_error(guest, Qcow2Problem::DataPastEnd { guest, start, file_len }))
    }

    fn read_plain(&self, at: u64, start: u64, part: &mut [u8]) -> Result<()> {
        let source = self.data_source()?;
        self.confirm_inside(at, start, as_bytes(part.len()), source)?;
        source.read_bytes(FileOffset::new(start), part)
    }

    /// Reads from the backing file; past its end and without one, zeros.
    fn read_backing(&self, at: u64, part: &mut [u8]) -> Result<()> {
        let Some(backing) = self.backing.get()? else {
            part.fill(0);
            return Ok(());
        };
        let there = in_memory(backing.disk_len().saturating_sub(at)).min(part.len());
        let (present, past) = part.split_at_mut_checked(there).unwrap_or_default();
        past.fill(0);
        if present.is_empty() { Ok(()) } else { backing.read_guest(GuestOffset::new(at), present) }
    }

    fn backing_extent(&self, at: GuestOffset, len: NonZeroU64) -> Result<Extent> {
        let hole = |len| Extent { start: at, len, kind: ExtentKind::Hole };
        let Some(backing) = self.backing.get()? else { return Ok(hole(len)) };
        let Some(there) = NonZeroU64::new(backing.disk_len().saturating_sub(at.get())) else {
            return Ok(hole(len));
        };
        let mut extent = backing.extent_at(at, len.min(there))?;
        if let ExtentKind::Data { file, .. } = &mut extent.kind {
            let above = if matches!(self.data_file, External::None) { 1 } else { 2 };
            *file = file.saturating_add(above);
        }
        Ok(extent)
    }

    /// Reads `part` of the compressed cluster that starts at guest byte `cluster`. `wanted` is how many bytes the
    /// whole read still wants, which is worth a larger read of the file.
    fn read_compressed(
        &self,
        at: u64,
        cluster: u64,
        data: Compressed,
        part: &mut [u8],
        wanted: u64,
        window: &mut Window,
    ) -> Result<()> {
        let cluster_len = in_memory(self.header.geometry.cluster_len());
        if part.len() == cluster_len {
            return self.decode_cluster(cluster, data, part, wanted, window);
        }
        let decoded = match self.decoded.get(data.at) {
            Some(decoded) => decoded,
            None => {
                let mut whole = vec![0; cluster_len];
                self.decode_cluster(cluster, data, &mut whole, wanted, window)?;
                let whole = Arc::from(whole);
                self.decoded.put(data.at, &whole);
                whole
            }
        };
        let offset = in_memory(at.saturating_sub(cluster));
        let there = offset.checked_add(part.len()).and_then(|end| decoded.get(offset..end));
        if let Some(there) = there {
            part.copy_from_slice(there);
        }
        Ok(())
    }

    fn decode_cluster(
        &self,
        cluster: u64,
        data: Compressed,
        out: &mut [u8],
        wanted: u64,
        window: &mut Window,
    ) -> Result<()> {
        let file_len = self.source.byte_len();
        // The last sector may be cut off at the end of the file, the data may not be.
        let len = data.len.min(file_len.saturating_sub(data.at));
        if len == 0 {
            let problem = Qcow2Problem::DataPastEnd { guest: cluster, start: data.at, file_len };
            return Err(self.map.entry_error(cluster, problem));
        }
        let cluster_len = as_bytes(out.len());
        let ahead = if wanted > cluster_len { READ_AHEAD.min(wanted) } else { 0 };
        let bytes = window.bytes(self.source.as_ref(), data.at, len, ahead)?;
        codec::decode(self.compression, bytes, out).map_err(|why| {
            let problem = if len < data.len {
                Qcow2Problem::DataPastEnd { guest: cluster, start: data.at, file_len }
            } else {
                Qcow2Problem::CompressedBad { guest: cluster, cluster_len, why }
            };
            self.map.entry_error(cluster, problem)
        })
    }
}
