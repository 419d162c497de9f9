//! A small ISO 9660 writer: a tree of short files, the same bytes for the same tree.
//!
//! Sources: ECMA-119 (2nd edition), IEEE P1281 (SUSP 1.12) and P1282 (RRIP 1.12). Names that ECMA-119 does not allow
//! (`user-data`, lower case) are there as Rock Ridge names; readers without Rock Ridge see `USER_DAT`-like ones. All
//! dates are the same, so nothing but the content decides the bytes.
//!
//! ```text
//! 16       primary volume descriptor          18, 19   path tables, little- and big-endian
//! 17       set terminator                     20 ...   one sector a directory; then the Rock Ridge note; then files
//! ```

use std::collections::BTreeMap;

/// "Logical Sector", also the logical block here.
pub(crate) const SECTOR: usize = 2048;

const FIRST_DIRECTORY: usize = 20;
/// 1 January 2000, 0:00, "Recording Date and Time" of a directory record (9.1.5): years since 1900, then fields.
const RECORDED: [u8; 7] = [100, 1, 1, 0, 0, 0, 0];
/// The same in the form of a volume descriptor (8.4.26.1).
const RECORDED_LONG: &[u8; 17] = b"2000010100000000\0";

/// The extension record of RRIP, in the words that readers look for.
const RRIP_ID: &str = "RRIP_1991A";
const RRIP_DESCRIPTION: &str =
    "THE ROCK RIDGE INTERCHANGE PROTOCOL PROVIDES SUPPORT FOR POSIX FILE SYSTEM SEMANTICS";
const RRIP_SOURCE: &str = "PLEASE CONTACT DISC PUBLISHER FOR SPECIFICATION SOURCE.  SEE PUBLISHER IDENTIFIER IN PRIMARY VOLUME DESCRIPTOR FOR CONTACT INFORMATION.";

/// Why a tree cannot be written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum IsoProblem {
    /// A directory record would not fit its sector.
    #[error("too many names in one folder of the seed")]
    FolderFull,
    /// A file does not fit the 32 bits of its length.
    #[error("a file of the seed is too long")]
    FileTooLong,
}

/// A folder: sub-folders and files by name.
#[derive(Debug, Default)]
struct Folder<'a> {
    folders: BTreeMap<&'a str, Folder<'a>>,
    files: BTreeMap<&'a str, &'a [u8]>,
}

/// A folder with its place on the volume.
struct Placed<'a> {
    name: &'a str,
    parent: usize,
    folders: Vec<(&'a str, usize)>,
    files: Vec<(&'a str, &'a [u8])>,
}

/// Writes a volume with this label and these files, named `folder/file`. Its length is a multiple of [`SECTOR`].
pub(crate) fn write(label: &str, files: &[(&str, &[u8])]) -> Result<Vec<u8>, IsoProblem> {
    let mut root = Folder::default();
    for (path, bytes) in files {
        let mut folder = &mut root;
        let mut parts = path.split('/').peekable();
        while let Some(part) = parts.next() {
            if parts.peek().is_some() {
                folder = folder.folders.entry(part).or_default();
            } else {
                folder.files.insert(part, bytes);
            }
        }
    }
    let folders = by_breadth(&root);
    let note_at = FIRST_DIRECTORY + folders.len();
    let mut next = note_at + 1;
    let mut sectors_of_files = Vec::new();
    let mut volume = Vec::new();
    for folder in &folders {
        let mut places = Vec::new();
        for (_, bytes) in &folder.files {
            places.push(next);
            // A file of no bytes has no extent (ECMA-119 6.4.3), and a place that is allowed to be any.
            next += bytes.len().div_ceil(SECTOR);
        }
        sectors_of_files.push(places);
    }
    volume.resize(next * SECTOR, 0);
    put(&mut volume, 16, &primary(label, next, &folders)?);
    put(&mut volume, 17, &terminator());
    put(&mut volume, 18, &path_table(&folders, u16::to_le_bytes, u32::to_le_bytes));
    put(&mut volume, 19, &path_table(&folders, u16::to_be_bytes, u32::to_be_bytes));
    for (number, folder) in folders.iter().enumerate() {
        let sector = directory(number, folder, &folders, &sectors_of_files[number], note_at)?;
        put(&mut volume, FIRST_DIRECTORY + number, &sector);
        for ((_, bytes), at) in folder.files.iter().zip(&sectors_of_files[number]) {
            put(&mut volume, *at, bytes);
        }
    }
    put(&mut volume, note_at, &extension_note());
    Ok(volume)
}

/// Folders in the order of the path table: by depth, the root first.
fn by_breadth<'a>(root: &Folder<'a>) -> Vec<Placed<'a>> {
    let mut placed: Vec<Placed<'a>> = Vec::new();
    let mut level = vec![("", 0_usize, root)];
    while !level.is_empty() {
        let mut below = Vec::new();
        for (name, parent, folder) in level {
            let number = placed.len();
            let files = folder.files.iter().map(|(name, bytes)| (*name, *bytes)).collect();
            placed.push(Placed { name, parent, folders: Vec::new(), files });
            if number != 0 {
                placed[parent].folders.push((name, number));
            }
            below.extend(folder.folders.iter().map(|(name, folder)| (*name, number, folder)));
        }
        level = below;
    }
    placed
}

fn put(volume: &mut [u8], sector: usize, bytes: &[u8]) {
    let at = sector * SECTOR;
    volume[at..at + bytes.len()].copy_from_slice(bytes);
}

/// 8.4: the primary volume descriptor.
fn primary(label: &str, sectors: usize, folders: &[Placed<'_>]) -> Result<Vec<u8>, IsoProblem> {
    let sectors = u32::try_from(sectors).map_err(|_| IsoProblem::FileTooLong)?;
    let table_len = path_table(folders, u16::to_le_bytes, u32::to_le_bytes).len();
    let mut bytes = vec![0_u8; SECTOR];
    bytes[..7].copy_from_slice(b"\x01CD001\x01");
    text(&mut bytes[8..40], "LINUX");
    text(&mut bytes[40..72], label);
    bytes[80..88].copy_from_slice(&both32(sectors));
    bytes[120..124].copy_from_slice(&both16(1));
    bytes[124..128].copy_from_slice(&both16(1));
    bytes[128..132].copy_from_slice(&both16(2048));
    bytes[132..140].copy_from_slice(&both32(u32::try_from(table_len).map_err(|_| IsoProblem::FileTooLong)?));
    bytes[140..144].copy_from_slice(&18_u32.to_le_bytes());
    bytes[148..152].copy_from_slice(&19_u32.to_be_bytes());
    let root = record(b"\0", FIRST_DIRECTORY, SECTOR, true, &[])?;
    bytes[156..190].copy_from_slice(&root);
    for range in [190..318, 318..446, 446..574, 574..702, 702..739, 739..776, 776..813] {
        text(&mut bytes[range], "");
    }
    for at in [813, 830, 847, 864] {
        bytes[at..at + 17].copy_from_slice(if at == 847 { b"0000000000000000\0" } else { RECORDED_LONG });
    }
    bytes[881] = 1;
    Ok(bytes)
}

/// 8.3: the volume descriptor set terminator.
fn terminator() -> [u8; 7] {
    *b"\xffCD001\x01"
}

/// 9.4: one record a folder.
fn path_table(
    folders: &[Placed<'_>],
    short: impl Fn(u16) -> [u8; 2],
    long: impl Fn(u32) -> [u8; 4],
) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (number, folder) in folders.iter().enumerate() {
        let name = if number == 0 { b"\0".to_vec() } else { plain_name(folder.name, false) };
        bytes.extend([u8::try_from(name.len()).unwrap_or(u8::MAX), 0]);
        bytes.extend(long(u32::try_from(FIRST_DIRECTORY + number).unwrap_or(u32::MAX)));
        bytes.extend(short(u16::try_from(folder.parent + 1).unwrap_or(u16::MAX)));
        bytes.extend(&name);
        if name.len() % 2 == 1 {
            bytes.push(0);
        }
    }
    bytes
}

/// 6.8: the records of one folder, itself and its parent first.
fn directory(
    number: usize,
    folder: &Placed<'_>,
    folders: &[Placed<'_>],
    places: &[usize],
    note_at: usize,
) -> Result<Vec<u8>, IsoProblem> {
    let links = |number: usize| 2 + folders.get(number).map_or(0, |folder| folder.folders.len());
    let mut own = Vec::new();
    if number == 0 {
        // SUSP 5.3: the root's own record says that the entries are there, and where the rest of them is (5.1).
        own.extend(b"SP\x07\x01\xbe\xef\x00");
        own.extend(mode(true, links(0)));
        own.extend(b"CE\x1c\x01");
        own.extend(both32(u32::try_from(note_at).unwrap_or(u32::MAX)));
        own.extend(both32(0));
        own.extend(both32(u32::try_from(extension_note().len()).unwrap_or(u32::MAX)));
    } else {
        own.extend(mode(true, links(number)));
    }
    let mut bytes = record(b"\0", FIRST_DIRECTORY + number, SECTOR, true, &own)?;
    let parent = mode(true, links(folder.parent));
    bytes.extend(record(b"\x01", FIRST_DIRECTORY + folder.parent, SECTOR, true, &parent)?);
    // 9.3: in the order of their plain names.
    let mut entries = Vec::new();
    for (name, number) in &folder.folders {
        let plain = plain_name(name, false);
        let words = [mode(true, links(*number)), rock_ridge_name(name)].concat();
        entries.push((plain.clone(), record(&plain, FIRST_DIRECTORY + number, SECTOR, true, &words)?));
    }
    for ((name, content), at) in folder.files.iter().zip(places) {
        let plain = plain_name(name, true);
        let words = [mode(false, 1), rock_ridge_name(name)].concat();
        entries.push((plain.clone(), record(&plain, *at, content.len(), false, &words)?));
    }
    entries.sort();
    for (_, entry) in entries {
        bytes.extend(entry);
    }
    if bytes.len() > SECTOR { Err(IsoProblem::FolderFull) } else { Ok(bytes) }
}

/// 9.1: a directory record, with its system use.
fn record(
    name: &[u8],
    sector: usize,
    len: usize,
    folder: bool,
    system_use: &[u8],
) -> Result<Vec<u8>, IsoProblem> {
    let mut bytes = vec![0_u8, 0];
    bytes.extend(both32(u32::try_from(sector).map_err(|_| IsoProblem::FileTooLong)?));
    bytes.extend(both32(u32::try_from(len).map_err(|_| IsoProblem::FileTooLong)?));
    bytes.extend(RECORDED);
    bytes.extend([if folder { 2 } else { 0 }, 0, 0]);
    bytes.extend(both16(1));
    bytes.push(u8::try_from(name.len()).map_err(|_| IsoProblem::FolderFull)?);
    bytes.extend(name);
    if name.len().is_multiple_of(2) {
        bytes.push(0);
    }
    bytes.extend(system_use);
    if bytes.len() % 2 == 1 {
        bytes.push(0);
    }
    bytes[0] = u8::try_from(bytes.len()).map_err(|_| IsoProblem::FolderFull)?;
    Ok(bytes)
}

/// 7.5, 7.6: capitals, digits and `_`; files with an extension and a version.
fn plain_name(name: &str, file: bool) -> Vec<u8> {
    let allowed = |char: char| if char.is_ascii_alphanumeric() { char.to_ascii_uppercase() } else { '_' };
    let (stem, extension) = if file { name.split_once('.').unwrap_or((name, "")) } else { (name, "") };
    let mut plain: String = stem.chars().map(allowed).collect();
    if file {
        plain.push('.');
        plain.extend(extension.chars().map(allowed));
        plain.push_str(";1");
    }
    plain.into_bytes()
}

/// RRIP 4.1.1, `PX`: mode and links; everything is the root user's and readable.
fn mode(folder: bool, links: usize) -> Vec<u8> {
    let mode = if folder { 0o040_555_u32 } else { 0o100_444 };
    let mut bytes = b"PX\x24\x01".to_vec();
    for number in [mode, u32::try_from(links).unwrap_or(u32::MAX), 0, 0] {
        bytes.extend(both32(number));
    }
    bytes
}

/// RRIP 4.1.4, `NM`: the name itself.
fn rock_ridge_name(name: &str) -> Vec<u8> {
    let mut bytes = b"NM".to_vec();
    bytes.extend([u8::try_from(name.len() + 5).unwrap_or(u8::MAX), 1, 0]);
    bytes.extend(name.as_bytes());
    bytes
}

/// SUSP 5.5, `ER`: whose entries these are; then the end, `ST` (5.4).
fn extension_note() -> Vec<u8> {
    let lengths = [RRIP_ID, RRIP_DESCRIPTION, RRIP_SOURCE].map(|text| u8::try_from(text.len()).unwrap_or(0));
    let mut bytes = b"ER".to_vec();
    bytes.push(lengths.iter().sum::<u8>() + 8);
    bytes.push(1);
    bytes.extend(lengths);
    bytes.push(1);
    for text in [RRIP_ID, RRIP_DESCRIPTION, RRIP_SOURCE] {
        bytes.extend(text.as_bytes());
    }
    bytes.extend(b"ST\x04\x01");
    bytes
}

/// 7.3.3: a number in both byte orders.
fn both32(number: u32) -> [u8; 8] {
    let mut bytes = [0; 8];
    bytes[..4].copy_from_slice(&number.to_le_bytes());
    bytes[4..].copy_from_slice(&number.to_be_bytes());
    bytes
}

/// 7.2.3.
fn both16(number: u16) -> [u8; 4] {
    let mut bytes = [0; 4];
    bytes[..2].copy_from_slice(&number.to_le_bytes());
    bytes[2..].copy_from_slice(&number.to_be_bytes());
    bytes
}

/// Text filled up with spaces.
fn text(field: &mut [u8], text: &str) {
    field.fill(b' ');
    for (place, byte) in field.iter_mut().zip(text.bytes()) {
        *place = byte;
    }
}
