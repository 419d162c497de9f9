//! A streamOptimized disk read as the stream that it is: markers in order, the tables that came with them at the end.
//!
//! VMware, "Virtual Disk Format 5.0", "Stream-Optimized Compressed Sparse Extents". Whoever reads by the tables and
//! whoever reads by the markers must see one disk: every table, the directory and the footer are held against what
//! went by, and a file in which they differ is refused.

use std::collections::{BTreeMap, VecDeque};

use kiln_disk::{Error, FileOffset, Result, zero};

use super::FORMAT;
use super::codec;
use super::descriptor::{Descriptor, Place};
use super::header::{GD_AT_END, HEADER_LEN, Header, MARKER_LEN, SECTOR, flag, marker, read_marker};
use super::problem::VmdkProblem;
use crate::facts::Facts;
use crate::wire::{as_bytes, bytes, in_memory, le32};
use crate::wrap::{ByteStream, Input};

/// Grains of the largest disk that is read in this way: their places take 32 MiB of memory. With the usual grains of
/// 64 KiB that is a disk of 512 GiB.
const MAX_GRAINS: u64 = 8 << 20;
/// The last grain table's grains are at most this far into the file: positions have 32 bits.
const MAX_SECTOR: u64 = 0xffff_ffff;
/// Bytes of compressed grains: as in [`super::open`].
const MAX_GRAIN_SECTORS: u64 = 4096;
/// Most bytes before the first grain.
const MAX_OVER_HEAD: u64 = 64 << 20;

/// Hears of a run of the stream: first byte, the byte behind.
pub(crate) type Passed = Box<dyn Fn(u64, u64) + Send>;

/// A look at the end of a file goes this far back, and a little further.
const HELD: u64 = 2 << 20;

/// What the beginning of a file says of the stream that it may be.
pub(crate) struct Plan {
    header: Header,
    facts: Facts,
}

impl Plan {
    /// Reads header and descriptor; `None` when the file is better read by its tables, or is something else, or is
    /// wrong in a way that a reader with all of the file will name.
    pub(crate) fn read(head: &[u8]) -> Option<Self> {
        let header = Header::read(head.first_chunk::<HEADER_LEN>()?)?;
        let usable = (1..=3).contains(&header.version)
            && header.fault().is_none()
            && header.doubt().is_none()
            && header.is_compressed()
            && header.has(flag::MARKERS)
            && header.gd_offset == GD_AT_END
            && header.grain_size <= MAX_GRAIN_SECTORS
            && header.capacity.div_ceil(header.grain_size.max(1)) <= MAX_GRAINS;
        let start = header.descriptor_offset.checked_mul(SECTOR)?;
        let end = header.descriptor_size.checked_mul(SECTOR)?.checked_add(start)?;
        let first = header.over_head.checked_mul(SECTOR)?;
        if !usable || start < SECTOR || first < end || first > MAX_OVER_HEAD {
            return None;
        }
        let text = head.get(in_memory(start)..in_memory(end))?;
        let descriptor = Descriptor::parse(text, FileOffset::new(start), Place::Embedded).ok()?;
        let [line] = descriptor.extents.as_slice() else { return None };
        if descriptor.has_parent() || line.sectors != header.capacity {
            return None;
        }
        let facts = Facts {
            format: FORMAT.id,
            variant: descriptor.create_type.as_str().to_owned(),
            unit_bytes: header.grain_size.checked_mul(SECTOR),
            compression: Some("zlib"),
            ..Facts::raw(header.capacity.checked_mul(SECTOR)?)
        };
        Some(Self { header, facts })
    }

    /// What it says.
    pub(crate) const fn facts(&self) -> &Facts {
        &self.facts
    }

    /// The disk in `stream`, which begins with the bytes that the plan was made from.
    pub(crate) fn open(self, stream: Box<dyn ByteStream>) -> Box<dyn ByteStream> {
        self.open_watched(stream, None)
    }

    /// The same; `passed` is told which bytes of the stream were a grain that nobody needs again: all but those at
    /// the end, where whoever opens the file looks.
    pub(crate) fn open_watched(
        self,
        stream: Box<dyn ByteStream>,
        passed: Option<Passed>,
    ) -> Box<dyn ByteStream> {
        let header = self.header;
        let grain_len = header.grain_size.saturating_mul(SECTOR);
        let disk_len = header.capacity.saturating_mul(SECTOR);
        Box::new(Streamed {
            input: Input::new(stream),
            at: 0,
            grain: None,
            buffer: vec![0; in_memory(grain_len)],
            packed: Vec::new(),
            grain_len,
            disk_len,
            places: vec![0; in_memory(disk_len.div_ceil(grain_len.max(1)))],
            tables: BTreeMap::new(),
            directory: None,
            footer: None,
            last: None,
            began: false,
            ended: false,
            passed,
            held: VecDeque::new(),
            header,
        })
    }
}

struct Streamed {
    input: Input,
    header: Header,
    grain_len: u64,
    disk_len: u64,
    /// Next byte of the disk to give.
    at: u64,
    /// First byte of the grain in `buffer`.
    grain: Option<u64>,
    buffer: Vec<u8>,
    packed: Vec<u8>,
    /// The sector of every grain that went by; 0 for none.
    places: Vec<u32>,
    /// Grain tables by the sector where they are.
    tables: BTreeMap<u32, Vec<u8>>,
    /// The directory and the sector where it is.
    directory: Option<(u64, Vec<u8>)>,
    footer: Option<Header>,
    last: Option<u64>,
    began: bool,
    ended: bool,
    passed: Option<Passed>,
    /// Where the grains are that went by lately and were not told to `passed` yet.
    held: VecDeque<(u64, u64)>,
}

impl Streamed {
    fn cut(&self) -> Error {
        Error::malformed("footer", self.input.at(), VmdkProblem::FooterMissing)
    }

    /// Goes on to the next grain, or to the end of the stream, where everything is compared.
    fn advance(&mut self) -> Result<()> {
        self.grain = None;
        if !self.began {
            self.began = true;
            self.skip(self.header.over_head.saturating_mul(SECTOR))?;
        }
        while !self.ended && self.grain.is_none() {
            let at = self.input.at();
            let ahead = self.input.look(in_memory(SECTOR))?;
            if ahead.len() < in_memory(SECTOR) {
                return Err(self.cut());
            }
            let (value, size) = read_marker(ahead).unwrap_or((0, 0));
            let kind = le32(ahead, MARKER_LEN).unwrap_or(0);
            match (size, kind) {
                (1.., _) => self.read_grain(at, value, size)?,
                (0, marker::END_OF_STREAM) if value == 0 => self.finish()?,
                (0, marker::GRAIN_TABLE) => {
                    let len = u64::from(self.header.num_gtes_per_gt).saturating_mul(4);
                    let (sector, body) = self.metadata(at, value, len)?;
                    let sector = u32::try_from(sector).map_err(|_| self.layout("grain table"))?;
                    self.tables.insert(sector, body);
                }
                (0, marker::GRAIN_DIRECTORY) => {
                    let len = self.table_count().saturating_mul(4);
                    self.directory = Some(self.metadata(at, value, len)?);
                }
                (0, marker::FOOTER) => {
                    let (sector, body) = self.metadata(at, value, as_bytes(HEADER_LEN))?;
                    let footer = body.first_chunk::<HEADER_LEN>().and_then(Header::read);
                    let place = FileOffset::new(sector.saturating_mul(SECTOR));
                    let footer = footer
                        .ok_or_else(|| Error::malformed("footer", place, VmdkProblem::FooterMissing))?;
                    if let Some(field) = self.header.differs_from(&footer) {
                        return Err(Error::malformed("footer", place, VmdkProblem::FooterDiffers { field }));
                    }
                    self.footer = Some(footer);
                }
                _ => return Err(self.layout("unknown marker")),
            }
        }
        Ok(())
    }

    fn table_count(&self) -> u64 {
        as_bytes(self.places.len()).div_ceil(u64::from(self.header.num_gtes_per_gt).max(1))
    }

    /// A stream in an order that only a reader with all of the file understands.
    fn layout(&self, what: &str) -> Error {
        Error::Refused {
            code: "stream.layout",
            what: format!("reading on behind the {what} at byte {}", self.input.at().get()),
            asked: 0,
            allowed: 0,
            hint: "give the disk as a file, which is read by its tables",
        }
    }

    fn skip(&mut self, len: u64) -> Result<()> {
        let mut left = len;
        while left > 0 {
            let ready = as_bytes(self.input.fill()?.len());
            if ready == 0 {
                return Err(self.cut());
            }
            let step = ready.min(left);
            self.input.consume(in_memory(step));
            left = left.saturating_sub(step);
        }
        Ok(())
    }

    /// Takes `len` bytes into `packed`.
    fn take(&mut self, len: u64) -> Result<()> {
        self.packed.clear();
        while as_bytes(self.packed.len()) < len {
            let left = in_memory(len).saturating_sub(self.packed.len());
            let ready = self.input.fill()?;
            if ready.is_empty() {
                return Err(self.cut());
            }
            let part = ready.get(..ready.len().min(left)).unwrap_or_default();
            self.packed.extend_from_slice(part);
            let taken = part.len();
            self.input.consume(taken);
        }
        Ok(())
    }

    /// What a marker of metadata announces: its sector, and its first `len` bytes.
    fn metadata(&mut self, at: FileOffset, sectors: u64, len: u64) -> Result<(u64, Vec<u8>)> {
        if sectors != len.div_ceil(SECTOR) {
            return Err(self.layout("metadata of unexpected length"));
        }
        self.skip(SECTOR)?;
        self.take(sectors.saturating_mul(SECTOR))?;
        let mut body = self.packed.clone();
        body.truncate(in_memory(len));
        Ok(((at.get() / SECTOR).saturating_add(1), body))
    }

    fn read_grain(&mut self, at: FileOffset, lba: u64, size: u32) -> Result<()> {
        let grain = lba.checked_div(self.header.grain_size).unwrap_or(0);
        let start = lba.saturating_mul(SECTOR);
        let bad = |problem| Error::malformed("grain marker", at, problem);
        if lba.checked_rem(self.header.grain_size) != Some(0) || start >= self.disk_len {
            let expected = grain.saturating_mul(self.header.grain_size);
            return Err(bad(VmdkProblem::Marker { grain, expected, found: lba }));
        }
        if u64::from(size) > self.grain_len.saturating_mul(2).saturating_add(SECTOR) {
            return Err(bad(VmdkProblem::MarkerSize { grain, size }));
        }
        if self.last.is_some_and(|last| grain <= last) || at.get() / SECTOR > MAX_SECTOR {
            return Err(self.layout("grain before its place"));
        }
        self.skip(as_bytes(MARKER_LEN))?;
        self.take(size.into())?;
        let padding = as_bytes(MARKER_LEN).saturating_add(size.into());
        self.skip(padding.next_multiple_of(SECTOR).saturating_sub(padding))?;
        let decoded = codec::decode(&self.packed, &mut self.buffer)
            .map_err(|why| bad(VmdkProblem::Decode { grain, why }))?;
        let used = self.disk_len.saturating_sub(start).min(self.grain_len);
        if as_bytes(decoded) < used {
            return Err(bad(VmdkProblem::Decode { grain, why: "it gives less than a grain" }));
        }
        if let Some(place) = self.places.get_mut(in_memory(grain)) {
            *place = u32::try_from(at.get() / SECTOR).unwrap_or(u32::MAX);
        }
        if let Some(passed) = &self.passed {
            let here = self.input.at().get();
            self.held.push_back((at.get(), here));
            while let Some((from, to)) = self.held.front().copied() {
                if to.saturating_add(HELD) > here {
                    break;
                }
                self.held.pop_front();
                passed(from, to);
            }
        }
        self.last = Some(grain);
        self.grain = Some(start);
        Ok(())
    }

    /// The end of the stream: directory, tables and markers must tell of the same grains.
    fn finish(&mut self) -> Result<()> {
        let at = self.input.at();
        let (Some(footer), Some((sector, directory))) = (&self.footer, &self.directory) else {
            return Err(self.cut());
        };
        let differs = |grain: u64| Error::malformed("grain table", at, VmdkProblem::StreamDiffers { grain });
        if footer.gd_offset != *sector {
            return Err(differs(0));
        }
        let per_table = in_memory(self.header.num_gtes_per_gt.into()).max(1);
        let mut grain = 0_u64;
        let mut used = 0_usize;
        for (places, entry) in self.places.chunks(per_table).zip(directory.chunks_exact(4)) {
            let table = match u32::from_le_bytes(bytes(entry, 0).unwrap_or_default()) {
                0 => &[][..],
                sector => {
                    used = used.saturating_add(1);
                    self.tables.get(&sector).map(Vec::as_slice).ok_or_else(|| differs(grain))?
                }
            };
            for (index, place) in places.iter().enumerate() {
                let listed = le32(table, index.saturating_mul(4)).unwrap_or(0);
                let listed = if listed == 1 && self.header.has(flag::ZERO_GRAIN) { 0 } else { listed };
                if listed != *place {
                    return Err(differs(grain.saturating_add(as_bytes(index))));
                }
            }
            grain = grain.saturating_add(as_bytes(places.len()));
        }
        // A table that the directory names twice, or not at all, is somebody's second disk.
        if used != self.tables.len() {
            return Err(differs(grain));
        }
        loop {
            let ready = self.input.fill()?;
            if ready.is_empty() {
                break;
            }
            if !zero::is_zero(ready) {
                return Err(Error::malformed("footer", at, VmdkProblem::FooterMissing));
            }
            let len = ready.len();
            self.input.consume(len);
        }
        self.ended = true;
        Ok(())
    }

    /// Where the zeros that begin at `self.at` end.
    fn next_data(&mut self) -> Result<u64> {
        // A last grain may reach behind the disk; the end of the stream comes after it all the same.
        let behind = |start: u64, this: &Self| {
            this.at >= this.disk_len || start.saturating_add(this.grain_len) <= this.at
        };
        while !self.ended && self.grain.is_none_or(|start| behind(start, self)) {
            self.advance()?;
        }
        Ok(self.grain.map_or(self.disk_len, |start| start.max(self.at)))
    }
}

impl ByteStream for Streamed {
    fn read_some(&mut self, buf: &mut [u8]) -> Result<usize> {
        if buf.is_empty() {
            return Ok(0);
        }
        let data = self.next_data()?;
        if self.at >= self.disk_len {
            return Ok(0);
        }
        let len = if data > self.at {
            let len = in_memory(data.saturating_sub(self.at)).min(buf.len());
            buf.get_mut(..len).unwrap_or_default().fill(0);
            len
        } else {
            let start = self.grain.unwrap_or(self.at);
            let end = start.saturating_add(self.grain_len).min(self.disk_len);
            let from = in_memory(self.at.saturating_sub(start));
            let part = self.buffer.get(from..in_memory(end.saturating_sub(start))).unwrap_or_default();
            let len = part.len().min(buf.len());
            buf.get_mut(..len).unwrap_or_default().copy_from_slice(part.get(..len).unwrap_or_default());
            len
        };
        self.at = self.at.saturating_add(as_bytes(len));
        Ok(len)
    }

    fn skip_zeros(&mut self, unit: u64) -> Result<u64> {
        let zeros = self.next_data()?.saturating_sub(self.at);
        let len = zeros.saturating_sub(zeros.checked_rem(unit).unwrap_or(zeros));
        self.at = self.at.saturating_add(len);
        Ok(len)
    }
}
