//! The header: bytes in, meaning out.

use kiln_disk::{Error, FileOffset, Result};

use super::geometry::Geometry;
use super::problem::{Qcow2Problem, Table};
use crate::wire::{be32, be64};

/// `QFI\xfb`.
pub(super) const MAGIC: u32 = 0x5146_49fb;
/// Bytes of a version 2 header.
pub(super) const V2_LEN: u32 = 72;
/// Bytes of the shortest version 3 header.
pub(super) const V3_LEN: u32 = 104;

/// Incompatible feature bits.
pub(super) mod incompatible {
    pub(crate) const DIRTY: u64 = 1;
    pub(crate) const CORRUPT: u64 = 1 << 1;
    pub(crate) const DATA_FILE: u64 = 1 << 2;
    pub(crate) const COMPRESSION: u64 = 1 << 3;
    pub(crate) const EXTENDED_L2: u64 = 1 << 4;
    pub(crate) const KNOWN: u64 = DIRTY | CORRUPT | DATA_FILE | COMPRESSION | EXTENDED_L2;
}

/// Compatible feature bit: refcounts may be updated late.
pub(super) const LAZY_REFCOUNTS: u64 = 1;
/// Autoclear feature bits.
pub(super) mod autoclear {
    pub(crate) const BITMAPS: u64 = 1;
    pub(crate) const RAW_EXTERNAL: u64 = 1 << 1;
}

/// How compressed clusters are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Compression {
    Deflate,
    Zstd,
}

impl Compression {
    /// The name that qemu-img uses.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Deflate => "zlib",
            Self::Zstd => "zstd",
        }
    }
}

/// A header that can be worked with: geometry, widths and encryption are sound, tables may still be anywhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) version: u32,
    pub(super) geometry: Geometry,
    /// Virtual disk size in bytes.
    pub(super) size: u64,
    pub(super) backing_file_offset: u64,
    pub(super) backing_file_size: u32,
    pub(super) l1_size: u32,
    pub(super) l1_table_offset: u64,
    pub(super) refcount_table_offset: u64,
    pub(super) refcount_table_clusters: u32,
    pub(super) nb_snapshots: u32,
    pub(super) snapshots_offset: u64,
    pub(super) incompatible: u64,
    pub(super) compatible: u64,
    pub(super) autoclear: u64,
    /// 0 to 6.
    pub(super) refcount_order: u32,
    pub(super) header_length: u32,
    pub(super) crypt_method: u32,
    pub(super) compression_type: u8,
}

/// An error about the header field at `at`.
pub(super) fn bad(at: u64, problem: Qcow2Problem) -> Error {
    Error::malformed("qcow2 header", FileOffset::new(at), problem)
}

impl Header {
    /// Takes the header apart. `bytes` are the first bytes of the file, `file_len` is its length.
    ///
    /// # Errors
    /// [`Error::Malformed`] for what makes every other field meaningless; [`Error::Unsupported`]
    /// (`qcow2.version`) for other versions.
    pub(super) fn decode(bytes: &[u8], file_len: u64) -> Result<Self> {
        let short = |expected: u32| {
            bad(file_len, Qcow2Problem::HeaderShort { expected: expected.into(), actual: file_len })
        };
        let magic = be32(bytes, 0).ok_or_else(|| short(V2_LEN))?;
        if magic != MAGIC {
            return Err(bad(0, Qcow2Problem::Magic { actual: magic }));
        }
        let version = be32(bytes, 4).ok_or_else(|| short(V2_LEN))?;
        if !matches!(version, 2 | 3) {
            return Err(Error::Unsupported {
                code: "qcow2.version",
                feature: format!("qcow version {version}"),
                hint: "versions 2 and 3 are read; convert the file with the program that made it",
            });
        }
        let v3 = version == 3;
        let needed = if v3 { V3_LEN } else { V2_LEN };
        let u32_at = |at: usize| be32(bytes, at).ok_or_else(|| short(needed));
        let u64_at = |at: usize| be64(bytes, at).ok_or_else(|| short(needed));

        let cluster_bits = u32_at(20)?;
        let incompatible = if v3 { u64_at(72)? } else { 0 };
        let extended = incompatible & incompatible::EXTENDED_L2 != 0;
        let geometry = Geometry::new(cluster_bits, extended).map_err(|problem| bad(20, problem))?;
        let cluster_len = geometry.cluster_len();

        let header_length = if v3 { u32_at(100)? } else { V2_LEN };
        if v3 && (header_length < V3_LEN || header_length & 7 != 0 || u64::from(header_length) > cluster_len)
        {
            return Err(bad(100, Qcow2Problem::HeaderLength { actual: header_length, cluster_len }));
        }
        if u64::from(header_length) > file_len {
            return Err(short(header_length));
        }
        let refcount_order = if v3 { u32_at(96)? } else { 4 };
        if refcount_order > 6 {
            return Err(bad(96, Qcow2Problem::RefcountOrder { actual: refcount_order }));
        }
        let crypt_method = u32_at(32)?;
        if crypt_method > 2 {
            return Err(bad(32, Qcow2Problem::CryptMethod { actual: crypt_method }));
        }
        // A field behind header_length is absent, which means 0.
        let compression_type =
            if header_length > V3_LEN { bytes.get(104).copied().ok_or_else(|| short(112))? } else { 0 };
        let compression_bit = incompatible & incompatible::COMPRESSION != 0;
        if compression_bit != (compression_type != 0) {
            let problem = Qcow2Problem::CompressionBit { actual: compression_type, bit: compression_bit };
            return Err(bad(104, problem));
        }

        Ok(Self {
            version,
            geometry,
            size: u64_at(24)?,
            backing_file_offset: u64_at(8)?,
            backing_file_size: u32_at(16)?,
            l1_size: u32_at(36)?,
            l1_table_offset: u64_at(40)?,
            refcount_table_offset: u64_at(48)?,
            refcount_table_clusters: u32_at(56)?,
            nb_snapshots: u32_at(60)?,
            snapshots_offset: u64_at(64)?,
            incompatible,
            compatible: if v3 { u64_at(80)? } else { 0 },
            autoclear: if v3 { u64_at(88)? } else { 0 },
            refcount_order,
            header_length,
            crypt_method,
            compression_type,
        })
    }

    pub(super) const fn has(&self, incompatible_bit: u64) -> bool {
        self.incompatible & incompatible_bit != 0
    }

    /// The compression of compressed clusters.
    ///
    /// # Errors
    /// [`Error::Unsupported`] (`qcow2.compression`) for types that the specification does not know.
    pub(super) fn compression(&self) -> Result<Compression> {
        match self.compression_type {
            0 => Ok(Compression::Deflate),
            1 => Ok(Compression::Zstd),
            other => Err(Error::Unsupported {
                code: "qcow2.compression",
                feature: format!("compression type {other}"),
                hint: "deflate (zlib) and zstd are read; convert the file with the program that made it",
            }),
        }
    }

    /// # Errors
    /// [`Error::Unsupported`] (`qcow2.encryption-aes`, `qcow2.encryption-luks`).
    pub(super) fn confirm_plain(&self) -> Result<()> {
        let (code, feature) = match self.crypt_method {
            0 => return Ok(()),
            1 => ("qcow2.encryption-aes", "legacy AES encryption"),
            _ => ("qcow2.encryption-luks", "LUKS encryption"),
        };
        Err(Error::Unsupported {
            code,
            feature: feature.to_owned(),
            hint: "decrypt it with qemu-img convert and its secret, then use the result",
        })
    }

    /// The bytes of the backing file's name, when there is one. `available` is how much of the first cluster is in
    /// the file.
    ///
    /// # Errors
    /// [`Error::Malformed`] for a name that is empty, too long, or not between header and end of the cluster.
    pub(super) fn backing_name(&self, available: u64) -> Result<Option<std::ops::Range<u64>>> {
        let start = self.backing_file_offset;
        if start == 0 {
            return Ok(None);
        }
        let len = self.backing_file_size;
        if len == 0 {
            return Err(bad(16, Qcow2Problem::BackingNameEmpty));
        }
        if len > 1023 {
            return Err(bad(16, Qcow2Problem::BackingNameLong { actual: len }));
        }
        let low = u64::from(self.header_length);
        let end = start.saturating_add(len.into());
        if start < low || end > available {
            return Err(bad(8, Qcow2Problem::BackingNamePlace { start, end, low, high: available }));
        }
        Ok(Some(start..end))
    }

    /// L1 table of the active disk: what is wrong with its place, worst first.
    pub(super) fn l1_doubts(&self, file_len: u64) -> Vec<Error> {
        let mut doubts = Vec::new();
        let place = TablePlace {
            table: Table::L1,
            start: self.l1_table_offset,
            len: u64::from(self.l1_size).saturating_mul(8),
            allowed: L1_MAX,
            field: 40,
        };
        place.doubts(self.geometry, file_len, &mut doubts);
        let (actual, expected) = (u64::from(self.l1_size), self.geometry.l1_needed(self.size));
        if actual < expected {
            doubts.push(bad(36, Qcow2Problem::L1Small { expected, actual, disk_len: self.size }));
        }
        doubts
    }

    /// Refcount table: what is wrong with its place.
    pub(super) fn refcount_doubts(&self, file_len: u64) -> Vec<Error> {
        let mut doubts = Vec::new();
        let len = self.geometry.cluster_start(self.refcount_table_clusters.into()).unwrap_or(u64::MAX);
        let place = TablePlace {
            table: Table::Refcounts,
            start: self.refcount_table_offset,
            len,
            allowed: REFCOUNT_TABLE_MAX,
            field: 48,
        };
        place.doubts(self.geometry, file_len, &mut doubts);
        doubts
    }

    /// Bytes of the refcount table.
    pub(super) fn refcount_table_len(&self) -> u64 {
        self.geometry.cluster_start(self.refcount_table_clusters.into()).unwrap_or(u64::MAX)
    }
}

/// Longest L1 table in bytes: QEMU's limit too, enough for 2 PiB in 64 KiB clusters.
pub(super) const L1_MAX: u64 = 32 << 20;
/// Longest refcount table in bytes: QEMU's limit too.
pub(super) const REFCOUNT_TABLE_MAX: u64 = 8 << 20;

/// Where a table is said to be.
pub(super) struct TablePlace {
    pub(super) table: Table,
    pub(super) start: u64,
    pub(super) len: u64,
    /// Longest allowed.
    pub(super) allowed: u64,
    /// Where in the file it is said.
    pub(super) field: u64,
}

impl TablePlace {
    /// Adds what is wrong with the place. A table without entries may be anywhere.
    pub(super) fn doubts(&self, geometry: Geometry, file_len: u64, doubts: &mut Vec<Error>) {
        let Self { table, start, len, allowed, field } = *self;
        if len == 0 {
            return;
        }
        if len > allowed {
            doubts.push(Error::Refused {
                code: match table {
                    Table::L1 => "qcow2.l1.too-large",
                    Table::SnapshotL1 => "qcow2.snapshot.l1-too-large",
                    Table::Refcounts => "qcow2.refcount-table.too-large",
                    _ => "qcow2.table.too-large",
                },
                what: format!("bytes of the {table}"),
                asked: len,
                allowed,
                hint: "the header is damaged, or the file was made to exhaust its reader",
            });
        }
        if !geometry.is_aligned(start) {
            let problem = Qcow2Problem::TableUnaligned { table, start, cluster_len: geometry.cluster_len() };
            doubts.push(bad(field, problem));
        }
        let end = start.saturating_add(len);
        if end > file_len {
            doubts.push(bad(field, Qcow2Problem::TablePastEnd { table, start, end, file_len }));
        }
    }
}
