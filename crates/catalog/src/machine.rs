//! What an instance is made of, as its record remembers it.
//!
//! The record is the one thing that whoever runs machines and whoever captures their disks share, so it says what
//! both need: which file is which disk, what lies below it, how the device is called. Files and sockets are named
//! without a folder: they lie in the instance's own ([`Store::instance_dir`](crate::Store::instance_dir)).

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::id::{ImageId, LayerId};

/// Socket of the machine protocol (QMP) in an instance's folder.
pub const QMP_SOCKET: &str = "qmp.sock";
/// Socket of the guest agent's channel.
pub const AGENT_SOCKET: &str = "agent.sock";
/// Socket of the serial console.
pub const CONSOLE_SOCKET: &str = "console.sock";
/// Socket over which a capture reads the disks: there as long as one is at work.
pub const CAPTURE_SOCKET: &str = "capture.sock";
/// What the serial console has printed.
pub const CONSOLE_LOG: &str = "console.log";

/// The firmware that starts a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MachineFirmware {
    /// SeaBIOS.
    Bios,
    /// OVMF, with variables of its own in the instance's folder.
    Uefi,
}

/// What a disk is to its machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DiskRole {
    /// The machine starts from it. The first disk, and only it.
    Root,
    /// Everything else.
    Data,
}

/// A disk of an instance: a qcow2 overlay of its own over the layers of an image, or over nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MachineDisk {
    /// `disk0`, `disk1`, ...: the name of the QEMU node that the device writes to, the id of the device's backend,
    /// and the serial number that the guest sees. That node is a `raw` one without offset over the overlay's
    /// (`disk0-overlay`), so that a filter can be put between the two for all disks in one step.
    pub id: String,
    /// The overlay's file name.
    pub file: String,
    /// Length of the disk in bytes.
    pub disk_bytes: u64,
    /// What it is to the machine.
    pub role: DiskRole,
    /// The image that it began as; none for an empty disk.
    pub image: Option<ImageId>,
    /// The layers below the overlay, base first.
    pub layers: Vec<LayerId>,
    /// The last capture of it, which the next one can stand on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub captured: Option<CapturedDisk>,
}

/// The last capture of a disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CapturedDisk {
    /// The image that it became.
    pub image: ImageId,
    /// The dirty bitmap that has counted what was written since, by its name on the overlay's node.
    pub bitmap: Option<String>,
    /// When.
    pub at: Timestamp,
}

/// A network card of an instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MachineNic {
    /// `52:54:00:xx:xx:xx`, lower case.
    pub mac: String,
    /// What it is connected to.
    pub network: Network,
}

/// What a network card is connected to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub enum Network {
    /// QEMU's own user network, with ports of this host led into the guest.
    User {
        /// Each leads a TCP port of 127.0.0.1 into the guest.
        forwards: Vec<Forward>,
    },
    /// A tap device that is there already.
    Tap {
        /// Its name.
        name: String,
    },
    /// A card without a cable.
    None,
}

/// A port of this host that leads into the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Forward {
    /// TCP port on 127.0.0.1.
    pub host: u16,
    /// TCP port of the guest.
    pub guest: u16,
}

/// What an instance is made of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Machine {
    /// Guest architecture: `x86_64`.
    pub architecture: String,
    /// Virtual processors, from 1.
    pub cpus: u32,
    /// Memory in bytes.
    pub memory_bytes: u64,
    /// How it starts.
    pub firmware: MachineFirmware,
    /// SMBIOS UUID, lower case with hyphens.
    pub uuid: String,
    /// What cloud-init knows the instance by. A new one makes it set the guest up again.
    pub instance_id: String,
    /// The disks, the root disk first.
    pub disks: Vec<MachineDisk>,
    /// The network cards.
    pub nics: Vec<MachineNic>,
    /// File name of the disk that cloud-init reads.
    pub seed: Option<String>,
    /// Disks that were put aside by a rebuild until the machine has started, by the id of the disk.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub aside: BTreeMap<String, MachineDisk>,
}

impl Machine {
    /// All layers that its disks need, each once, in the order of the disks.
    #[must_use]
    pub fn layers(&self) -> Vec<LayerId> {
        let mut all: Vec<LayerId> = Vec::new();
        for layer in self.disks.iter().chain(self.aside.values()).flat_map(|disk| &disk.layers) {
            if !all.contains(layer) {
                all.push(layer.clone());
            }
        }
        all
    }
}
