//! A systemd unit that starts an instance with the host and powers it down with it. Source: systemd.service(5).

use std::path::{Path, PathBuf};

use kiln_catalog::{InstanceRecord, Store};

use crate::error::{Result, io};
use crate::process::title;

/// `kiln-web-1.service`.
#[must_use]
pub fn unit_name(record: &InstanceRecord) -> String {
    format!("kiln-{}.service", title(record))
}

/// The unit of an instance. `kiln` is the program, `system` whether it is for the system's or a user's manager.
///
/// A start ends as soon as QEMU answers, and QEMU stays in the unit's control group: `oneshot` with what remains.
#[must_use]
pub fn systemd(store: &Store, record: &InstanceRecord, kiln: &Path, system: bool) -> String {
    let absolute = |path: &Path| std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let (kiln, place) = (word(&absolute(kiln)), word(&absolute(store.path())));
    let (id, account) = (&record.id, &record.account);
    let command = format!("{kiln} --store {place} --account {account}");
    let target = if system { "multi-user.target" } else { "default.target" };
    format!(
        "[Unit]\nDescription=Machine {} ({id})\nAfter=network-online.target\nWants=network-online.target\n\n\
         [Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart={command} start {id}\n\
         ExecStop={command} stop --timeout 90 {id}\nTimeoutStartSec=180\nTimeoutStopSec=120\nKillMode=mixed\n\n\
         [Install]\nWantedBy={target}\n",
        title(record)
    )
}

/// Writes the unit into the instance's folder, for the manager of whoever asks: the system's for root.
///
/// # Errors
/// I/O.
pub fn write_unit(store: &Store, record: &InstanceRecord, kiln: &Path) -> Result<PathBuf> {
    let path = store.instance_dir(&record.id).join(unit_name(record));
    let system = rustix::process::geteuid().is_root();
    std::fs::write(&path, systemd(store, record, kiln, system))
        .map_err(|source| io("write", &path, source))?;
    Ok(path)
}

/// A word of a command line in a unit: quoted, `%` and `$` doubled.
fn word(path: &Path) -> String {
    let text = path.display().to_string();
    let text = text.replace('\\', "\\\\").replace('"', "\\\"").replace('%', "%%").replace('$', "$$");
    format!("\"{text}\"")
}
