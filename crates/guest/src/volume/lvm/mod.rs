//! LVM2: labels, metadata areas, the text in them, and logical volumes as disks.
//!
//! Sources: lvm2's `lib/format_text/layout.h`, `lib/label/label.h`, `import_vsn1.c`.

#[cfg(test)]
mod tests;
mod text;

use std::num::NonZeroU64;
use std::sync::Arc;

use kiln_disk::wire::{bytes, crc32, le32, le64};
use kiln_disk::{Disk, Error, Extent, ExtentKind, GuestOffset, Result, check_range};
use serde::{Deserialize, Serialize};

pub use text::{Node, TextFault, Value, parse};

/// Metadata texts are read up to this length: sixteen times what a large group needs.
const MAX_TEXT: u64 = 16 << 20;
const SECTOR: u64 = 512;
/// CRC-32 of LVM2 starts from this and is not inverted (`lib/misc/crc.c`).
const CRC_SEED: u32 = 0xf597_a6cf;

/// A volume group.
#[derive(Clone, Serialize, Deserialize)]
pub struct Group {
    /// Its name.
    pub name: String,
    /// Its id.
    pub uuid: String,
    /// Physical volumes that it names, and whether each is there.
    pub physical: Vec<Physical>,
    /// Its volumes that can be read, or cannot and why.
    pub volumes: Vec<Logical>,
}

/// A physical volume as the group names it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Physical {
    /// Its id.
    pub uuid: String,
    /// The device it was on when the text was written.
    pub device: String,
    /// Whether it is among the disks at hand.
    pub present: bool,
}

/// A logical volume.
#[derive(Clone, Serialize, Deserialize)]
pub struct Logical {
    /// Its name.
    pub name: String,
    /// Length in bytes.
    pub len: u64,
    /// Why it cannot be read; empty when it can.
    pub unsupported: String,
    #[serde(skip)]
    pieces: Vec<Piece>,
}

/// A run of a logical volume: `stripes` in turn, `stripe_len` bytes of each.
#[derive(Clone)]
struct Piece {
    start: u64,
    len: u64,
    stripe_len: u64,
    stripes: Vec<(Arc<dyn Disk>, u64)>,
}

/// An id of 32 characters with LVM's dashes: 6-4-4-4-4-4-6.
#[must_use]
pub fn dashed(id: &str) -> String {
    let mut text = String::with_capacity(38);
    for (index, letter) in id.chars().enumerate() {
        if matches!(index, 6 | 10 | 14 | 18 | 22 | 26) {
            text.push('-');
        }
        text.push(letter);
    }
    text
}

/// A physical volume that was read.
struct Member {
    uuid: String,
    disk: Arc<dyn Disk>,
    text: Option<Vec<u8>>,
}

/// Reads the groups on the physical volumes, and tells what could not be read.
///
/// # Errors
/// I/O, and a budget that is used up.
pub fn groups(disks: &[Arc<dyn Disk>]) -> Result<(Vec<Group>, Vec<String>)> {
    let (mut members, mut problems) = (Vec::new(), Vec::new());
    for disk in disks {
        match member(disk)? {
            Ok(member) => members.push(member),
            Err(problem) => problems.push(problem),
        }
    }
    let mut newest: Vec<(u64, String, Group)> = Vec::new();
    for text in members.iter().filter_map(|member| member.text.as_deref()) {
        match parse(text).map_err(|fault| fault.to_string()).and_then(|root| group(&root, &members)) {
            // Every copy says the same, except after a crash: the highest sequence number counts.
            Ok((sequence, group)) => match newest.iter_mut().find(|(_, uuid, _)| *uuid == group.uuid) {
                Some(known) if known.0 < sequence => *known = (sequence, group.uuid.clone(), group),
                Some(_) => {}
                None => newest.push((sequence, group.uuid.clone(), group)),
            },
            Err(problem) => problems.push(format!("LVM metadata: {problem}")),
        }
    }
    Ok((newest.into_iter().map(|(_, _, group)| group).collect(), problems))
}

fn member(disk: &Arc<dyn Disk>) -> Result<Result<Member, String>> {
    let head = read(disk.as_ref(), 0, 4 * SECTOR)?.unwrap_or_default();
    let sectors = head.chunks_exact(512);
    let Some(label) = sectors.into_iter().find(|sector| sector.starts_with(b"LABELONE")) else {
        return Ok(Err("LVM label: there is none".to_owned()));
    };
    let stored = le32(label, 16).unwrap_or(0);
    if crc32(label.get(20..).unwrap_or_default(), CRC_SEED, 0) != stored {
        return Ok(Err("LVM label: its checksum does not hold".to_owned()));
    }
    let at = le32(label, 20).and_then(|at| usize::try_from(at).ok()).unwrap_or(usize::MAX);
    let header = label.get(at..).unwrap_or_default();
    let uuid = dashed(&crate::text::label(header.get(..32).unwrap_or_default()));
    // Data areas and metadata areas: two lists of offset and size, each ended by zeros.
    let mut areas = header.get(40..).unwrap_or_default().chunks_exact(16);
    let pair = |entry: &[u8]| Some((le64(entry, 0)?, le64(entry, 8)?));
    let data = areas.by_ref().filter_map(pair).take_while(|area| *area != (0, 0)).count();
    let _ = data;
    let metadata: Vec<(u64, u64)> =
        areas.filter_map(pair).take_while(|area| *area != (0, 0)).take(4).collect();
    let mut text = None;
    for (start, len) in metadata {
        if text.is_none() {
            text = area_text(disk.as_ref(), start, len)?;
        }
    }
    Ok(Ok(Member { uuid, disk: Arc::clone(disk), text }))
}

/// The live text of one metadata area, a ring whose first sector says where it is.
fn area_text(disk: &dyn Disk, start: u64, len: u64) -> Result<Option<Vec<u8>>> {
    let Some(header) = read(disk, start, SECTOR)? else { return Ok(None) };
    if bytes::<16>(&header, 4) != Some(*b" LVM2 x[5A%r0N*>") {
        return Ok(None);
    }
    let fields = (le64(&header, 40), le64(&header, 48), le32(&header, 56));
    let (Some(offset), Some(size), Some(stored)) = fields else { return Ok(None) };
    if offset < SECTOR || offset >= len || size == 0 || size > len.saturating_sub(SECTOR) || size > MAX_TEXT {
        return Ok(None);
    }
    let first = size.min(len.saturating_sub(offset));
    let Some(mut text) = read(disk, start.saturating_add(offset), first)? else { return Ok(None) };
    // What passes the end goes on behind the header.
    if let Some(rest) = size.checked_sub(first).filter(|rest| *rest > 0) {
        let Some(wrapped) = read(disk, start.saturating_add(SECTOR), rest)? else { return Ok(None) };
        text.extend_from_slice(&wrapped);
    }
    Ok((crc32(&text, CRC_SEED, 0) == stored).then_some(text))
}

/// Makes a group of a parsed text.
fn group(root: &Node, members: &[Member]) -> Result<(u64, Group), String> {
    let (name, body) = root.sections().next().ok_or("the text names no group")?;
    let sequence = body.number("seqno").unwrap_or(0);
    let extent =
        body.number("extent_size").and_then(|size| size.checked_mul(SECTOR)).filter(|size| *size > 0);
    let extent = extent.ok_or("extent_size is missing")?;
    let (mut physical, mut by_name) = (Vec::new(), Vec::new());
    for (key, section) in body.section("physical_volumes").map(Node::sections).into_iter().flatten() {
        let uuid = section.text("id").unwrap_or_default().to_owned();
        let at = section.number("pe_start").and_then(|start| start.checked_mul(SECTOR));
        let member = members.iter().find(|member| member.uuid == uuid);
        physical.push(Physical {
            uuid,
            device: section.text("device").unwrap_or_default().to_owned(),
            present: member.is_some(),
        });
        by_name.push((key, member.map(|member| Arc::clone(&member.disk)), at));
    }
    let resolve = |name: &str, first: u64| -> Result<(Arc<dyn Disk>, u64), String> {
        let known = by_name.iter().find(|(key, ..)| *key == name);
        let (_, disk, start) = known.ok_or_else(|| format!("is built on {name}, another logical volume"))?;
        let disk = disk.clone().ok_or_else(|| format!("lies on {name}, which is not here"))?;
        let at = first.checked_mul(extent).and_then(|at| start.as_ref().copied()?.checked_add(at));
        at.map(|at| (disk, at)).ok_or_else(|| "its place cannot be".to_owned())
    };
    let mut volumes = Vec::new();
    for (name, section) in body.section("logical_volumes").map(Node::sections).into_iter().flatten() {
        let visible = section.list("status").iter().any(|flag| flag.as_text() == Some("VISIBLE"));
        let (mut len, mut pieces, mut unsupported) = (0_u64, Vec::new(), String::new());
        for (_, segment) in section.sections().filter(|(key, _)| key.starts_with("segment")) {
            let start = segment.number("start_extent").unwrap_or(0).saturating_mul(extent);
            let size = segment.number("extent_count").unwrap_or(0).saturating_mul(extent);
            len = len.max(start.saturating_add(size));
            match piece(segment, start, size, &resolve) {
                Ok(piece) => pieces.push(piece),
                Err(why) => unsupported = why,
            }
        }
        if visible {
            volumes.push(Logical { name: name.to_owned(), len, unsupported, pieces });
        }
    }
    let uuid = body.text("id").unwrap_or_default().to_owned();
    Ok((sequence, Group { name: name.to_owned(), uuid, physical, volumes }))
}

fn piece(
    segment: &Node,
    start: u64,
    len: u64,
    resolve: &impl Fn(&str, u64) -> Result<(Arc<dyn Disk>, u64), String>,
) -> Result<Piece, String> {
    let kind = segment.text("type").unwrap_or_default();
    if kind != "striped" {
        return Err(format!("is of type {kind}"));
    }
    let count = segment.number("stripe_count").unwrap_or(0);
    let stripe_len = segment.number("stripe_size").unwrap_or(0).saturating_mul(SECTOR);
    let list = segment.list("stripes");
    let mut stripes = Vec::new();
    for pair in list.chunks_exact(2) {
        let [name, first] = pair else { break };
        let (Some(name), Some(first)) = (name.as_text(), first.as_number()) else {
            return Err("names its stripes in a way that cannot be".to_owned());
        };
        stripes.push(resolve(name, first)?);
    }
    let even = u64::try_from(stripes.len()).is_ok_and(|found| found == count && count > 0);
    let whole =
        stripes.len() == 1 || (stripe_len > 0 && len.is_multiple_of(stripe_len.saturating_mul(count)));
    if !even || !whole {
        return Err("has stripes that do not fill it".to_owned());
    }
    Ok(Piece { start, len, stripe_len: if stripes.len() == 1 { len.max(1) } else { stripe_len }, stripes })
}

/// A logical volume as a disk.
pub struct LogicalDisk {
    len: u64,
    pieces: Vec<Piece>,
}

impl LogicalDisk {
    /// The disk of a volume that can be read whole.
    #[must_use]
    pub fn open(volume: &Logical) -> Option<Self> {
        let mut pieces = volume.pieces.clone();
        pieces.sort_by_key(|piece| piece.start);
        let mut at = 0_u64;
        for piece in &pieces {
            if piece.start != at {
                return None;
            }
            at = at.saturating_add(piece.len);
        }
        (volume.unsupported.is_empty() && at == volume.len && at > 0).then_some(Self { len: at, pieces })
    }

    /// The disk and byte behind `at`, and how many bytes follow there in one run.
    fn place(&self, at: u64) -> Option<(&Arc<dyn Disk>, u64, u64)> {
        let piece = self
            .pieces
            .iter()
            .find(|piece| at >= piece.start && at < piece.start.saturating_add(piece.len))?;
        let inside = at.checked_sub(piece.start)?;
        let (stripe, offset) = (inside.checked_div(piece.stripe_len)?, inside.checked_rem(piece.stripe_len)?);
        let count = u64::try_from(piece.stripes.len()).ok()?;
        let (row, column) = (stripe.checked_div(count)?, stripe.checked_rem(count)?);
        let (disk, base) = piece.stripes.get(usize::try_from(column).ok()?)?;
        let place = base.checked_add(row.checked_mul(piece.stripe_len)?)?.checked_add(offset)?;
        let run = piece.stripe_len.checked_sub(offset)?.min(piece.len.checked_sub(inside)?);
        Some((disk, place, run))
    }
}

impl Disk for LogicalDisk {
    fn disk_len(&self) -> u64 {
        self.len
    }

    fn read_guest(&self, at: GuestOffset, buf: &mut [u8]) -> Result<()> {
        check_range(at, buf.len(), self.len)?;
        let (mut at, mut rest) = (at.get(), buf);
        while !rest.is_empty() {
            let Some((disk, place, run)) = self.place(at) else { break };
            let len = usize::try_from(run).unwrap_or(usize::MAX).min(rest.len());
            let Some((now, behind)) = rest.split_at_mut_checked(len) else { break };
            disk.read_guest(GuestOffset::new(place), now)?;
            at = at.saturating_add(u64::try_from(len).unwrap_or(0));
            rest = behind;
        }
        Ok(())
    }

    fn extent_at(&self, at: GuestOffset, limit: NonZeroU64) -> Result<Extent> {
        check_range(at, 1, self.len)?;
        let whole = Extent { start: at, len: NonZeroU64::MIN, kind: ExtentKind::Encoded };
        let Some((disk, place, run)) = self.place(at.get()) else { return Ok(whole) };
        let Some(limit) = NonZeroU64::new(limit.get().min(run)) else { return Ok(whole) };
        let extent = disk.extent_at(GuestOffset::new(place), limit)?;
        Ok(Extent { start: at, ..extent })
    }
}

fn read(disk: &dyn Disk, at: u64, len: u64) -> Result<Option<Vec<u8>>> {
    if at.checked_add(len).is_none_or(|end| end > disk.disk_len()) {
        return Ok(None);
    }
    let mut buf = vec![0; usize::try_from(len).unwrap_or(0)];
    match disk.read_guest(GuestOffset::new(at), &mut buf) {
        Ok(()) => Ok(Some(buf)),
        Err(error @ (Error::Io { .. } | Error::Cancelled)) => Err(error),
        Err(error) if error.code().starts_with("budget.") => Err(error),
        Err(_) => Ok(None),
    }
}
