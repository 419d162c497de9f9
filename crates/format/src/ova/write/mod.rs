//! Writing an OVA: descriptor, manifest, and the disk as a streamOptimized VMDK, in one pass over the disk.
//!
//! The descriptor and the manifest stand before the disk, and what they say (its length, its digest) is known
//! behind it. So their places are kept free and filled last. A manifest's length is known from the start. That of
//! the descriptor depends on the digits of two numbers only: its place is reckoned with the longest ones, and line
//! feeds behind the root element, which XML allows, make up for a block that would be missing.

mod descriptor;

use std::sync::{Arc, Mutex, PoisonError};

use kiln_disk::digest::{Algorithm, Digest, Hasher};
use kiln_disk::{
    ByteSink, DiskWrite, Encode, Error, FileOffset, GuestOffset, Piece, Result, WriteOrder, Written,
};

use self::descriptor::Machine;
use crate::options::{OptionSpec, Options};
use crate::tar::file_header;
use crate::vmdk;

/// Unit of a tar archive.
const BLOCK: u64 = 512;

/// What `-o` takes.
pub(super) const OPTIONS: &[OptionSpec] = &[
    OptionSpec { name: "name", default: "image", help: "name of the machine and of the files" },
    OptionSpec {
        name: "manifest",
        default: "sha256",
        help: "sha256, sha512, sha1 (for ESXi before 6.5, refused by vSphere 8) or none",
    },
    OptionSpec { name: "firmware", default: "bios", help: "bios or efi: how the machine starts" },
    OptionSpec { name: "cpus", default: "2", help: "processors, a number" },
    OptionSpec { name: "memory", default: "2G", help: "memory: a size, a multiple of 4M" },
    OptionSpec { name: "controller", default: "pvscsi", help: "pvscsi, lsilogic, sata or ide" },
    OptionSpec { name: "network", default: "VmxNet3", help: "VmxNet3, E1000 or another model" },
    OptionSpec { name: "hardware", default: "vmx-13", help: "virtual hardware: vmx-NN or virtualbox-2.2" },
    OptionSpec { name: "os_type", default: "otherLinux64Guest", help: "VMware's word for the guest" },
    OptionSpec { name: "compression_level", default: "4", help: "1 (fast) to 12 (small)" },
];

/// Starts an appliance; see [`crate::Create::run`].
pub(super) fn create(
    sink: Arc<dyn ByteSink>,
    disk_len: u64,
    options: &Options,
) -> Result<Box<dyn DiskWrite>> {
    let machine = Machine::of(options, disk_len)?;
    let algorithm = match options.get("manifest") {
        "sha256" => Some(Algorithm::Sha256),
        "sha512" => Some(Algorithm::Sha512),
        "sha1" => Some(Algorithm::Sha1),
        "none" => None,
        _ => return Err(options.bad_value("manifest")),
    };
    if sink.order() == WriteOrder::Ascending {
        return Err(Error::Refused {
            code: "ova.stream",
            what: "an OVA on a pipe".to_owned(),
            asked: 0,
            allowed: 0,
            hint: "its first member says how long its last one is; write it to a file",
        });
    }
    let layout = Layout::new(&machine, algorithm)?;
    let seen = Arc::new(Hashed {
        sink: Arc::clone(&sink),
        base: layout.disk_at,
        state: Mutex::new(State { hasher: algorithm.map(Hasher::new), at: 0 }),
    });
    let format = &vmdk::FORMAT;
    let writer = format.create.ok_or_else(|| options.bad_value("name"))?;
    let given = [
        ("subformat", "streamOptimized"),
        ("adapter_type", "lsilogic"),
        ("compat6", "on"),
        ("compression_level", options.get("compression_level")),
    ];
    let given = given.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let inner = Options::new(writer.options, given)?;
    let disk = (writer.run)(Arc::<Hashed>::clone(&seen), disk_len, &inner)?;
    Ok(Box::new(OvaWriter { sink, machine, algorithm, layout, seen, disk, disk_len, populated: 0 }))
}

/// Where the members are.
struct Layout {
    /// Blocks for the descriptor's text.
    descriptor_blocks: u64,
    /// Where the manifest's header is, and its length; none without a manifest.
    manifest: Option<(u64, u64)>,
    /// Where the disk's content begins, behind its header.
    disk_at: u64,
}

impl Layout {
    fn new(machine: &Machine, algorithm: Option<Algorithm>) -> Result<Self> {
        let longest = machine.descriptor(u64::MAX, u64::MAX)?.len();
        let descriptor_blocks = u64::try_from(longest).unwrap_or(u64::MAX).div_ceil(BLOCK);
        let mut at = BLOCK.saturating_add(descriptor_blocks.saturating_mul(BLOCK));
        let manifest = algorithm.and_then(|algorithm| {
            let blank = Digest::new(algorithm, vec![0; algorithm.digest_len()])?;
            let text = manifest(&[(&descriptor_name(machine), &blank), (&machine.disk_name(), &blank)]);
            Some((at, u64::try_from(text.len()).unwrap_or(u64::MAX)))
        });
        if let Some((_, len)) = manifest {
            at = at.saturating_add(BLOCK).saturating_add(len.next_multiple_of(BLOCK));
        }
        Ok(Self { descriptor_blocks, manifest, disk_at: at.saturating_add(BLOCK) })
    }
}

fn descriptor_name(machine: &Machine) -> String {
    format!("{}.ovf", machine.name)
}

/// The manifest's lines, spelled as every program reads them.
fn manifest(files: &[(&str, &Digest)]) -> String {
    files
        .iter()
        .map(|(name, digest)| {
            format!("{}({name})= {}\n", digest.algorithm().name().to_ascii_uppercase(), digest.hex())
        })
        .collect()
}

/// Passes the disk's bytes on, moved to their place, and hashes them on the way.
struct Hashed {
    sink: Arc<dyn ByteSink>,
    base: u64,
    state: Mutex<State>,
}

struct State {
    hasher: Option<Hasher>,
    /// Bytes seen.
    at: u64,
}

impl State {
    /// Goes on to `at` over zeros.
    fn fill_to(&mut self, at: u64) -> Result<()> {
        static ZEROS: [u8; 4096] = [0; 4096];
        let mut gap = at.checked_sub(self.at).ok_or_else(|| {
            // Only a writer that claims to stream and does not can get here.
            Error::io("write backwards into", "a disk that is hashed", std::io::ErrorKind::NotSeekable)
        })?;
        self.at = at;
        while gap > 0 {
            let take = usize::try_from(gap).unwrap_or(usize::MAX).min(ZEROS.len());
            if let Some(hasher) = self.hasher.as_mut() {
                hasher.update(ZEROS.get(..take).unwrap_or_default());
            }
            gap = gap.saturating_sub(u64::try_from(take).unwrap_or(gap));
        }
        Ok(())
    }
}

impl ByteSink for Hashed {
    fn write_bytes(&self, at: FileOffset, bytes: &[u8]) -> Result<()> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.fill_to(at.get())?;
        if let Some(hasher) = state.hasher.as_mut() {
            hasher.update(bytes);
        }
        state.at = state.at.saturating_add(u64::try_from(bytes.len()).unwrap_or(u64::MAX));
        self.sink.write_bytes(FileOffset::new(self.base.saturating_add(at.get())), bytes)
    }

    fn set_byte_len(&self, len: u64) -> Result<()> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).fill_to(len)
    }

    fn order(&self) -> WriteOrder {
        WriteOrder::Ascending
    }
}

struct OvaWriter {
    sink: Arc<dyn ByteSink>,
    machine: Machine,
    algorithm: Option<Algorithm>,
    layout: Layout,
    seen: Arc<Hashed>,
    disk: Box<dyn DiskWrite>,
    disk_len: u64,
    /// Guest bytes in the disk's file.
    populated: u64,
}

impl DiskWrite for OvaWriter {
    fn granule(&self) -> u64 {
        self.disk.granule()
    }

    fn encoder(&self) -> Arc<dyn Encode> {
        self.disk.encoder()
    }

    fn sink(&self) -> Option<Arc<dyn ByteSink>> {
        Some(Arc::<Hashed>::clone(&self.seen))
    }

    fn place(&mut self, at: GuestOffset, piece: Piece) -> Result<FileOffset> {
        let rest = self.disk_len.saturating_sub(at.get());
        self.populated = self.populated.saturating_add(self.disk.granule().min(rest));
        self.disk.place(at, piece)
    }

    fn write_zeroes(&mut self, at: GuestOffset, len: u64) -> Result<()> {
        self.disk.write_zeroes(at, len)
    }

    fn finish(self: Box<Self>) -> Result<Written> {
        let Self { sink, machine, algorithm, layout, seen, disk, populated, .. } = *self;
        let disk_file_len = disk.finish()?.byte_len;
        seen.set_byte_len(disk_file_len)?;
        let digest = {
            let mut state = seen.state.lock().unwrap_or_else(PoisonError::into_inner);
            state.hasher.take().and_then(Hasher::finish)
        };
        let write = |at: u64, bytes: &[u8]| sink.write_bytes(FileOffset::new(at), bytes);
        let member = |at: u64, name: &str, bytes: &[u8]| {
            write(at, &file_header(name, u64::try_from(bytes.len()).unwrap_or(u64::MAX))?)?;
            write(at.saturating_add(BLOCK), bytes)
        };
        let text = filled(machine.descriptor(disk_file_len, populated)?, layout.descriptor_blocks);
        member(0, &descriptor_name(&machine), text.as_bytes())?;
        if let (Some((at, _)), Some(algorithm), Some(digest)) = (layout.manifest, algorithm, digest) {
            let mut hasher = Hasher::new(algorithm);
            hasher.update(text.as_bytes());
            let own = hasher.finish().ok_or(Error::Cancelled)?;
            let text = manifest(&[(&descriptor_name(&machine), &own), (&machine.disk_name(), &digest)]);
            member(at, &format!("{}.mf", machine.name), text.as_bytes())?;
        }
        let header_at = layout.disk_at.saturating_sub(BLOCK);
        write(header_at, &file_header(&machine.disk_name(), disk_file_len)?)?;
        // Two blocks of zeros end the archive; what is not written is zeros.
        let end = layout.disk_at.saturating_add(disk_file_len.next_multiple_of(BLOCK));
        let byte_len = end.saturating_add(BLOCK.saturating_mul(2));
        sink.set_byte_len(byte_len)?;
        Ok(Written { byte_len })
    }
}

/// The text, with line feeds behind it until it reaches into the last of its blocks.
fn filled(mut text: String, blocks: u64) -> String {
    let least = blocks.saturating_sub(1).saturating_mul(BLOCK).saturating_add(1);
    while u64::try_from(text.len()).unwrap_or(u64::MAX) < least {
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::filled;

    #[test]
    fn a_text_always_ends_in_its_last_block() {
        for (len, blocks, expected) in
            [(512, 1, 512), (500, 1, 500), (512, 2, 513), (513, 2, 513), (1000, 2, 1000)]
        {
            assert_eq!(filled("x".repeat(len), blocks).len(), expected);
        }
    }
}
