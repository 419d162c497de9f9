//! What the commands on instances share: finding one, telling about one, the host that runs them.

use std::path::PathBuf;

use jiff::Timestamp;
use kiln_catalog::machine::{MachineDisk, MachineFirmware, MachineNic};
use kiln_catalog::{InstanceRecord, Store};
use kiln_disk::{Event, Observer};
use kiln_instance::command::Accelerator;
use kiln_instance::{Host, process, wait};
use serde::Serialize;

use crate::error::Result;
use crate::output::{Size, Verbosity, complain, visible};
use crate::session::Session;
use crate::subject;

/// An instance, and the store that it is in.
pub(crate) struct Found {
    pub(crate) store: Store,
    pub(crate) record: InstanceRecord,
}

/// The instance that a word means.
pub(crate) fn find(word: &str, session: &Session) -> Result<Found> {
    let store = subject::open_store(session)?;
    let record = store.instance(word)?;
    Ok(Found { store, record })
}

/// What this host can do. What is noted on the way is said aloud: it is said once only.
pub(crate) fn host(store: &Store, session: &Session) -> Result<Host> {
    let path = std::env::var_os("PATH");
    let program =
        std::env::current_exe().map_err(|source| kiln_disk::Error::io("find", "this program", source))?;
    let keeper = vec![program.display().to_string(), "keep-console".to_owned()];
    match subject::settings(session, &[])?.accelerator() {
        Some("kvm") => return Ok(Host::told(Accelerator::Kvm, path.as_deref())?.with_keeper(keeper)),
        Some(_) => return Ok(Host::told(Accelerator::Tcg, path.as_deref())?.with_keeper(keeper)),
        None => {}
    }
    let aloud = Aloud { quiet: session.printer.verbosity == Verbosity::Quiet || session.printer.is_json() };
    Ok(Host::look(store, path.as_deref(), &aloud)?.with_keeper(keeper))
}

struct Aloud {
    quiet: bool,
}

impl Observer for Aloud {
    fn event(&self, event: Event<'_>) {
        if let (Event::Note { text }, false) = (event, self.quiet) {
            complain(&format!("note: {}\n", visible(text)));
        }
    }
}

/// An instance as `--json` has it.
#[derive(Debug, Serialize)]
pub(crate) struct InstanceView {
    pub(crate) id: String,
    pub(crate) name: Option<String>,
    pub(crate) state: &'static str,
    pub(crate) pid: Option<u32>,
    image: String,
    image_title: Option<String>,
    created_at: Timestamp,
    started_at: Option<Timestamp>,
    architecture: String,
    cpus: u32,
    memory_bytes: u64,
    firmware: MachineFirmware,
    uuid: String,
    instance_id: String,
    disks: Vec<MachineDisk>,
    aside: Vec<MachineDisk>,
    nics: Vec<MachineNic>,
    pub(crate) ssh_port: Option<u16>,
    dir: PathBuf,
}

impl InstanceView {
    pub(crate) fn of(store: &Store, record: &InstanceRecord) -> Result<Self> {
        let dir = store.instance_dir(&record.id);
        let running = store.instance_running(&record.id)?;
        let started = process::started_at(&dir).filter(|_| running);
        let machine = &record.machine;
        let title = store.image(record.image.as_str()).ok().map(|image| image.manifest.title());
        Ok(Self {
            id: record.id.to_string(),
            name: record.name.as_ref().map(ToString::to_string),
            state: if running { "running" } else { "stopped" },
            pid: if running { process::pid(&dir) } else { None },
            image: record.image.to_string(),
            image_title: title,
            created_at: record.created_at,
            started_at: started.and_then(|time| Timestamp::try_from(time).ok()),
            architecture: machine.architecture.clone(),
            cpus: machine.cpus,
            memory_bytes: machine.memory_bytes,
            firmware: machine.firmware,
            uuid: machine.uuid.clone(),
            instance_id: machine.instance_id.clone(),
            disks: machine.disks.clone(),
            aside: machine.aside.values().cloned().collect(),
            nics: machine.nics.clone(),
            ssh_port: wait::ssh_port(record),
            dir,
        })
    }

    /// What it was started from, for people.
    pub(crate) fn image(&self) -> &str {
        self.image_title.as_deref().unwrap_or(&self.image)
    }

    /// Name, else id.
    pub(crate) fn title(&self) -> &str {
        self.name.as_deref().unwrap_or(&self.id)
    }

    /// The machine in a few words.
    pub(crate) fn machine(&self) -> String {
        let firmware = match self.firmware {
            MachineFirmware::Bios => "BIOS",
            MachineFirmware::Uefi => "UEFI",
        };
        let disks: u64 = self.disks.iter().map(|disk| disk.disk_bytes).fold(0, u64::saturating_add);
        let port = self.ssh_port.map(|port| format!(", ssh at port {port}")).unwrap_or_default();
        format!(
            "{} cpu, {} memory, {} disk, {firmware}{port}",
            self.cpus,
            Size(self.memory_bytes),
            Size(disks)
        )
    }

    pub(crate) fn cpus(&self) -> u32 {
        self.cpus
    }

    pub(crate) fn memory_bytes(&self) -> u64 {
        self.memory_bytes
    }

    pub(crate) fn started_at(&self) -> Option<Timestamp> {
        self.started_at
    }
}

/// One instance, and what was done to it.
#[derive(Debug, Serialize)]
pub(crate) struct Done<T: Serialize> {
    pub(crate) schema: &'static str,
    #[serde(flatten)]
    pub(crate) more: T,
    pub(crate) instance: InstanceView,
}
