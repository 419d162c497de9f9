//! The descriptor of a new appliance: one machine, one disk. Element order inside an `Item` is the schema's, which
//! is the alphabet's; strict readers validate it.

use std::fmt::Write as _;

use kiln_disk::{Error, Result};

use crate::options::Options;

/// What the machine is to be.
pub(super) struct Machine {
    pub(super) name: String,
    disk_len: u64,
    os_type: String,
    family: String,
    is_efi: bool,
    cpus: u64,
    memory_mib: u64,
    controller: ControllerModel,
    network: String,
}

/// What the disk hangs on.
#[derive(Clone, Copy)]
enum ControllerModel {
    Scsi(&'static str),
    Sata,
    Ide,
}

impl Machine {
    /// What the options say.
    ///
    /// # Errors
    /// [`Error::Refused`] (`option.value`).
    pub(super) fn of(options: &Options, disk_len: u64) -> Result<Self> {
        let word = |name: &str| {
            let value = options.get(name);
            let plain = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c);
            if value.is_empty() || value.len() > 80 || value.starts_with('.') || !value.chars().all(plain) {
                return Err(options.bad_value(name));
            }
            Ok(value.to_owned())
        };
        let controller = match options.get("controller") {
            "pvscsi" => ControllerModel::Scsi("VirtualSCSI"),
            "lsilogic" => ControllerModel::Scsi("lsilogic"),
            "sata" => ControllerModel::Sata,
            "ide" => ControllerModel::Ide,
            _ => return Err(options.bad_value("controller")),
        };
        let is_efi = match options.get("firmware") {
            "bios" => false,
            "efi" => true,
            _ => return Err(options.bad_value("firmware")),
        };
        let cpus = match options.get("cpus").parse() {
            Ok(cpus @ 1..=768) => cpus,
            _ => return Err(options.bad_value("cpus")),
        };
        let memory = options.size("memory")?;
        if memory == 0 || !memory.is_multiple_of(4 << 20) {
            return Err(options.bad_value("memory"));
        }
        let family = word("hardware")?;
        if !family.starts_with("vmx-") && !family.starts_with("virtualbox-") {
            return Err(options.bad_value("hardware"));
        }
        Ok(Self {
            name: word("name")?,
            disk_len,
            os_type: word("os_type")?,
            family,
            is_efi,
            cpus,
            memory_mib: memory >> 20,
            controller,
            network: word("network")?,
        })
    }

    /// Name of the disk's file.
    pub(super) fn disk_name(&self) -> String {
        format!("{}-disk1.vmdk", self.name)
    }

    /// The number that CIM has for the operating system: `CIM_OperatingSystem.OSType`.
    fn os_id(&self) -> u32 {
        let known = |start: &str| self.os_type.starts_with(start);
        match () {
            () if known("ubuntu64") => 94,
            () if known("debian") && self.os_type.contains("64") => 96,
            () if known("rhel") && self.os_type.contains("64") => 80,
            () if known("centos") && self.os_type.contains("64") => 107,
            () if known("sles") && self.os_type.contains("64") => 85,
            () if known("freebsd") && self.os_type.contains("64") => 78,
            () if self.os_type.contains("inux64") => 101,
            () => 102,
        }
    }

    /// The text, for a disk file of `file_len` bytes with `populated` bytes of data in it.
    pub(super) fn descriptor(&self, file_len: u64, populated: u64) -> Result<String> {
        let mut text = String::with_capacity(4096);
        self.write(&mut text, file_len, populated).map(|()| text).map_err(|_| Error::Cancelled)
    }

    fn write(&self, out: &mut String, file_len: u64, populated: u64) -> std::fmt::Result {
        let Self { name, disk_len, os_type, family, network, .. } = self;
        let cim = "http://schemas.dmtf.org/wbem/wscim/1";
        write!(
            out,
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
             <Envelope xmlns=\"http://schemas.dmtf.org/ovf/envelope/1\" xmlns:cim=\"{cim}/common\" \
             xmlns:ovf=\"http://schemas.dmtf.org/ovf/envelope/1\" \
             xmlns:rasd=\"{cim}/cim-schema/2/CIM_ResourceAllocationSettingData\" \
             xmlns:vmw=\"http://www.vmware.com/schema/ovf\" \
             xmlns:vssd=\"{cim}/cim-schema/2/CIM_VirtualSystemSettingData\" \
             xmlns:xsi=\"http://www.w3.org/2001/XMLSchema-instance\">\n  \
             <References>\n    \
             <File ovf:href=\"{disk}\" ovf:id=\"file1\" ovf:size=\"{file_len}\"/>\n  \
             </References>\n  \
             <DiskSection>\n    \
             <Info>Virtual disk information</Info>\n    \
             <Disk ovf:capacity=\"{disk_len}\" ovf:capacityAllocationUnits=\"byte\" ovf:diskId=\"vmdisk1\" \
             ovf:fileRef=\"file1\" \
             ovf:format=\"http://www.vmware.com/interfaces/specifications/vmdk.html#streamOptimized\" \
             ovf:populatedSize=\"{populated}\"/>\n  \
             </DiskSection>\n  \
             <NetworkSection>\n    \
             <Info>The list of logical networks</Info>\n    \
             <Network ovf:name=\"VM Network\">\n      <Description>The VM Network network</Description>\n    \
             </Network>\n  \
             </NetworkSection>\n  \
             <VirtualSystem ovf:id=\"{name}\">\n    \
             <Info>A virtual machine</Info>\n    \
             <Name>{name}</Name>\n    \
             <OperatingSystemSection ovf:id=\"{os_id}\" vmw:osType=\"{os_type}\">\n      \
             <Info>The kind of installed guest operating system</Info>\n    \
             </OperatingSystemSection>\n    \
             <VirtualHardwareSection>\n      \
             <Info>Virtual hardware requirements</Info>\n      \
             <System>\n        \
             <vssd:ElementName>Virtual Hardware Family</vssd:ElementName>\n        \
             <vssd:InstanceID>0</vssd:InstanceID>\n        \
             <vssd:VirtualSystemIdentifier>{name}</vssd:VirtualSystemIdentifier>\n        \
             <vssd:VirtualSystemType>{family}</vssd:VirtualSystemType>\n      \
             </System>\n",
            disk = self.disk_name(),
            os_id = self.os_id(),
        )?;
        let cpus = self.cpus.to_string();
        item(
            out,
            &[
                ("AllocationUnits", "hertz * 10^6"),
                ("Description", "Number of virtual CPUs"),
                ("ElementName", "CPU"),
                ("InstanceID", "1"),
                ("ResourceType", "3"),
                ("VirtualQuantity", &cpus),
            ],
        )?;
        let memory = self.memory_mib.to_string();
        item(
            out,
            &[
                ("AllocationUnits", "byte * 2^20"),
                ("Description", "Memory Size"),
                ("ElementName", "Memory"),
                ("InstanceID", "2"),
                ("ResourceType", "4"),
                ("VirtualQuantity", &memory),
            ],
        )?;
        let (bus, model, kind) = match self.controller {
            ControllerModel::Scsi(model) => ("SCSI Controller 0", Some(model), "6"),
            ControllerModel::Sata => ("SATA Controller 0", Some("AHCI"), "20"),
            ControllerModel::Ide => ("IDE Controller 0", None, "5"),
        };
        let mut controller = vec![("Address", "0"), ("ElementName", bus), ("InstanceID", "3")];
        controller.extend(model.map(|model| ("ResourceSubType", model)));
        controller.push(("ResourceType", kind));
        item(out, &controller)?;
        item(
            out,
            &[
                ("AddressOnParent", "0"),
                ("ElementName", "Hard Disk 1"),
                ("HostResource", "ovf:/disk/vmdisk1"),
                ("InstanceID", "4"),
                ("Parent", "3"),
                ("ResourceType", "17"),
            ],
        )?;
        item(
            out,
            &[
                ("AddressOnParent", "7"),
                ("AutomaticAllocation", "true"),
                ("Connection", "VM Network"),
                ("ElementName", "Ethernet 1"),
                ("InstanceID", "5"),
                ("ResourceSubType", network),
                ("ResourceType", "10"),
            ],
        )?;
        if self.is_efi {
            out.push_str(
                "      <vmw:Config ovf:required=\"false\" vmw:key=\"firmware\" vmw:value=\"efi\"/>\n",
            );
        }
        out.push_str("    </VirtualHardwareSection>\n  </VirtualSystem>\n</Envelope>\n");
        Ok(())
    }
}

fn item(out: &mut String, fields: &[(&str, &str)]) -> std::fmt::Result {
    out.push_str("      <Item>\n");
    for (name, value) in fields {
        writeln!(out, "        <rasd:{name}>{value}</rasd:{name}>")?;
    }
    out.push_str("      </Item>\n");
    Ok(())
}
