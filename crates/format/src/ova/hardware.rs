//! What a machine is made of: the `Item`s of a `VirtualHardwareSection`, which are CIM resource allocations
//! (DSP0243 section 8; resource types of the CIM schema's `CIM_ResourceAllocationSettingData`).

use kiln_disk::Result;
use roxmltree::Node;
use serde::Serialize;

use super::descriptor::{Place, attribute, child, child_text, clipped, elements, vmware};
use super::problem::OvaProblem;
use super::units::{bytes_of, digits};

/// How the machine starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Firmware {
    /// From its boot sector.
    Bios,
    /// By UEFI.
    Efi,
}

impl Firmware {
    /// The word.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Bios => "bios",
            Self::Efi => "efi",
        }
    }
}

/// What a machine is made of. Texts are as stored.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Hardware {
    /// What hypervisor it is for: `vmx-19`, `virtualbox-2.2`.
    pub family: Option<String>,
    /// How it starts, where the descriptor says so; programs that do not find it take BIOS.
    pub firmware: Option<Firmware>,
    /// Whether UEFI verifies what it starts.
    pub secure_boot: Option<bool>,
    /// Processors.
    pub cpus: Option<u64>,
    /// Memory.
    pub memory_bytes: Option<u64>,
    /// What disks hang on.
    pub controllers: Vec<Controller>,
    /// Disks, and drives for removable media.
    pub drives: Vec<Drive>,
    /// Network cards.
    pub networks: Vec<Network>,
}

/// What disks hang on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Controller {
    /// Id within the section.
    pub instance: String,
    /// `ide`, `scsi`, `sata`, `nvme`, `other`.
    pub bus: &'static str,
    /// The model, in the word of the program that wrote it: `VirtualSCSI`, `lsilogic`, `AHCI`.
    pub model: Option<String>,
}

/// What a drive is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum DriveKind {
    /// A disk.
    Disk,
    /// A CD or DVD.
    Cdrom,
    /// A floppy disk.
    Floppy,
}

/// A disk, or a drive for removable media.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Drive {
    /// What for.
    pub kind: DriveKind,
    /// Id of the disk or file in it, without the `ovf:/disk/` before it.
    pub holds: Option<String>,
    /// Id of the controller it hangs on.
    pub controller: Option<String>,
    /// Where on that.
    pub slot: Option<u64>,
}

/// A network card.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Network {
    /// The model: `VmxNet3`, `E1000`.
    pub model: Option<String>,
    /// The network it is connected to.
    pub network: Option<String>,
}

/// More of one kind than any machine has are passed over.
const MOST: usize = 256;

impl Hardware {
    /// Reads a section of the machine `system`.
    pub(super) fn parse(section: Node<'_, '_>, system: Node<'_, '_>, place: Place) -> Result<Self> {
        let mut hardware = Self::default();
        for node in elements(section) {
            match node.tag_name().name() {
                "System" => hardware.family = child_text(node, "VirtualSystemType"),
                "Item" | "StorageItem" | "EthernetPortItem" => hardware.item(node, place)?,
                "Config" | "ExtraConfig" => hardware.config(node),
                _ => {}
            }
        }
        hardware.virtual_box(system);
        Ok(hardware)
    }

    fn item(&mut self, item: Node<'_, '_>, place: Place) -> Result<()> {
        let text = |name| child_text(item, name);
        let Some(kind) = text("ResourceType").as_deref().and_then(digits) else { return Ok(()) };
        let amount = || -> Result<Option<u64>> {
            let Some(value) = text("VirtualQuantity") else { return Ok(None) };
            match digits(&value) {
                Some(amount) => Ok(Some(amount)),
                None => Err(place.wrong(item, OvaProblem::Number { attribute: "VirtualQuantity", value })),
            }
        };
        // An item of one configuration is an alternative to the general one.
        let general = attribute(item, "configuration").is_none();
        match kind {
            3 if general || self.cpus.is_none() => self.cpus = amount()?.or(self.cpus),
            4 if general || self.memory_bytes.is_none() => {
                let units = text("AllocationUnits").unwrap_or_else(|| "byte * 2^20".to_owned());
                let unit = bytes_of(&units);
                let unit = unit.ok_or_else(|| place.wrong(item, OvaProblem::Units(units)))?;
                self.memory_bytes = amount()?.and_then(|amount| amount.checked_mul(unit));
            }
            5 => self.controller(item, "ide"),
            6..=9 => self.controller(item, "scsi"),
            20 => {
                let model = text("ResourceSubType").unwrap_or_default().to_ascii_lowercase();
                let bus = match model.as_str() {
                    model if model.contains("nvme") => "nvme",
                    model if model.contains("ahci") || model.contains("sata") => "sata",
                    _ => "other",
                };
                self.controller(item, bus);
            }
            14 => self.drive(item, DriveKind::Floppy),
            15 | 16 => self.drive(item, DriveKind::Cdrom),
            17 | 31 => self.drive(item, DriveKind::Disk),
            10 if self.networks.len() < MOST => {
                self.networks.push(Network { model: text("ResourceSubType"), network: text("Connection") });
            }
            _ => {}
        }
        Ok(())
    }

    fn controller(&mut self, item: Node<'_, '_>, bus: &'static str) {
        if self.controllers.len() < MOST {
            self.controllers.push(Controller {
                instance: child_text(item, "InstanceID").unwrap_or_default(),
                bus,
                model: child_text(item, "ResourceSubType"),
            });
        }
    }

    fn drive(&mut self, item: Node<'_, '_>, kind: DriveKind) {
        if self.drives.len() < MOST {
            let holds = child_text(item, "HostResource")
                .map(|path| path.rsplit('/').next().unwrap_or_default().to_owned())
                .filter(|id| !id.is_empty());
            self.drives.push(Drive {
                kind,
                holds,
                controller: child_text(item, "Parent"),
                slot: child_text(item, "AddressOnParent").as_deref().and_then(digits),
            });
        }
    }

    /// VMware's settings: `vmw:Config` and `vmw:ExtraConfig`.
    fn config(&mut self, node: Node<'_, '_>) {
        let flag = |value: &str| match value.to_ascii_lowercase().as_str() {
            "true" => Some(true),
            "false" => Some(false),
            _ => None,
        };
        match (vmware(node, "key"), vmware(node, "value")) {
            (Some("firmware"), Some(value)) => {
                self.firmware = match value.to_ascii_lowercase().as_str() {
                    "efi" => Some(Firmware::Efi),
                    "bios" => Some(Firmware::Bios),
                    _ => self.firmware,
                };
            }
            (Some("bootOptions.efiSecureBootEnabled" | "uefi.secureBoot.enabled"), Some(value)) => {
                self.secure_boot = flag(value);
            }
            _ => {}
        }
    }

    /// VirtualBox' own settings: `vbox:Machine/Hardware/Firmware`.
    fn virtual_box(&mut self, system: Node<'_, '_>) {
        // Its namespace is "http://www.virtualbox.org/ovf/machine".
        let hardware = elements(system)
            .filter(|node| node.tag_name().namespace().is_some_and(|space| space.contains("virtualbox.org/")))
            .find_map(|machine| child(machine, "Hardware"));
        if let Some(kind) = hardware.and_then(|hardware| child(hardware, "Firmware")?.attribute("type")) {
            let efi = clipped(kind).to_ascii_uppercase().starts_with("EFI");
            self.firmware = Some(if efi { Firmware::Efi } else { Firmware::Bios });
        }
    }

    /// What a disk hangs on: bus and model.
    #[must_use]
    pub fn controller_of(&self, disk: &str) -> Option<&Controller> {
        let drive = self
            .drives
            .iter()
            .find(|drive| drive.kind == DriveKind::Disk && drive.holds.as_deref() == Some(disk))?;
        let instance = drive.controller.as_deref()?;
        self.controllers.iter().find(|controller| controller.instance == instance)
    }
}
