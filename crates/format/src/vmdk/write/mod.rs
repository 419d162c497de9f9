//! Writing VMDKs, the same bytes for the same disk: nothing in them is random or a time.
//!
//! QEMU's "streamOptimized" has its tables in front and room behind its last grain, which readers that go by the
//! markers take for something else than the file that was hashed. What is written here is the stream of the
//! specification: what comes first is known first, and the end-of-stream marker is the last sector of the file.

mod sparse;
mod stream;

use std::sync::Arc;

use kiln_disk::{ByteSink, DiskWrite, Error, Result, WriteOrder};

use super::header::SECTOR;
use crate::id::DerivedId;
use crate::options::{OptionSpec, Options};
use crate::wire::in_memory;

/// Sectors of a grain, the specification's default and everybody's choice.
const GRAIN_SECTORS: u64 = 128;
const GRAIN_LEN: u64 = GRAIN_SECTORS * SECTOR;
/// Entries of a grain table, the specification's only number.
const TABLE_ENTRIES: usize = 512;
/// Sectors of a grain table.
const TABLE_SECTORS: u64 = 4;
/// Guest bytes behind a grain table.
const TABLE_COVERS: u64 = GRAIN_LEN * 512;
/// The descriptor's place, in sectors: QEMU looks for it right behind the header, VMware leaves 20 for it.
const DESCRIPTOR_AT: u64 = 1;
const DESCRIPTOR_SECTORS: u64 = 20;
/// The longest virtual disk of vSphere ("Configuration Maximums": 62 TiB).
const MAX_DISK: u64 = 62 << 40;

/// What `-o` takes.
pub(super) const OPTIONS: &[OptionSpec] = &[
    OptionSpec {
        name: "subformat",
        default: "monolithicSparse",
        help: "monolithicSparse (to run from) or streamOptimized (compressed, to hand on)",
    },
    OptionSpec { name: "compress", default: "off", help: "on is short for subformat=streamOptimized" },
    OptionSpec {
        name: "compression_level",
        default: "4",
        help: "1 (fast) to 12 (small), for streamOptimized",
    },
    OptionSpec {
        name: "adapter_type",
        default: "ide",
        help: "ide, lsilogic, buslogic, legacyESX or pvscsi: the controller that a machine is given for the disk",
    },
    OptionSpec {
        name: "hwversion",
        default: "",
        help: "virtual hardware version, a number [4 unless compat6]",
    },
    OptionSpec { name: "compat6", default: "off", help: "on is short for hwversion=6" },
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Subformat {
    MonolithicSparse,
    StreamOptimized,
}

impl Subformat {
    fn of(options: &Options) -> Result<Self> {
        let compress = switch(options, "compress")?;
        match (options.get("subformat"), compress) {
            ("streamOptimized", _) => Ok(Self::StreamOptimized),
            // The default gives way to -c, the word itself does not.
            ("monolithicSparse", true) if options.is_given("subformat") => Err(options.bad_value("compress")),
            ("monolithicSparse", true) => Ok(Self::StreamOptimized),
            ("monolithicSparse", false) => Ok(Self::MonolithicSparse),
            _ => Err(options.bad_value("subformat")),
        }
    }

    const fn word(self) -> &'static str {
        match self {
            Self::MonolithicSparse => "monolithicSparse",
            Self::StreamOptimized => "streamOptimized",
        }
    }
}

fn switch(options: &Options, name: &str) -> Result<bool> {
    match options.get(name) {
        "on" | "true" | "yes" => Ok(true),
        "off" | "false" | "no" => Ok(false),
        _ => Err(options.bad_value(name)),
    }
}

/// A stream only ever goes forward; monolithicSparse has its tables in front.
pub(super) fn streams(options: &Options) -> bool {
    matches!(Subformat::of(options), Ok(Subformat::StreamOptimized))
}

/// Starts a disk; see [`crate::Create::run`].
pub(super) fn create(
    sink: Arc<dyn ByteSink>,
    disk_len: u64,
    options: &Options,
) -> Result<Box<dyn DiskWrite>> {
    check_len(disk_len)?;
    let subformat = Subformat::of(options)?;
    let text = DescriptorText::new(subformat, disk_len, options)?;
    let level = match options.get("compression_level").parse() {
        Ok(level @ 1..=12) => level,
        _ => return Err(options.bad_value("compression_level")),
    };
    match subformat {
        Subformat::MonolithicSparse if sink.order() == WriteOrder::Ascending => Err(Error::Refused {
            code: "vmdk.stream",
            what: "a monolithicSparse VMDK on a pipe".to_owned(),
            asked: 0,
            allowed: 0,
            hint: "write it to a file, or use -o subformat=streamOptimized",
        }),
        Subformat::MonolithicSparse => Ok(Box::new(sparse::SparseWriter::new(sink, disk_len, text))),
        Subformat::StreamOptimized => {
            Ok(Box::new(stream::StreamWriter::start(sink, disk_len, &text, level)?))
        }
    }
}

fn check_len(disk_len: u64) -> Result<()> {
    let refused = |code, what: &str, allowed, hint| {
        Err(Error::Refused { code, what: what.to_owned(), asked: disk_len, allowed, hint })
    };
    if disk_len > MAX_DISK {
        return refused(
            "vmdk.create.size",
            "length of a VMDK in bytes",
            MAX_DISK,
            "VMware's disks end at 62 TiB; use qcow2, or make the disk smaller first",
        );
    }
    if disk_len == 0 || !disk_len.is_multiple_of(SECTOR) {
        return refused(
            "vmdk.create.sectors",
            "length of a VMDK that is no positive multiple of 512 bytes",
            disk_len & !(SECTOR - 1),
            "a VMDK holds whole sectors; pad the disk to a multiple of 512 first, or use qcow2 or raw",
        );
    }
    Ok(())
}

/// The position `at` as an entry of a table.
///
/// # Errors
/// [`Error::Refused`] (`vmdk.create.file`) where sectors no longer fit into 32 bits.
fn entry(at: u64) -> Result<u32> {
    u32::try_from(at / SECTOR).map_err(|_| Error::Refused {
        code: "vmdk.create.file",
        what: "length of a sparse VMDK's file in bytes".to_owned(),
        asked: at,
        allowed: u64::from(u32::MAX).saturating_mul(SECTOR),
        hint: "a sparse extent ends at 2 TiB; use qcow2, or subformat=streamOptimized",
    })
}

/// The grain table at hand.
struct Table {
    index: u64,
    entries: Vec<u32>,
}

impl Table {
    fn new(index: u64) -> Self {
        Self { index, entries: vec![0; TABLE_ENTRIES] }
    }

    /// Enters the grain at guest byte `at`.
    fn set(&mut self, at: u64, value: u32) {
        let index = in_memory(at % TABLE_COVERS / GRAIN_LEN);
        if let Some(slot) = self.entries.get_mut(index) {
            *slot = value;
        }
    }

    fn bytes(&self) -> Vec<u8> {
        le_bytes(&self.entries)
    }
}

fn le_bytes(entries: &[u32]) -> Vec<u8> {
    entries.iter().flat_map(|entry| entry.to_le_bytes()).collect()
}

/// The text of a descriptor, but for its CID.
struct DescriptorText {
    subformat: Subformat,
    sectors: u64,
    hw_version: String,
    adapter: String,
    heads: u64,
}

impl DescriptorText {
    fn new(subformat: Subformat, disk_len: u64, options: &Options) -> Result<Self> {
        let adapter = options.get("adapter_type");
        if !matches!(adapter, "ide" | "lsilogic" | "buslogic" | "legacyESX" | "pvscsi") {
            return Err(options.bad_value("adapter_type"));
        }
        let hw_version = match (switch(options, "compat6")?, options.get("hwversion")) {
            (false, "") => "4",
            (true, "" | "6") => "6",
            (false, number) if number.parse::<u16>().is_ok() => number,
            (true, _) => return Err(options.bad_value("compat6")),
            _ => return Err(options.bad_value("hwversion")),
        };
        Ok(Self {
            subformat,
            sectors: disk_len / SECTOR,
            hw_version: hw_version.to_owned(),
            adapter: adapter.to_owned(),
            // What VMware takes for IDE and for all others.
            heads: if adapter == "ide" { 16 } else { 255 },
        })
    }

    /// An id to begin the CID with.
    fn seed(&self) -> DerivedId {
        let mut id = DerivedId::new();
        id.take(self.subformat.word().as_bytes());
        id.take(&self.sectors.to_le_bytes());
        id
    }

    /// The text with a CID made from `id`, filled up with zeros to its place in the file.
    fn bytes(&self, id: DerivedId) -> Vec<u8> {
        let [a, b, c, d, ..] = id.finish();
        // The last two numbers mean "not yet written to" and "none".
        let cid = u32::from_be_bytes([a, b, c, d]).min(0xffff_fffd);
        let cylinders = self.sectors.checked_div(self.heads.saturating_mul(63)).unwrap_or(0);
        let text = format!(
            "# Disk DescriptorFile\n\
             version=1\n\
             CID={cid:08x}\n\
             parentCID=ffffffff\n\
             createType=\"{kind}\"\n\
             \n\
             # Extent description\n\
             RW {sectors} SPARSE \"disk.vmdk\"\n\
             \n\
             # The Disk Data Base\n\
             #DDB\n\
             \n\
             ddb.virtualHWVersion = \"{hw_version}\"\n\
             ddb.geometry.cylinders = \"{cylinders}\"\n\
             ddb.geometry.heads = \"{heads}\"\n\
             ddb.geometry.sectors = \"63\"\n\
             ddb.adapterType = \"{adapter}\"\n\
             ddb.toolsVersion = \"2147483647\"\n",
            kind = self.subformat.word(),
            sectors = self.sectors,
            hw_version = self.hw_version,
            heads = self.heads,
            adapter = self.adapter,
        );
        let mut bytes = text.into_bytes();
        bytes.resize(in_memory(DESCRIPTOR_SECTORS.saturating_mul(SECTOR)), 0);
        bytes
    }
}
