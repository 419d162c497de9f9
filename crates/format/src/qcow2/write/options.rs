//! The options of the qcow2 writer and the header that they make.

use kiln_disk::Result;

use super::super::extension::LAYER;
use crate::options::{OptionSpec, Options};

/// `-o` names as in qemu-img.
pub(super) static SPECS: &[OptionSpec] = &[
    OptionSpec {
        name: "compat",
        default: "1.1",
        help: "1.1 (version 3) or 0.10 (version 2, for QEMU before 1.1 and other old readers)",
    },
    OptionSpec {
        name: "cluster_size",
        default: "64k",
        help: "unit of allocation, a power of two from 512 to 2M",
    },
    OptionSpec {
        name: "compress",
        default: "off",
        help: "on stores data compressed; -c is short for it; off does not",
    },
    OptionSpec {
        name: "compression_type",
        default: "auto",
        help: "zstd, or zlib for QEMU before 5.1; auto is zstd where compat allows it and compress=on, else zlib",
    },
];

/// A way to compress clusters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Codec {
    /// Raw deflate in a window of 4 KiB, as QEMU writes and declares it.
    Zlib,
    /// One zstd frame a cluster.
    Zstd,
}

/// The writer's options, checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Settings {
    pub(super) version: u32,
    pub(super) cluster_bits: u32,
    pub(super) cluster_size: u64,
    /// The codec that the header names.
    codec: Codec,
    /// The codec that is used, if any.
    pub(super) compress: Option<Codec>,
}

/// Where a finished file's tables are.
pub(super) struct Tables {
    pub(super) disk_len: u64,
    pub(super) l1_entries: u32,
    pub(super) l1_at: u64,
    pub(super) refcount_table_at: u64,
    pub(super) refcount_table_clusters: u32,
    /// Digest of the disk below, of a layer.
    pub(super) below: Option<[u8; 32]>,
}

impl Settings {
    /// Checks the options.
    ///
    /// # Errors
    /// `option.value`.
    pub(super) fn read(options: &Options) -> Result<Self> {
        let version = match options.get("compat") {
            "1.1" | "v3" | "3" => 3,
            "0.10" | "v2" | "2" => 2,
            _ => return Err(options.bad_value("compat")),
        };
        let cluster_size = options.size("cluster_size")?;
        if !cluster_size.is_power_of_two() || !(512..=2 << 20).contains(&cluster_size) {
            return Err(options.bad_value("cluster_size"));
        }
        let on = match options.get("compress") {
            "on" => true,
            "off" => false,
            _ => return Err(options.bad_value("compress")),
        };
        let codec = match (options.get("compression_type"), version) {
            ("auto", 3) if on => Codec::Zstd,
            ("auto" | "zlib", _) => Codec::Zlib,
            ("zstd", 3) => Codec::Zstd,
            _ => return Err(options.bad_value("compression_type")),
        };
        Ok(Self {
            version,
            cluster_bits: cluster_size.trailing_zeros(),
            cluster_size,
            codec,
            compress: on.then_some(codec),
        })
    }

    /// Guest bytes that one L2 table maps.
    pub(super) const fn guest_bytes_per_l2(&self) -> u64 {
        self.cluster_size.saturating_mul(self.cluster_size / 8)
    }

    /// The header with its extensions ("Header", "Header extensions"); at most 512 bytes, the smallest cluster.
    pub(super) fn header(&self, tables: &Tables) -> Vec<u8> {
        let mut header = Vec::with_capacity(512);
        header.extend_from_slice(b"QFI\xfb");
        put32(&mut header, self.version);
        put64(&mut header, 0); // backing_file_offset
        put32(&mut header, 0); // backing_file_size
        put32(&mut header, self.cluster_bits);
        put64(&mut header, tables.disk_len); // size
        put32(&mut header, 0); // crypt_method
        put32(&mut header, tables.l1_entries); // l1_size
        put64(&mut header, tables.l1_at); // l1_table_offset
        put64(&mut header, tables.refcount_table_at); // refcount_table_offset
        put32(&mut header, tables.refcount_table_clusters);
        put32(&mut header, 0); // nb_snapshots
        put64(&mut header, 0); // snapshots_offset
        if self.version == 2 {
            return header;
        }
        let zstd = self.codec == Codec::Zstd;
        put64(&mut header, if zstd { 1 << 3 } else { 0 }); // incompatible_features: compression type bit
        put64(&mut header, 0); // compatible_features
        put64(&mut header, 0); // autoclear_features
        put32(&mut header, 4); // refcount_order: 16 bits
        put32(&mut header, 112); // header_length
        header.extend_from_slice(&[u8::from(zstd), 0, 0, 0, 0, 0, 0, 0]); // compression_type, padding
        if zstd {
            // A reader that does not know the bit can name it.
            put32(&mut header, 0x6803_f857); // feature name table
            put32(&mut header, 48);
            header.extend_from_slice(&[0, 3]); // incompatible, bit 3
            let name = b"compression type";
            header.extend_from_slice(name);
            header.resize(header.len().saturating_add(46_usize.saturating_sub(name.len())), 0);
        }
        if let Some(below) = tables.below {
            put32(&mut header, LAYER);
            put32(&mut header, 32);
            header.extend_from_slice(&below);
        }
        put64(&mut header, 0); // end of the header extension area
        header
    }
}

fn put32(out: &mut Vec<u8>, value: u32) {
    out.extend_from_slice(&value.to_be_bytes());
}

fn put64(out: &mut Vec<u8>, value: u64) {
    out.extend_from_slice(&value.to_be_bytes());
}
