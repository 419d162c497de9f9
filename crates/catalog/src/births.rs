//! Instances in the making: their files are prepared in staging, and all of them become visible in one step.
//!
//! An instance's id is known before its files are made, because they speak of it. The folders lie in the job's
//! directory; publication gives each its name in `instances/`, and one commit of the index makes all of them exist.
//! Whoever dies before that leaves nothing: the row decides, as for images.

use std::fs::File;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use kiln_disk::Existing;

use crate::error::{Refusal, Result, io};
use crate::id::{ImageId, InstanceId, LayerId};
use crate::index::{Edit, Index};
use crate::instances::{InstanceRecord, SCHEMA};
use crate::job::{Intent, Job, settle};
use crate::layout::{make_dir, sync_dir, write_whole};
use crate::lock::{self, Share};
use crate::machine::Machine;
use crate::name::Name;
use crate::publish::random_bytes;
use crate::rights::Action;
use crate::sealed;
use crate::steps::Step;
use crate::store::Store;

/// The file whose lock says that an instance runs. Its process holds it as long as it lives.
pub const RUNNING: &str = "running";

/// How long a start waits for whoever is only looking whether the instance runs.
const PATIENCE: Duration = Duration::from_secs(2);

/// Where the file of a layer is, seen from an instance's folder: what a process whose working directory that folder is
/// can be told whatever the store's path is, and for as long as the store as a whole is only moved.
#[must_use]
pub fn layer_from_instance(layer: &LayerId) -> String {
    format!("../../layers/{}/{}.qcow2", layer.hex().get(..2).unwrap_or("00"), layer.hex())
}

/// Instances that nobody sees yet. What is in their folders goes with this value.
#[derive(Debug)]
pub struct Births {
    job: Job,
    ids: Vec<InstanceId>,
}

/// What is to be remembered about a new instance.
#[derive(Debug, Clone)]
pub struct Born {
    /// What people call it.
    pub name: Option<Name>,
    /// The image that it is started from.
    pub image: ImageId,
    /// What it is made of.
    pub machine: Machine,
}

impl Store {
    /// Starts making `count` instances. The images cannot be removed meanwhile.
    ///
    /// # Errors
    /// [`kiln_disk::Error::Io`], [`Refusal::Busy`].
    pub fn begin_instances(&self, what: &str, images: Vec<ImageId>, count: usize) -> Result<Births> {
        let job = self.begin_job("launch", what, images, None)?;
        let index = self.index()?;
        let mut ids: Vec<InstanceId> = Vec::new();
        while ids.len() < count {
            let id = InstanceId::from_random(random_bytes(self.path())?);
            let taken = self.layout.instance(&id).exists() || index.instance_text(&id)?.is_some();
            if !taken && !ids.contains(&id) {
                make_dir(&job.dir().join(id.as_str()))?;
                ids.push(id);
            }
        }
        Ok(Births { job, ids })
    }

    /// Fails when an instance of the account has one of the names, or cannot have it.
    ///
    /// # Errors
    /// [`Refusal::InstanceName`].
    pub fn check_instance_names<'a>(&self, names: impl Iterator<Item = &'a Name>) -> Result<()> {
        self.names_are_free(&self.index()?, names)
    }

    fn names_are_free<'a>(&self, index: &Index, names: impl Iterator<Item = &'a Name>) -> Result<()> {
        let mut taken: Vec<Name> = Vec::new();
        for (_, text) in index.instances()? {
            let record: InstanceRecord = sealed::parse(&text, &self.layout.index())?;
            taken.extend(record.name.filter(|_| record.account == self.account));
        }
        for name in names {
            let refuse = |why| Refusal::InstanceName { name: name.clone(), why };
            if name.as_str().starts_with("ins-") {
                return Err(refuse("is the start of an id").into());
            }
            if taken.contains(name) {
                return Err(refuse("is the name of another instance").into());
            }
            taken.push(name.clone());
        }
        Ok(())
    }

    /// Whether the instance's process lives. An instance that is not there does not run.
    ///
    /// # Errors
    /// [`kiln_disk::Error::Io`].
    pub fn instance_running(&self, id: &InstanceId) -> Result<bool> {
        let path = self.layout.instance(id).join(RUNNING);
        if !path.exists() {
            return Ok(false);
        }
        match lock::try_now(&path, Share::Shared) {
            Ok(lock) => Ok(lock.is_none()),
            Err(error) if error.code() == "io.not-found" => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Takes the lock that says that the instance runs, for its process or for a change that no process may see.
    /// It is held as long as any copy of the file's descriptor is open, in whatever process. `None` when it runs.
    ///
    /// # Errors
    /// [`Refusal::NoInstance`]; [`kiln_disk::Error::Io`].
    pub fn hold_instance(&self, id: &InstanceId) -> Result<Option<File>> {
        let path = self.layout.instance(id).join(RUNNING);
        let began = Instant::now();
        loop {
            match lock::try_now(&path, Share::Exclusive) {
                Ok(Some(lock)) => return Ok(Some(lock.into_file())),
                Ok(None) if began.elapsed() > PATIENCE => return Ok(None),
                // Somebody who only looks holds it for a moment, somebody who runs holds it for long.
                Ok(None) => std::thread::sleep(Duration::from_millis(20)),
                Err(error) if error.code() == "io.not-found" => {
                    return Err(Refusal::NoInstance { id: id.to_string() }.into());
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// The one instance of the account that `query` means: its name, its id or the unique start of one.
    ///
    /// # Errors
    /// [`Refusal::NoInstance`], [`Refusal::Ambiguous`]; a damaged record.
    pub fn instance(&self, query: &str) -> Result<InstanceRecord> {
        let mut found: Vec<InstanceRecord> = Vec::new();
        let by_id = query.starts_with("ins-");
        for (id, text) in self.index()?.instances()? {
            if by_id && !id.starts_with(query) {
                continue;
            }
            let record: InstanceRecord = sealed::parse(&text, &self.layout.index())?;
            let named = record.name.as_ref().is_some_and(|name| name.as_str() == query);
            if record.account == self.account && (by_id || named) {
                found.push(record);
            }
        }
        match found.len() {
            1 => Ok(found.remove(0)),
            0 => Err(Refusal::NoInstance { id: query.chars().take(80).collect() }.into()),
            _ => {
                let candidates = found.iter().map(|record| record.id.to_string()).collect();
                Err(Refusal::Ambiguous { query: query.chars().take(80).collect(), candidates }.into())
            }
        }
    }
}

impl Births {
    /// The ids, one for each instance.
    #[must_use]
    pub fn ids(&self) -> &[InstanceId] {
        &self.ids
    }

    /// The folder in which an instance's files are made.
    #[must_use]
    pub fn dir(&self, id: &InstanceId) -> PathBuf {
        self.job.dir().join(id.as_str())
    }

    /// Makes the instances exist, all or none, with what is in their folders.
    ///
    /// # Errors
    /// The rights table's, for [`Action::Launch`] of every image below a disk; [`Refusal::InstanceName`];
    /// [`Refusal::LayersChanged`] when an image lost its layers meanwhile; I/O. Nothing is left then.
    pub fn publish(mut self, born: Vec<Born>) -> Result<Vec<InstanceRecord>> {
        let store = self.job.store.clone();
        let _lock = store.exclusive()?;
        let mut index = store.index()?;
        store.names_are_free(&index, born.iter().filter_map(|born| born.name.as_ref()))?;
        let mut seen: Vec<&ImageId> = Vec::new();
        for born in &born {
            let disks = born.machine.disks.iter().filter_map(|disk| disk.image.as_ref());
            for id in disks.chain([&born.image]) {
                if !seen.contains(&id) {
                    let image = store.image_of(&index, id)?;
                    store.permit_with(&index, Action::Launch, &image)?;
                    seen.push(id);
                }
            }
            for layer in born.machine.layers() {
                if index.holders(&layer)? == 0 {
                    return Err(Refusal::LayersChanged { image: born.image.clone() }.into());
                }
            }
        }
        let records: Vec<InstanceRecord> =
            self.ids.iter().zip(born).map(|(id, born)| record_of(&store, id, born)).collect();
        self.write(&store, &mut index, &records)?;
        Ok(records)
    }

    fn write(&mut self, store: &Store, index: &mut Index, records: &[InstanceRecord]) -> Result<()> {
        let mut intent = Intent::default();
        for record in records {
            intent.instances.push(record.id.clone());
            for layer in &record.layers {
                if !intent.layers.contains(layer) {
                    intent.layers.push(layer.clone());
                }
            }
        }
        store.steps.before(Step::Intent)?;
        self.job.dir.announce(&intent)?;
        let written = (|| {
            let mut texts = Vec::new();
            make_dir(&store.layout.instances())?;
            for record in records {
                store.steps.before(Step::Record)?;
                let made = self.job.dir().join(record.id.as_str());
                let text = sealed::render(record, &store.layout.instance_record(&record.id))?;
                write_whole(&made.join("record.json"), &text, Existing::Keep)?;
                let place = store.layout.instance(&record.id);
                std::fs::rename(&made, &place).map_err(|source| io("create", &place, source))?;
                texts.push(text);
            }
            sync_dir(&store.layout.instances())?;
            store.steps.before(Step::Commit)?;
            let edits: Vec<Edit<'_>> =
                records.iter().zip(&texts).map(|(record, text)| Edit::PutInstance { record, text }).collect();
            index.change(&edits)
        })();
        let settled = settle(store, index, &intent).and_then(|()| self.job.dir.settled());
        written.and(settled)
    }
}

fn record_of(store: &Store, id: &InstanceId, born: Born) -> InstanceRecord {
    InstanceRecord {
        schema: SCHEMA.to_owned(),
        id: id.clone(),
        name: born.name,
        account: store.account.clone(),
        image: born.image,
        layers: born.machine.layers(),
        created_at: Timestamp::now(),
        machine: born.machine,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::Layout;

    #[test]
    fn the_way_from_an_instance_to_a_layer_is_the_layout_s() {
        let root = tempfile::tempdir().unwrap();
        let layout = Layout::new(root.path().to_owned());
        let layer: LayerId = format!("sha256:{}", "0123456789abcdef".repeat(4)).parse().unwrap();
        let instance: InstanceId = "ins-abcdefgh".parse().unwrap();
        std::fs::create_dir_all(layout.instance(&instance)).unwrap();
        std::fs::create_dir_all(layout.layer_dir(&layer)).unwrap();
        std::fs::write(layout.layer(&layer), "x").unwrap();
        let there = layout.instance(&instance).join(layer_from_instance(&layer));
        assert_eq!(there.canonicalize().unwrap(), layout.layer(&layer).canonicalize().unwrap());
    }
}
