//! What each place demands of a Windows, as data: the disk and the network card that it attaches.
//!
//! Sources: the places' own pages as for Linux ([`super::super::places`]); virtio-win; Microsoft, "Prepare a Windows
//! VHD to upload to Azure"; AWS, "NVMe drivers for Windows", "ENA driver for Windows"; Linux-NTFS and virt-v2v for the
//! hardware ids.

/// A device of a place and the drivers of which one is enough, the usual one first.
#[derive(Debug, Clone, Copy)]
pub(super) struct Device {
    /// The rule that reports what is missing.
    pub(super) rule: &'static str,
    /// The device in words.
    pub(super) what: &'static str,
    /// Services.
    pub(super) drivers: &'static [&'static str],
    /// Buses without which it is not found, those that Windows brings along.
    pub(super) buses: &'static [&'static str],
    /// Beginnings of its hardware ids, where a driver that Windows does not bring along must be bound to it.
    pub(super) ids: &'static [&'static str],
    /// How to get the driver into a guest.
    pub(super) how: &'static str,
}

/// What a place has for a Windows.
#[derive(Debug, Clone, Copy)]
pub(super) struct Needs {
    /// The disk; nothing where Windows is not taken.
    pub(super) disk: Option<Device>,
    /// The network card.
    pub(super) net: Option<Device>,
    /// A person sees its screen without a network.
    pub(super) screen: bool,
    /// How to attach the disk to a controller whose driver belongs to Windows (AHCI), where the place lets one.
    pub(super) ahci: Option<&'static str>,
}

const VIRTIO_HOW: &str = "start it once on the disk it has now (SATA, IDE, SAS), run virtio-win-guest-tools.exe of \
virtio-win.iso, attach a small second disk on the new bus and start it once more, so that Windows binds the driver; \
or without starting it: virt-v2v -i disk DISK -o local -os DIR";

const VIRTIO_BLK: Device = Device {
    rule: "win.viostor",
    what: "virtio disk",
    drivers: &["viostor"],
    buses: &["pci"],
    ids: &["VEN_1AF4&DEV_1001", "VEN_1AF4&DEV_1042"],
    how: VIRTIO_HOW,
};
const VIRTIO_SCSI: Device = Device {
    rule: "win.viostor",
    what: "virtio SCSI controller",
    drivers: &["vioscsi"],
    buses: &["pci"],
    ids: &["VEN_1AF4&DEV_1004", "VEN_1AF4&DEV_1048"],
    how: VIRTIO_HOW,
};
const HYPER_V: Device = Device {
    rule: "win.hyperv",
    what: "Hyper-V disk",
    drivers: &["storvsc"],
    buses: &["vmbus"],
    ids: &[],
    how: "it belongs to Windows since 2008 R2; restore it from the installation medium: sfc /scannow \
/offbootdir=D:\\ /offwindir=D:\\Windows",
};
const NVME: Device = Device {
    rule: "win.nvme",
    what: "NVMe disk",
    drivers: &["stornvme", "awsnvme"],
    buses: &["pci"],
    ids: &[],
    how: "it belongs to Windows since 8.1 and 2012 R2; before that: install AWSNVMe (AWSNVMe.zip of AWS), or import \
with VM Import, which adds it",
};
const VMWARE: Device = Device {
    rule: "win.pvscsi",
    what: "VMware SCSI controller",
    drivers: &["LSI_SAS", "pvscsi", "stornvme", "storahci", "LSI_SCSI"],
    buses: &["pci"],
    ids: &[],
    how: "install VMware Tools, or choose the controller LSI Logic SAS or SATA, whose drivers belong to Windows",
};

const NETKVM: Device = Device {
    rule: "win.netkvm",
    what: "virtio network card",
    drivers: &["netkvm"],
    buses: &[],
    ids: &[],
    how: "run virtio-win-guest-tools.exe of virtio-win.iso, or: pnputil /add-driver E:\\NetKVM\\2k22\\amd64\\netkvm.inf \
/install",
};
const NETVSC: Device = Device {
    rule: "win.netkvm",
    what: "Hyper-V network card",
    drivers: &["netvsc"],
    buses: &[],
    ids: &[],
    how: "it belongs to Windows since 2008 R2; restore it from the installation medium: sfc /scannow",
};
const ENA: Device = Device {
    rule: "win.netkvm",
    what: "ENA network card",
    drivers: &["ena"],
    buses: &[],
    ids: &[],
    how: "install the ENA driver of AWS: AwsEnaNetworkDriver.zip, then install.ps1 as administrator; VM Import adds it \
by itself, an imported snapshot has what is on its disk",
};
const GOOGLE: Device = Device {
    rule: "win.netkvm",
    what: "virtio network card or gVNIC",
    drivers: &["netkvm", "gvnic", "gve"],
    buses: &[],
    ids: &[],
    how: "run virtio-win-guest-tools.exe of virtio-win.iso, or on Google Cloud: googet install \
google-compute-engine-driver-gvnic",
};

const fn needs(disk: Device, net: Device, screen: bool) -> Needs {
    Needs { disk: Some(disk), net: Some(net), screen, ahci: None }
}

/// What the place of an id has for a Windows.
pub(super) fn of(place: &str) -> Needs {
    match place {
        "tencent" | "alibaba" => needs(VIRTIO_BLK, NETKVM, false),
        "openstack" => Needs {
            ahci: Some("openstack image set --property hw_disk_bus=sata IMAGE"),
            ..needs(VIRTIO_BLK, NETKVM, false)
        },
        "kvm" => Needs {
            ahci: Some("attach the disk as <target dev='sda' bus='sata'/>"),
            ..needs(VIRTIO_BLK, NETKVM, true)
        },
        "proxmox" => Needs {
            ahci: Some("qm set VMID --sata0 STORAGE:DISK --boot order=sata0"),
            ..needs(VIRTIO_SCSI, NETKVM, true)
        },
        "oracle" => needs(VIRTIO_SCSI, NETKVM, false),
        "gcp" => needs(VIRTIO_SCSI, GOOGLE, false),
        "aws" => needs(NVME, ENA, false),
        "azure" => needs(HYPER_V, NETVSC, false),
        "hyper-v" => needs(HYPER_V, NETVSC, true),
        // e1000e, whose driver belongs to Windows, is what a new machine for Windows gets.
        "vmware" => Needs { disk: Some(VMWARE), net: None, screen: true, ahci: None },
        _ => Needs { disk: None, net: None, screen: false, ahci: None },
    }
}
