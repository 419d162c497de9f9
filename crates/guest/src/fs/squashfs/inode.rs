//! Inodes (Linux `fs/squashfs/squashfs_fs.h`: `squashfs_base_inode` and what follows it, by type).

use super::super::{FsError, Kind, Result};
use super::table::{Cursor, Place, Tables, field};

/// The longest target of a symbolic link.
const MAX_LINK: usize = 64 << 10;
/// The longest name (SQUASHFS_NAME_LEN).
pub(super) const MAX_NAME: usize = 256;

/// An inode.
pub(super) struct Inode {
    pub(super) kind: Kind,
    pub(super) mode: u32,
    /// Index of the owner in the table of ids.
    pub(super) owner: u16,
    pub(super) body: Body,
}

/// What an inode holds besides.
pub(super) enum Body {
    Directory(Directory),
    File(File),
    Link(Vec<u8>),
    Special,
}

/// A directory.
#[derive(Debug, Clone, Copy)]
pub(super) struct Directory {
    /// First byte of its metadata block, from the beginning of the table.
    pub(super) block: u32,
    pub(super) offset: u16,
    /// Length of the listing.
    pub(super) len: u32,
    /// Entries of its index, and where they are.
    pub(super) index: Option<(u16, Place)>,
}

/// A file.
#[derive(Debug, Clone, Copy)]
pub(super) struct File {
    /// Byte of the first block.
    pub(super) start: u64,
    pub(super) len: u64,
    /// Fragment that holds its end, and the byte in it.
    pub(super) fragment: Option<(u32, u32)>,
    /// Where the lengths of its blocks are.
    pub(super) sizes: Place,
}

/// Reads the inode at a place.
pub(super) fn read(tables: &Tables, place: Place) -> Result<Inode> {
    let mut cursor = Cursor::new(tables, place);
    let head: [u8; 16] = cursor.take()?;
    let (low, high) = (field(&head, 0), field(&head, 4));
    let (number, mode) = (low & 0xffff, low >> 16);
    let owner = u16::try_from(high & 0xffff).unwrap_or(0);
    let (kind, body) = match number {
        1 => {
            // start_block, nlink, file_size (u16), offset (u16), parent_inode
            let rest: [u8; 16] = cursor.take()?;
            let sizes = field(&rest, 8);
            (Kind::Directory, directory(field(&rest, 0), sizes >> 16, sizes & 0xffff, None))
        }
        8 => {
            // nlink, file_size, start_block, parent_inode, i_count (u16), offset (u16), xattr
            let rest: [u8; 24] = cursor.take()?;
            let last = field(&rest, 16);
            let count = u16::try_from(last & 0xffff).unwrap_or(0);
            let index = (count > 0).then(|| (count, cursor.place()));
            (Kind::Directory, directory(field(&rest, 8), last >> 16, field(&rest, 4), index))
        }
        2 => {
            // start_block, fragment, offset, file_size
            let rest: [u8; 16] = cursor.take()?;
            let (start, len) = (field(&rest, 0).into(), field(&rest, 12).into());
            let fragment = fragment(field(&rest, 4), field(&rest, 8));
            (Kind::File, Body::File(File { start, len, fragment, sizes: cursor.place() }))
        }
        9 => {
            // start_block (u64), file_size (u64), sparse (u64), nlink, fragment, offset, xattr
            let rest: [u8; 40] = cursor.take()?;
            let wide =
                |at: usize| u64::from(field(&rest, at)) | u64::from(field(&rest, at.saturating_add(4))) << 32;
            let fragment = fragment(field(&rest, 28), field(&rest, 32));
            (Kind::File, Body::File(File { start: wide(0), len: wide(8), fragment, sizes: cursor.place() }))
        }
        3 | 10 => {
            // nlink, symlink_size
            let rest: [u8; 8] = cursor.take()?;
            (Kind::Link, Body::Link(cursor.bytes(field(&rest, 4), MAX_LINK, "a symbolic link")?))
        }
        4..=7 | 11..=14 => (Kind::Special, Body::Special),
        other => {
            return Err(FsError::Damaged(format!("an inode at byte {} has type {other}", place.block)));
        }
    };
    Ok(Inode { kind, mode: mode & 0o7777, owner, body })
}

fn directory(block: u32, offset: u32, len: u32, index: Option<(u16, Place)>) -> Body {
    // The length counts three bytes for `.` and `..`, which are not stored.
    let offset = u16::try_from(offset & 0xffff).unwrap_or(0);
    Body::Directory(Directory { block, offset, len: len.saturating_sub(3), index })
}

fn fragment(index: u32, offset: u32) -> Option<(u32, u32)> {
    (index != u32::MAX).then_some((index, offset))
}
