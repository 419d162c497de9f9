//! How an image was captured from a machine: part of its provenance.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::id::{ImageId, InstanceId};

/// How much the programs and file systems of a captured machine knew of the capture. In order: each is worth more than
/// the one before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Consistency {
    /// As after a power cut: what was written and synced is there, file systems replay their journals.
    Crash,
    /// File systems stood still: everything that was written is there, no journal has to be replayed.
    Filesystem,
    /// Programs had put their data in order as well: the machine had been shut down, or they were asked to.
    Application,
}

impl Consistency {
    /// The word as manifests have it.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Crash => "crash",
            Self::Filesystem => "filesystem",
            Self::Application => "application",
        }
    }
}

/// What was captured.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum CaptureSource {
    /// A disk of an instance of this store.
    Instance {
        /// The instance.
        id: InstanceId,
        /// Its name then.
        name: Option<String>,
        /// The disk: `disk0`, ...
        disk: String,
    },
    /// A file that holds a disk.
    File {
        /// Its base name.
        name: String,
        /// Id of its format.
        format: String,
    },
    /// A block device.
    Device {
        /// Its base name.
        name: String,
    },
    /// A QEMU that this store did not start.
    Qemu {
        /// The machine's own name, when it has one.
        name: Option<String>,
        /// The block device, as QEMU calls it.
        disk: String,
    },
    /// A domain of libvirt.
    Libvirt {
        /// The domain.
        domain: String,
        /// The target: `vda`.
        disk: String,
    },
}

/// How the changed blocks were found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FoundBy {
    /// Everything was read: nothing was known of an earlier state, or the stack of layers had become too deep.
    Everything,
    /// The overlay's tables told what was ever written, and that was compared with the block hashes of the parent.
    Overlay,
    /// A dirty bitmap that had counted since the last capture, and the same comparison.
    Bitmap,
}

impl FoundBy {
    /// The word as manifests have it.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Everything => "everything",
            Self::Overlay => "overlay",
            Self::Bitmap => "bitmap",
        }
    }
}

/// A freeze of the guest's file systems by its agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FreezeRecord {
    /// Version of the agent, as it says.
    pub agent: String,
    /// File systems that stood still.
    pub file_systems: u64,
    /// From the order to freeze to the answer about the thaw.
    pub milliseconds: u64,
}

/// A file system on the captured disk, and how it was found there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileSystemRecord {
    /// Where: "partition 1".
    pub place: String,
    /// `ext4`, `xfs`, `btrfs`, ...
    pub kind: String,
    /// `clean`, `needs_recovery`, `dirty`, `errors`, or `unknown`.
    pub state: String,
}

/// Something on the captured disk that makes a machine this one, and that machines made from the image share unless it
/// is made anew.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IdentityRecord {
    /// `machine-id` or `ssh-host-key`.
    pub kind: String,
    /// The file.
    pub path: String,
    /// `cloud-init` when that makes it anew on each machine.
    pub renewed_by: Option<String>,
}

/// The machine that was captured.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MachineFacts {
    /// `x86_64`.
    pub architecture: Option<String>,
    /// Virtual processors.
    pub cpus: Option<u32>,
    /// Memory in bytes.
    pub memory_bytes: Option<u64>,
    /// `bios` or `uefi`.
    pub firmware: Option<String>,
    /// Version of the QEMU that ran it.
    pub qemu: Option<String>,
}

/// How an image was captured. Sizes are bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CaptureRecord {
    /// What.
    pub source: CaptureSource,
    /// The point in time that the disk shows.
    pub point: Timestamp,
    /// Whether the machine was running.
    pub running: bool,
    /// How consistent it is.
    pub consistency: Consistency,
    /// What proves that, and what keeps it from being more; in words.
    pub because: String,
    /// The freeze, when there was one.
    pub freeze: Option<FreezeRecord>,
    /// File systems as they were found in the captured disk.
    pub file_systems: Vec<FileSystemRecord>,
    /// What of the machine's identity the image carries.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub identity: Vec<IdentityRecord>,
    /// The image whose layers are below; none when the layer holds all.
    pub parent: Option<ImageId>,
    /// How the changes were found.
    pub found_by: FoundBy,
    /// Data that differs from the parent.
    pub changed_bytes: u64,
    /// Zeros where the parent has data.
    pub zeroed_bytes: u64,
    /// What was read and found to be as in the parent.
    pub same_bytes: u64,
    /// The machine.
    pub machine: Option<MachineFacts>,
    /// Captured at the same point in time: how many disks, this one included.
    pub disks: u32,
}
