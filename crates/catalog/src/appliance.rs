//! The machine that an imported disk was part of.

use serde::{Deserialize, Serialize};

/// What an appliance's descriptor says of the machine around the disk: a record of where the image comes from, not
/// a promise. Texts are as stored there.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ApplianceRecord {
    /// Name of the descriptor.
    pub descriptor: String,
    /// Name of the disk's file in the appliance.
    pub disk: String,
    /// Whether all of the appliance's files have the digests of its manifest.
    pub manifest_verified: bool,
    /// Name of the machine.
    pub system: Option<String>,
    /// What is installed, in the word of the program that made the appliance.
    pub os_type: Option<String>,
    /// What is installed, for people.
    pub os_description: Option<String>,
    /// The hypervisor that it was made for: `vmx-13`.
    pub family: Option<String>,
    /// How the machine starts: `bios` or `efi`.
    pub firmware: Option<String>,
    /// Whether UEFI verifies what it starts.
    pub secure_boot: Option<bool>,
    /// Processors.
    pub cpus: Option<u64>,
    /// Memory.
    pub memory_bytes: Option<u64>,
    /// What the disk hung on: `scsi`.
    pub disk_bus: Option<String>,
    /// Model of that.
    pub disk_controller: Option<String>,
    /// Models of the network cards.
    pub networks: Vec<String>,
}
