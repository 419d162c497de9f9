//! What each place demands of a guest, as data. How bad a finding is there, the caller says: [`super::Severities`].
//!
//! Sources, by place: Tencent "Making Linux Images", "Importing Images" (2022 to 2025); AWS VM Import/Export user guide
//! (2022-12); Azure "Prepare Linux for imaging" (2022-05); Google compute-image-import (2026-05); Alibaba "Image check"
//! (2024); OpenStack Glance (2026-07); DigitalOcean "Custom images" (2024); Oracle "Importing custom Linux images";
//! virt-v2v 2.x for KVM, Proxmox and VMware; Linux `drivers/hv`.

use serde::{Deserialize, Serialize};

use crate::facts::kernel::When;

/// The firmware of a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Firmware {
    /// A BIOS.
    Bios,
    /// UEFI without variables: the fallback loader starts.
    Uefi,
}

impl Firmware {
    /// The word.
    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::Bios => "bios",
            Self::Uefi => "uefi",
        }
    }
}

/// Drivers of a place. Of each group one is enough; every group is needed.
#[derive(Debug, Clone, Copy)]
pub struct Need {
    /// The rule that reports what is missing.
    pub rule: &'static str,
    /// The groups.
    pub groups: &'static [&'static [&'static str]],
    /// When they must be there.
    pub when: When,
}

/// A place where an image should run.
#[derive(Debug)]
pub struct Place {
    /// Its id.
    pub id: &'static str,
    /// Its name.
    pub name: &'static str,
    /// Firmware it offers, the usual one first.
    pub firmware: &'static [Firmware],
    /// Drivers.
    pub needs: &'static [Need],
    /// What disks are called there: "vd", "sd", "nvme".
    pub disk_prefix: &'static str,
    /// Names of cloud-init's datasources that work; none where nothing is offered.
    pub datasources: &'static [&'static str],
    /// File systems that its import takes as root; none: all.
    pub file_systems: &'static [&'static str],
}

/// The place of an id.
#[must_use]
pub fn place(id: &str) -> Option<&'static Place> {
    PLACES.iter().find(|place| place.id == id)
}

use Firmware::{Bios, Uefi};

const VIRTIO_BLK: Need =
    Need { rule: "kmod.virtio", groups: &[&["virtio_blk"], &["virtio_pci"]], when: When::Early };
const VIRTIO_SCSI: Need = Need {
    rule: "kmod.scsi-virtio",
    groups: &[&["virtio_scsi"], &["virtio_pci"], &["sd_mod"]],
    when: When::Early,
};
const VIRTIO_NET: Need =
    Need { rule: "kmod.net", groups: &[&["virtio_net"], &["virtio_pci"]], when: When::Late };
const NVME: Need = Need { rule: "kmod.nvme", groups: &[&["nvme"]], when: When::Early };
const HYPER_V: Need =
    Need { rule: "kmod.hyperv", groups: &[&["hv_vmbus"], &["hv_storvsc"], &["sd_mod"]], when: When::Early };
const HYPER_V_NET: Need = Need { rule: "kmod.net", groups: &[&["hv_netvsc"]], when: When::Late };

/// The places.
pub static PLACES: &[Place] = &[
    Place {
        id: "tencent",
        name: "Tencent Cloud CVM",
        firmware: &[Bios, Uefi],
        needs: &[VIRTIO_BLK, VIRTIO_NET],
        disk_prefix: "vd",
        datasources: &["ConfigDrive"],
        file_systems: &[],
    },
    Place {
        id: "aws",
        name: "AWS EC2",
        firmware: &[Bios, Uefi],
        needs: &[
            NVME,
            Need { rule: "kmod.ena", groups: &[&["ena"]], when: When::Late },
            Need { rule: "kmod.xen", groups: &[&["xen_blkfront"]], when: When::Early },
        ],
        disk_prefix: "nvme",
        datasources: &["Ec2"],
        file_systems: &["ext2", "ext3", "ext4", "btrfs", "jfs", "xfs"],
    },
    Place {
        id: "azure",
        name: "Microsoft Azure",
        firmware: &[Bios, Uefi],
        needs: &[HYPER_V, HYPER_V_NET],
        disk_prefix: "sd",
        datasources: &["Azure"],
        file_systems: &[],
    },
    Place {
        id: "gcp",
        name: "Google Compute Engine",
        firmware: &[Bios, Uefi],
        needs: &[VIRTIO_SCSI, Need { rule: "kmod.gve", groups: &[&["gve", "virtio_net"]], when: When::Late }],
        disk_prefix: "sd",
        datasources: &["GCE"],
        file_systems: &[],
    },
    Place {
        id: "alibaba",
        name: "Alibaba Cloud ECS",
        firmware: &[Bios, Uefi],
        needs: &[VIRTIO_BLK, VIRTIO_NET, Need { rule: "kmod.nvme", groups: &[&["nvme"]], when: When::Early }],
        disk_prefix: "vd",
        datasources: &["AliYun"],
        file_systems: &[],
        // The check of Alibaba reports; it never blocks. NVMe is asked for by some families only.
    },
    Place {
        id: "openstack",
        name: "OpenStack",
        firmware: &[Bios, Uefi],
        needs: &[VIRTIO_BLK, VIRTIO_NET],
        disk_prefix: "vd",
        datasources: &["OpenStack", "ConfigDrive"],
        file_systems: &[],
    },
    Place {
        id: "kvm",
        name: "KVM, libvirt",
        firmware: &[Bios, Uefi],
        needs: &[VIRTIO_BLK, VIRTIO_NET],
        disk_prefix: "vd",
        datasources: &[],
        file_systems: &[],
    },
    Place {
        id: "proxmox",
        name: "Proxmox VE",
        firmware: &[Bios, Uefi],
        needs: &[VIRTIO_SCSI, VIRTIO_NET],
        disk_prefix: "sd",
        datasources: &["NoCloud", "ConfigDrive"],
        file_systems: &[],
    },
    Place {
        id: "hyper-v",
        name: "Microsoft Hyper-V",
        firmware: &[Uefi, Bios],
        needs: &[HYPER_V, HYPER_V_NET],
        disk_prefix: "sd",
        datasources: &[],
        file_systems: &[],
    },
    Place {
        id: "vmware",
        name: "VMware vSphere",
        firmware: &[Bios, Uefi],
        needs: &[
            Need {
                rule: "kmod.vmware",
                groups: &[&["vmw_pvscsi", "mptspi"], &["sd_mod"]],
                when: When::Early,
            },
            Need { rule: "kmod.net", groups: &[&["vmxnet3", "e1000e", "e1000"]], when: When::Late },
        ],
        disk_prefix: "sd",
        datasources: &[],
        file_systems: &[],
    },
    Place {
        id: "digitalocean",
        name: "DigitalOcean",
        firmware: &[Bios],
        needs: &[VIRTIO_BLK, VIRTIO_NET],
        disk_prefix: "vd",
        datasources: &["ConfigDrive"],
        file_systems: &["ext3", "ext4"],
    },
    Place {
        id: "oracle",
        name: "Oracle Cloud Infrastructure",
        firmware: &[Uefi, Bios],
        needs: &[VIRTIO_SCSI, VIRTIO_NET],
        disk_prefix: "sd",
        datasources: &["Oracle"],
        file_systems: &[],
    },
];

#[cfg(test)]
mod tests {
    use super::super::{RULES, rule};
    use super::*;

    #[test]
    fn every_place_names_rules_that_are_there() {
        for place in PLACES {
            for need in place.needs {
                assert!(rule(need.rule).is_some(), "{}: {}", place.id, need.rule);
            }
        }
    }

    #[test]
    fn ids_are_unique_and_every_row_says_all() {
        for (index, rule) in RULES.iter().enumerate() {
            assert!(RULES[..index].iter().all(|before| before.id != rule.id), "{}", rule.id);
            for text in [rule.inspects, rule.summary, rule.effect, rule.fix] {
                assert!(!text.is_empty(), "{}", rule.id);
            }
        }
        assert_eq!(PLACES.len(), 12);
    }
}
