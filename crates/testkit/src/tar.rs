//! Builds tar archives from the specifications alone (POSIX.1-2017 `pax`; the GNU tar manual), good and odd ones,
//! sharing no code with the crate under test.

/// Length of a header.
pub const BLOCK: usize = 512;

/// One header, field by field; all of them can be set to anything.
#[derive(Debug, Clone)]
pub struct HeaderBuilder {
    bytes: [u8; BLOCK],
}

impl HeaderBuilder {
    /// A POSIX header of a file of `size` bytes.
    ///
    /// # Panics
    /// When the name is longer than its field.
    #[must_use]
    pub fn posix(name: &str, size: u64) -> Self {
        let mut header = Self { bytes: [0; BLOCK] };
        header.field(0, name.as_bytes()).field(100, b"0000644\0").field(108, b"0000000\0");
        header.field(116, b"0000000\0").size(size).field(136, b"00000000000\0").kind(b'0');
        header.field(257, b"ustar\x0000");
        header
    }

    /// A GNU header of a file of `size` bytes.
    #[must_use]
    pub fn gnu(name: &str, size: u64) -> Self {
        let mut header = Self::posix(name, size);
        header.field(257, b"ustar  \0");
        header
    }

    /// Overwrites bytes.
    ///
    /// # Panics
    /// When they leave the header.
    pub fn field(&mut self, at: usize, bytes: &[u8]) -> &mut Self {
        self.bytes[at..at + bytes.len()].copy_from_slice(bytes);
        self
    }

    /// Sets the size: eleven octal digits, or base 256 when it has more.
    pub fn size(&mut self, size: u64) -> &mut Self {
        let field = number(size);
        self.field(124, &field)
    }

    /// Sets the type flag.
    pub fn kind(&mut self, kind: u8) -> &mut Self {
        self.field(156, &[kind])
    }

    /// The header with its checksum.
    #[must_use]
    pub fn seal(&self) -> [u8; BLOCK] {
        let mut bytes = self.bytes;
        bytes[148..156].fill(b' ');
        let sum: u32 = bytes.iter().map(|byte| u32::from(*byte)).sum();
        bytes[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        bytes
    }
}

/// A numeric field of twelve bytes.
#[must_use]
pub fn number(value: u64) -> [u8; 12] {
    let mut field = [0; 12];
    if value < 1 << 33 {
        field[..11].copy_from_slice(format!("{value:011o}").as_bytes());
    } else {
        field[0] = 0x80;
        field[4..].copy_from_slice(&value.to_be_bytes());
    }
    field
}

/// One pax record, with its length in front.
#[must_use]
pub fn pax_record(key: &str, value: &str) -> Vec<u8> {
    let body = format!(" {key}={value}\n");
    let mut len = body.len() + 1;
    while len.to_string().len() + body.len() != len {
        len += 1;
    }
    format!("{len}{body}").into_bytes()
}

/// An archive that grows.
#[derive(Debug, Clone, Default)]
pub struct TarBuilder {
    /// The archive so far, without its end.
    pub bytes: Vec<u8>,
}

impl TarBuilder {
    /// Appends bytes and fills their last block.
    pub fn blocks(&mut self, bytes: &[u8]) -> &mut Self {
        self.bytes.extend(bytes);
        self.bytes.resize(self.bytes.len().next_multiple_of(BLOCK), 0);
        self
    }

    /// Appends a header and content.
    pub fn member(&mut self, header: &HeaderBuilder, content: &[u8]) -> &mut Self {
        self.blocks(&header.seal()).blocks(content)
    }

    /// Appends a file in POSIX form.
    pub fn file(&mut self, name: &str, content: &[u8]) -> &mut Self {
        self.member(&HeaderBuilder::posix(name, content.len() as u64), content)
    }

    /// Appends a member without content: a directory, link, device.
    pub fn special(&mut self, name: &str, kind: u8, link: &str) -> &mut Self {
        let mut header = HeaderBuilder::posix(name, 0);
        header.kind(kind).field(157, link.as_bytes());
        self.member(&header, b"")
    }

    /// Appends an extension header: `x`, `g` of pax, `L`, `K` of GNU.
    pub fn extension(&mut self, kind: u8, content: &[u8]) -> &mut Self {
        let mut header = match kind {
            b'L' | b'K' => HeaderBuilder::gnu("././@LongLink", content.len() as u64),
            _ => HeaderBuilder::posix("PaxHeaders/x", content.len() as u64),
        };
        header.kind(kind);
        self.member(&header, content)
    }

    /// Appends a pax header of these records.
    pub fn pax(&mut self, records: &[(&str, &str)]) -> &mut Self {
        let content: Vec<u8> = records.iter().flat_map(|(key, value)| pax_record(key, value)).collect();
        self.extension(b'x', &content)
    }

    /// Appends a sparse file in GNU's old form. `entries` are offset and length; `data` is what is stored.
    pub fn old_sparse(&mut self, name: &str, real: u64, entries: &[(u64, u64)], data: &[u8]) -> &mut Self {
        let mut header = HeaderBuilder::gnu(name, data.len() as u64);
        header.kind(b'S').field(483, &number(real));
        let (first, rest) = entries.split_at(entries.len().min(4));
        for (n, (offset, len)) in first.iter().enumerate() {
            header.field(386 + 24 * n, &number(*offset)).field(398 + 24 * n, &number(*len));
        }
        header.field(482, &[u8::from(!rest.is_empty())]);
        self.blocks(&header.seal());
        let chunks: Vec<_> = rest.chunks(21).collect();
        for (index, chunk) in chunks.iter().enumerate() {
            let mut block = [0; BLOCK];
            for (n, (offset, len)) in chunk.iter().enumerate() {
                block[24 * n..24 * n + 12].copy_from_slice(&number(*offset));
                block[24 * n + 12..24 * n + 24].copy_from_slice(&number(*len));
            }
            block[504] = u8::from(index + 1 < chunks.len());
            self.blocks(&block);
        }
        self.blocks(data)
    }

    /// The archive with its end: two blocks of zeros.
    #[must_use]
    pub fn finish(&self) -> Vec<u8> {
        let mut bytes = self.bytes.clone();
        bytes.resize(bytes.len() + 2 * BLOCK, 0);
        bytes
    }
}
