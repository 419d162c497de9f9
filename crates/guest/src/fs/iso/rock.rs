//! What the system use area of a record says: SUSP 1.12 and Rock Ridge (RRIP 1.12).

use std::sync::Arc;

use kiln_disk::Disk;
use kiln_disk::wire::le32;

use super::super::{FsError, Result};
use super::volume::read;

/// Continuation areas of one record that are followed, and their bytes in all.
const MAX_AREAS: u32 = 32;
const MAX_AREA: u64 = 64 << 10;
/// The longest name.
const MAX_NAME: usize = 1024;

/// Rock Ridge of one record.
#[derive(Debug, Default)]
pub(super) struct Rock {
    pub(super) name: Option<Vec<u8>>,
    pub(super) mode: Option<u32>,
    pub(super) uid: Option<u32>,
    pub(super) link: Option<Vec<u8>>,
    /// The block of the directory that was moved away from here (`CL`).
    pub(super) child: Option<u32>,
    /// It was moved here, and is seen elsewhere (`RE`).
    pub(super) relocated: bool,
    /// Its bytes are packed (`ZF`, zisofs); their length unpacked.
    pub(super) packed: Option<u32>,
    /// It has holes (`SF`).
    pub(super) sparse: bool,
    /// There is an `ER`: an extension is in use.
    pub(super) extension: bool,
    /// The last component of the link goes on in the next entry.
    open_component: bool,
}

/// Where continuation areas are read from, and how much may still be.
pub(super) struct Areas<'a> {
    pub(super) disk: &'a Arc<dyn Disk>,
    pub(super) block: u64,
    /// Bytes left for the whole directory.
    pub(super) left: u64,
}

/// How many bytes of each system use area are not SUSP's, when the root's first record says that the others are
/// (SUSP 5.3, `SP`). CD-ROM XA keeps 14 bytes in front.
pub(super) fn skip(system_use: &[u8]) -> Option<usize> {
    [0_usize, 14].into_iter().find_map(|at| {
        let entry = system_use.get(at..)?;
        let known = entry.starts_with(b"SP\x07\x01\xbe\xef");
        entry.get(6).filter(|_| known).map(|skip| usize::from(*skip))
    })
}

/// Reads the entries of a system use area and of what continues it.
pub(super) fn parse(system_use: &[u8], areas: &mut Areas<'_>) -> Result<Rock> {
    let mut rock = Rock::default();
    let mut next = entries(system_use, &mut rock)?;
    let (mut count, mut total) = (0_u32, 0_u64);
    while let Some((block, offset, len)) = next {
        (count, total) = (count.saturating_add(1), total.saturating_add(len.into()));
        if count > MAX_AREAS || total > MAX_AREA {
            return Err(FsError::Damaged(format!(
                "the continuation areas from block {block} on have no end"
            )));
        }
        areas.left = areas.left.checked_sub(len.into()).ok_or_else(|| {
            FsError::Damaged("the continuation areas of a directory are longer than any may be".to_owned())
        })?;
        let at = u64::from(block).saturating_mul(areas.block).saturating_add(offset.into());
        let area = read(areas.disk.as_ref(), at, len.into(), "a continuation area")?;
        next = entries(&area, &mut rock)?;
    }
    Ok(rock)
}

/// Takes the entries of one area; the block, offset and length of the next, where there is one (`CE`).
fn entries(area: &[u8], rock: &mut Rock) -> Result<Option<(u32, u32, u32)>> {
    let (mut rest, mut next) = (area, None);
    while let [first, second, len, _version, ..] = rest {
        let len = usize::from(*len);
        // What is shorter than its own head is padding.
        let Some((entry, behind)) = (len >= 4).then(|| rest.split_at_checked(len)).flatten() else { break };
        match &[*first, *second] {
            b"CE" => next = le32(entry, 4).zip(le32(entry, 12)).zip(le32(entry, 20)),
            b"ST" => break,
            b"ER" => rock.extension = true,
            b"NM" => name(entry, rock)?,
            b"PX" => (rock.mode, rock.uid) = (le32(entry, 4), le32(entry, 20)),
            b"SL" => link(entry, rock)?,
            b"CL" => rock.child = le32(entry, 4),
            b"RE" => rock.relocated = true,
            b"SF" => rock.sparse = true,
            b"ZF" => rock.packed = le32(entry, 8),
            _ => {}
        }
        rest = behind;
    }
    Ok(next.map(|((block, offset), len)| (block, offset, len)))
}

/// RRIP 4.1.4. The flags for `.` and `..` name what is not listed anyway.
fn name(entry: &[u8], rock: &mut Rock) -> Result<()> {
    if entry.get(4).is_some_and(|flags| flags & 0x6 != 0) {
        return Ok(());
    }
    let part = entry.get(5..).unwrap_or_default();
    let name = rock.name.get_or_insert_default();
    name.extend_from_slice(part);
    if name.len() > MAX_NAME {
        return Err(FsError::Damaged("a name is longer than any may be".to_owned()));
    }
    Ok(())
}

/// RRIP 4.1.3: components, each with flags and a length of its own.
fn link(entry: &[u8], rock: &mut Rock) -> Result<()> {
    let target = rock.link.get_or_insert_default();
    let mut rest = entry.get(5..).unwrap_or_default();
    while let [flags, len, behind @ ..] = rest {
        let Some((word, behind)) = behind.split_at_checked(usize::from(*len)) else {
            return Err(FsError::Damaged("a symbolic link is longer than its entry".to_owned()));
        };
        if !rock.open_component && !target.is_empty() && target.last() != Some(&b'/') {
            target.push(b'/');
        }
        match flags & !1 {
            0 => target.extend_from_slice(word),
            2 => target.push(b'.'),
            4 => target.extend_from_slice(b".."),
            8 => {
                target.clear();
                target.push(b'/');
            }
            other => {
                return Err(FsError::Unsupported(format!("a symbolic link with flags {other:#x}")));
            }
        }
        rock.open_component = flags & 1 != 0;
        rest = behind;
    }
    Ok(())
}
