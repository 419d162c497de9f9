//! Builds appliances from the specification alone (DSP0243), good and odd ones, sharing no code with the crate
//! under test.

use sha2::{Digest, Sha256};

use crate::tar::TarBuilder;

/// A disk of an appliance.
#[derive(Debug, Clone)]
pub struct OvaDisk {
    /// Name of its file.
    pub name: String,
    /// The file.
    pub bytes: Vec<u8>,
    /// Attributes of its `File` element beside id and href.
    pub file_attributes: String,
    /// `ovf:capacity` and what else its `Disk` element has beside the ids.
    pub disk_attributes: String,
}

/// What an appliance is to be like; the default is what a careful program writes, without a disk.
#[derive(Debug, Clone)]
pub struct OvaBuilder {
    /// Name of descriptor and manifest without their endings.
    pub stem: String,
    /// Its disks.
    pub disks: Vec<OvaDisk>,
    /// Whole elements before the closing tag of the machine's hardware.
    pub hardware: String,
    /// Whole elements before the closing tag of the envelope.
    pub extra: String,
    /// Text before the root element.
    pub prologue: String,
    /// Name space of the envelope.
    pub namespace: String,
}

impl Default for OvaBuilder {
    fn default() -> Self {
        Self {
            stem: "box".to_owned(),
            disks: Vec::new(),
            hardware: String::new(),
            extra: String::new(),
            prologue: "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n".to_owned(),
            namespace: "http://schemas.dmtf.org/ovf/envelope/1".to_owned(),
        }
    }
}

impl OvaBuilder {
    /// Adds a disk whose virtual length is `capacity` bytes.
    #[must_use]
    pub fn disk(mut self, name: &str, bytes: Vec<u8>, capacity: u64) -> Self {
        self.disks.push(OvaDisk {
            name: name.to_owned(),
            file_attributes: format!("ovf:size=\"{}\"", bytes.len()),
            disk_attributes: format!("ovf:capacity=\"{capacity}\""),
            bytes,
        });
        self
    }

    /// The descriptor.
    #[must_use]
    pub fn descriptor(&self) -> String {
        let (mut files, mut disks, mut drives) = (String::new(), String::new(), String::new());
        for (n, disk) in self.disks.iter().enumerate() {
            let OvaDisk { name, file_attributes, disk_attributes, .. } = disk;
            files += &format!("    <File ovf:id=\"file{n}\" ovf:href=\"{name}\" {file_attributes}/>\n");
            disks +=
                &format!("    <Disk ovf:diskId=\"disk{n}\" ovf:fileRef=\"file{n}\" {disk_attributes}/>\n");
            drives += &item(
                17,
                &format!("<rasd:HostResource>ovf:/disk/disk{n}</rasd:HostResource>"),
                &format!("<rasd:Parent>3</rasd:Parent><rasd:AddressOnParent>{n}</rasd:AddressOnParent>"),
            );
        }
        let hardware = [
            item(3, "<rasd:VirtualQuantity>2</rasd:VirtualQuantity>", ""),
            item(
                4,
                "<rasd:AllocationUnits>byte * 2^20</rasd:AllocationUnits>",
                "<rasd:VirtualQuantity>2048</rasd:VirtualQuantity>",
            ),
            item(
                6,
                "<rasd:InstanceID>3</rasd:InstanceID>",
                "<rasd:ResourceSubType>VirtualSCSI</rasd:ResourceSubType>",
            ),
            item(
                10,
                "<rasd:Connection>VM Network</rasd:Connection>",
                "<rasd:ResourceSubType>VmxNet3</rasd:ResourceSubType>",
            ),
            drives,
            self.hardware.clone(),
        ]
        .concat();
        format!(
            "{prologue}<Envelope xmlns=\"{space}\" xmlns:ovf=\"{space}\" \
             xmlns:rasd=\"http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_ResourceAllocationSettingData\" \
             xmlns:vssd=\"http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_VirtualSystemSettingData\" \
             xmlns:vmw=\"http://www.vmware.com/schema/ovf\">\n  <References>\n{files}  </References>\n  \
             <DiskSection>\n    <Info>Disks</Info>\n{disks}  </DiskSection>\n  <VirtualSystem ovf:id=\"box\">\n    \
             <Info>A machine</Info>\n    <Name>The box</Name>\n    \
             <OperatingSystemSection ovf:id=\"96\" vmw:osType=\"debian11_64Guest\"><Info>OS</Info>\
             <Description>Debian</Description></OperatingSystemSection>\n    \
             <VirtualHardwareSection>\n      <Info>Hardware</Info>\n      <System>\
             <vssd:VirtualSystemType>vmx-13</vssd:VirtualSystemType></System>\n{hardware}    \
             </VirtualHardwareSection>\n  </VirtualSystem>\n{extra}</Envelope>\n",
            prologue = self.prologue,
            space = self.namespace,
            extra = self.extra,
        )
    }

    /// All files in order: descriptor, manifest, disks.
    #[must_use]
    pub fn files(&self) -> Vec<(String, Vec<u8>)> {
        let mut files = vec![(format!("{}.ovf", self.stem), self.descriptor().into_bytes())];
        files.extend(self.disks.iter().map(|disk| (disk.name.clone(), disk.bytes.clone())));
        let manifest: String = files.iter().map(|(name, bytes)| manifest_line(name, bytes)).collect();
        files.insert(1, (format!("{}.mf", self.stem), manifest.into_bytes()));
        files
    }

    /// The archive.
    #[must_use]
    pub fn build(&self) -> Vec<u8> {
        pack(&self.files())
    }
}

/// One `Item` of this resource type.
#[must_use]
pub fn item(kind: u32, one: &str, other: &str) -> String {
    format!("      <Item>{one}{other}<rasd:ResourceType>{kind}</rasd:ResourceType></Item>\n")
}

/// The line of a manifest that fits a file.
#[must_use]
pub fn manifest_line(name: &str, bytes: &[u8]) -> String {
    let hex: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("SHA256({name})= {hex}\n")
}

/// Files as a tar archive.
#[must_use]
pub fn pack(files: &[(String, Vec<u8>)]) -> Vec<u8> {
    let mut builder = TarBuilder::default();
    for (name, bytes) in files {
        builder.file(name, bytes);
    }
    builder.finish()
}
