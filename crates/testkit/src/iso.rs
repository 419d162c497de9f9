//! ISO 9660 images of a few records, written from ECMA-119, SUSP 1.12 and RRIP 1.12, right or wrong as asked.

/// Bytes in a block.
pub const BLOCK: usize = 2048;

/// A directory record.
#[derive(Debug, Clone, Default)]
pub struct Record {
    /// The identifier; `[0]` and `[1]` are the directory and its parent.
    pub name: Vec<u8>,
    /// First block.
    pub block: u32,
    /// Length in bytes.
    pub len: u32,
    /// 2: a directory; 0x80: more extents follow.
    pub flags: u8,
    /// Entries of SUSP.
    pub system_use: Vec<u8>,
}

impl Record {
    /// A file.
    #[must_use]
    pub fn file(name: &str, block: u32, len: u32) -> Self {
        Self { name: name.into(), block, len, ..Self::default() }
    }

    /// A directory.
    #[must_use]
    pub fn directory(name: &[u8], block: u32, len: u32) -> Self {
        Self { name: name.to_vec(), block, len, flags: 2, ..Self::default() }
    }

    /// With these entries of SUSP.
    #[must_use]
    pub fn with(mut self, entries: &[Vec<u8>]) -> Self {
        self.system_use = entries.concat();
        self
    }

    /// Its bytes (ECMA-119, 9.1).
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![0; 33];
        bytes[2..10].copy_from_slice(&both(self.block));
        bytes[10..18].copy_from_slice(&both(self.len));
        bytes[25] = self.flags;
        bytes[28..32].copy_from_slice(&[1, 0, 0, 1]);
        bytes[32] = self.name.len() as u8;
        bytes.extend_from_slice(&self.name);
        bytes.resize(bytes.len().next_multiple_of(2), 0);
        bytes.extend_from_slice(&self.system_use);
        bytes.resize(bytes.len().next_multiple_of(2), 0);
        bytes[0] = u8::try_from(bytes.len()).expect("a record of less than 256 bytes");
        bytes
    }
}

/// A number in both byte orders (7.3.3).
#[must_use]
pub fn both(number: u32) -> [u8; 8] {
    let mut bytes = [0; 8];
    bytes[..4].copy_from_slice(&number.to_le_bytes());
    bytes[4..].copy_from_slice(&number.to_be_bytes());
    bytes
}

/// An entry of SUSP: signature, length, version 1, data.
#[must_use]
pub fn entry(signature: &[u8; 2], data: &[u8]) -> Vec<u8> {
    let len = u8::try_from(data.len() + 4).expect("an entry of less than 256 bytes");
    [&signature[..], &[len, 1], data].concat()
}

/// `CE`: more entries at a block and offset.
#[must_use]
pub fn continued(block: u32, offset: u32, len: u32) -> Vec<u8> {
    entry(b"CE", &[both(block), both(offset), both(len)].concat())
}

/// `NM` and `PX`: a name and a mode (RRIP 4.1.4, 4.1.1).
#[must_use]
pub fn named(name: &[u8], mode: u32) -> [Vec<u8>; 2] {
    let posix = [both(mode), both(1), both(1000), both(1000)].concat();
    [entry(b"NM", &[b"\0", name].concat()), entry(b"PX", &posix)]
}

/// What the root's own record holds where Rock Ridge is in use.
#[must_use]
pub fn rock_ridge() -> Vec<u8> {
    let er = entry(b"ER", b"\x0a\0\0\x01RRIP_1991A");
    [entry(b"SP", &[0xbe, 0xef, 0]), er].concat()
}

/// The block of the root directory.
pub const ROOT: u32 = 20;

/// A volume of `blocks` blocks: the root with these records, and what else lies where.
#[must_use]
pub fn volume(blocks: u32, root: &[Record], rest: &[(u32, Vec<u8>)]) -> Vec<u8> {
    let mut image = vec![0; blocks as usize * BLOCK];
    let mut put = |block: u32, bytes: &[u8]| {
        let at = block as usize * BLOCK;
        image[at..at + bytes.len()].copy_from_slice(bytes);
    };
    let mut primary = vec![0; BLOCK];
    primary[..7].copy_from_slice(b"\x01CD001\x01");
    primary[8..72].fill(b' ');
    primary[40..44].copy_from_slice(b"TEST");
    primary[80..88].copy_from_slice(&both(blocks));
    for at in [120, 124] {
        primary[at..at + 4].copy_from_slice(&[1, 0, 0, 1]);
    }
    primary[128..132].copy_from_slice(&[0, 8, 8, 0]);
    // Path tables (9.4) of the root alone.
    primary[132..140].copy_from_slice(&both(10));
    primary[140..144].copy_from_slice(&18_u32.to_le_bytes());
    primary[148..152].copy_from_slice(&19_u32.to_be_bytes());
    put(18, &[&[1, 0][..], &ROOT.to_le_bytes(), &[1, 0, 0, 0]].concat());
    put(19, &[&[1, 0][..], &ROOT.to_be_bytes(), &[0, 1, 0, 0]].concat());
    let root_record = Record::directory(&[0], ROOT, BLOCK as u32);
    primary[156..190].copy_from_slice(&root_record.bytes());
    primary[190..813].fill(b' ');
    primary[881] = 1;
    put(16, &primary);
    put(17, b"\xffCD001\x01");
    put(
        ROOT,
        &directory(
            &[&[root_record.with(&[rock_ridge()]), Record::directory(&[1], ROOT, 2048)], root].concat(),
        ),
    );
    for (block, bytes) in rest {
        put(*block, bytes);
    }
    image
}

/// The bytes of a directory, records in their order.
#[must_use]
pub fn directory(records: &[Record]) -> Vec<u8> {
    records.iter().flat_map(Record::bytes).collect()
}
