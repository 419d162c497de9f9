//! What makes a machine this one and no other, as far as it lies on its disk.

use std::sync::Arc;

use kiln_disk::{Budget, Disk, Result};

use super::{Seen, access, cloud, root, secrets};
use crate::volume::layout;

/// What machines made from an image would share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Files with an id of the machine.
    pub machine_ids: Vec<Seen>,
    /// Private host keys of the SSH server.
    pub host_keys: Vec<Seen>,
    /// cloud-init is started, and by its defaults makes new host keys on a machine with another instance-id
    /// (`ssh_deletekeys`; cloud-init documentation, module "SSH"). It leaves the machine's id alone.
    pub renews_host_keys: bool,
}

/// Looks for it on the disks of one machine, without looking at anything else; `None` when no system is found.
///
/// # Errors
/// I/O of the disks, and their budget.
pub fn identity(disks: &[Arc<dyn Disk>], budget: &Arc<Budget>) -> Result<Option<Identity>> {
    let layout = layout(disks, budget)?;
    let found = root::find(&layout, None, &mut Vec::new())?;
    if found.roots.is_empty() {
        return Ok(None);
    }
    Ok(Some(Identity {
        machine_ids: secrets::machine_ids(&found.tree),
        host_keys: access::host_keys(&found.tree),
        renews_host_keys: cloud::read(&found.tree)
            .is_some_and(|cloud| cloud.enabled && cloud.disabled_by.is_none()),
    }))
}
