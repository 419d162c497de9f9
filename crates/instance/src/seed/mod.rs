//! What cloud-init reads in a new guest: who it is, how it is connected, and what its owner wants.
//!
//! cloud-init's NoCloud looks for a file system labelled `cidata`, ConfigDrive for one labelled `config-2`, and one
//! volume has one label. Which of the two a guest asks is written in its own files (`datasource_list`), not known for
//! a stranger's image, and may change when it is upgraded. So a seed is one read-only disk with two partitions, an
//! ISO 9660 volume in each: both look at partitions as they look at whole disks, one device carries both, and a guest
//! that asks for both finds the same facts in both.
//!
//! ```text
//! 0         MBR: two partitions of type 0x17 (as isohybrid marks ISO 9660 in a partition)
//! 64 KiB    cidata: meta-data, user-data, network-config
//! behind    config-2: openstack/latest/meta_data.json, user_data, network_data.json
//! ```

mod documents;
mod iso;

pub use documents::{Identity, SeedNic, UserData, UserDataProblem};

use self::iso::{IsoProblem, SECTOR};

/// Where the first volume starts, in bytes, and the unit in which the next one does.
const ALIGNMENT: usize = 64 << 10;
const MBR_SECTOR: usize = 512;
/// "Hidden NTFS/ISO 9660", which no system mounts by itself.
const PARTITION_TYPE: u8 = 0x17;

/// The seed of a guest: a disk of some hundred kilobytes, the same bytes for the same identity and user data.
///
/// # Errors
/// A user data file that does not fit ISO 9660, which [`UserData`] does not let through.
pub(crate) fn write(identity: &Identity, user_data: Option<&UserData>) -> Result<Vec<u8>, IsoProblem> {
    let user = user_data.map_or(documents::NO_USER_DATA, UserData::as_bytes);
    let (meta, network) = (documents::meta_data(identity), documents::network_config(identity));
    let no_cloud = iso::write(
        "cidata",
        &[("meta-data", meta.as_bytes()), ("user-data", user), ("network-config", network.as_bytes())],
    )?;
    let (meta, network) = (documents::openstack_meta_data(identity), documents::openstack_network(identity));
    let config_drive = iso::write(
        "config-2",
        &[
            ("openstack/latest/meta_data.json", meta.as_bytes()),
            ("openstack/latest/user_data", user),
            ("openstack/latest/network_data.json", network.as_bytes()),
        ],
    )?;
    let first = ALIGNMENT;
    let second = (first + no_cloud.len()).next_multiple_of(ALIGNMENT);
    let mut disk = vec![0_u8; second + config_drive.len()];
    for (slot, at, volume) in [(0, first, &no_cloud), (1, second, &config_drive)] {
        disk[at..at + volume.len()].copy_from_slice(volume);
        let entry = 446 + 16 * slot;
        disk[entry + 4] = PARTITION_TYPE;
        let lba = |bytes: usize| u32::try_from(bytes / MBR_SECTOR).map_err(|_| IsoProblem::FileTooLong);
        disk[entry + 8..entry + 12].copy_from_slice(&lba(at)?.to_le_bytes());
        disk[entry + 12..entry + 16].copy_from_slice(&lba(volume.len())?.to_le_bytes());
    }
    disk[510..512].copy_from_slice(&[0x55, 0xaa]);
    debug_assert_eq!(SECTOR % MBR_SECTOR, 0);
    Ok(disk)
}

#[cfg(test)]
mod tests;
