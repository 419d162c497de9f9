//! Records of instances: which image a machine was started from, and the layers that it keeps alive.
//!
//! Whoever runs machines keeps its disks and sockets in the instance's folder; what it is made of is the record's
//! [`Machine`]; the catalog keeps the layers.

use std::path::PathBuf;

use jiff::Timestamp;
use kiln_disk::Existing;
use serde::{Deserialize, Serialize};

use crate::account::Account;
use crate::error::{Refusal, Result};
use crate::id::{ImageId, InstanceId, LayerId};
use crate::index::{Edit, Index};
use crate::job::{Intent, scratch_dir, settle};
use crate::layout::{make_dir, names_in, write_whole};
use crate::machine::Machine;
use crate::name::Name;
use crate::publish::random_bytes;
use crate::rights::Action;
use crate::sealed::{self, Document};
use crate::steps::Step;
use crate::store::Store;

/// The value of the field `schema`.
pub const SCHEMA: &str = "kiln.instance.v1";

/// What the catalog knows about an instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InstanceRecord {
    /// [`SCHEMA`].
    pub schema: String,
    /// The id.
    pub id: InstanceId,
    /// What people call it.
    pub name: Option<Name>,
    /// Whose it is.
    pub account: Account,
    /// The image that it was started from. May be gone, when it was revoked or lost.
    pub image: ImageId,
    /// The layers below its disks ([`Machine::layers`]). They live as long as the instance does.
    pub layers: Vec<LayerId>,
    /// When it was made.
    pub created_at: Timestamp,
    /// What it is made of.
    pub machine: Machine,
}

impl Document for InstanceRecord {
    const STRUCTURE: &'static str = "instance record";
    const SCHEMA: &'static str = SCHEMA;
    const SEAL: &'static str = "record_sha256";
    const VERSION_CODE: &'static str = "store.instance.version";
    const MAX_LEN: u64 = 4 << 20;
}

impl Store {
    /// Writes down that an instance of an image is there. From here on, its layers stay.
    ///
    /// # Errors
    /// The rights table's, for [`Action::Launch`]; I/O.
    pub fn add_instance(
        &self,
        image: &ImageId,
        name: Option<Name>,
        machine: Machine,
    ) -> Result<InstanceRecord> {
        let _lock = self.exclusive()?;
        let mut index = self.index()?;
        let image = self.image_of(&index, image)?;
        self.permit_with(&index, Action::Launch, &image)?;
        let id = loop {
            let id = InstanceId::from_random(random_bytes(self.path())?);
            if index.instance_text(&id)?.is_none() && !self.layout.instance(&id).exists() {
                break id;
            }
        };
        let record = InstanceRecord {
            schema: SCHEMA.to_owned(),
            id,
            name,
            account: self.account.clone(),
            image: image.manifest.id.clone(),
            layers: machine.layers(),
            created_at: Timestamp::now(),
            machine,
        };
        self.write_instance(&mut index, &record, Vec::new())?;
        Ok(record)
    }

    /// Changes what an instance is made of. Layers that it needs from now on stay, others may go.
    ///
    /// # Errors
    /// [`Refusal::NoInstance`]; [`Refusal::LayersChanged`] for a new layer that is gone already; I/O.
    pub fn update_instance(
        &self,
        id: &InstanceId,
        change: impl FnOnce(&mut Machine),
    ) -> Result<InstanceRecord> {
        self.change_instance(id, None, change)
    }

    /// The same, for an instance that is put on an image, its own or another.
    ///
    /// # Errors
    /// As [`Store::update_instance`], and the rights table's, for [`Action::Launch`].
    pub fn rebase_instance(
        &self,
        id: &InstanceId,
        image: &ImageId,
        change: impl FnOnce(&mut Machine),
    ) -> Result<InstanceRecord> {
        self.change_instance(id, Some(image), change)
    }

    fn change_instance(
        &self,
        id: &InstanceId,
        image: Option<&ImageId>,
        change: impl FnOnce(&mut Machine),
    ) -> Result<InstanceRecord> {
        let _lock = self.exclusive()?;
        let mut index = self.index()?;
        let text = index.instance_text(id)?;
        let text = text.ok_or_else(|| Refusal::NoInstance { id: id.to_string() })?;
        let mut record: InstanceRecord = sealed::parse(&text, &self.layout.instance_record(id))?;
        if let Some(image) = image {
            let image = self.image_of(&index, image)?;
            self.permit_with(&index, Action::Launch, &image)?;
            record.image = image.manifest.id;
        }
        change(&mut record.machine);
        let before = std::mem::replace(&mut record.layers, record.machine.layers());
        for layer in record.layers.iter().filter(|layer| !before.contains(layer)) {
            if index.holders(layer)? == 0 {
                return Err(Refusal::LayersChanged { image: record.image }.into());
            }
        }
        self.write_instance(&mut index, &record, before)?;
        Ok(record)
    }

    /// The folder of an instance: its record, and the files of whoever runs it.
    #[must_use]
    pub fn instance_dir(&self, id: &InstanceId) -> PathBuf {
        self.layout.instance(id)
    }

    /// `layers`: those that it may not need any more.
    fn write_instance(
        &self,
        index: &mut Index,
        record: &InstanceRecord,
        mut layers: Vec<LayerId>,
    ) -> Result<()> {
        let path = self.layout.instance_record(&record.id);
        let text = sealed::render(record, &path)?;
        layers.extend(record.layers.iter().cloned());
        let intent = Intent { instances: vec![record.id.clone()], layers, ..Intent::default() };
        let mut job = scratch_dir(&self.layout)?;
        self.steps.before(Step::Intent)?;
        job.announce(&intent)?;
        let written = (|| {
            self.steps.before(Step::Record)?;
            make_dir(&self.layout.instances())?;
            make_dir(&self.layout.instance(&record.id))?;
            write_whole(&path, &text, Existing::Replace)?;
            self.steps.before(Step::Commit)?;
            index.change(&[Edit::PutInstance { record, text: &text }])
        })();
        let settled = settle(self, index, &intent).and_then(|()| job.settled());
        written.and(settled)
    }

    /// Forgets an instance and removes its folder; layers that only it kept go.
    ///
    /// # Errors
    /// [`Refusal::NoInstance`]; I/O.
    pub fn drop_instance(&self, id: &InstanceId) -> Result<InstanceRecord> {
        let _lock = self.exclusive()?;
        let mut index = self.index()?;
        let text = index.instance_text(id)?;
        let text = text.ok_or_else(|| Refusal::NoInstance { id: id.to_string() })?;
        let record: InstanceRecord = sealed::parse(&text, &self.layout.instance_record(id))?;
        let intent =
            Intent { instances: vec![id.clone()], layers: record.layers.clone(), ..Intent::default() };
        let mut job = scratch_dir(&self.layout)?;
        self.steps.before(Step::Intent)?;
        job.announce(&intent)?;
        let dropped =
            self.steps.before(Step::Commit).and_then(|()| index.change(&[Edit::DropInstance { id }]));
        let settled = settle(self, &index, &intent).and_then(|()| job.settled());
        dropped?;
        settled?;
        Ok(record)
    }

    /// All instances, by id.
    ///
    /// # Errors
    /// A damaged index.
    pub fn instances(&self) -> Result<Vec<InstanceRecord>> {
        let rows = self.index()?.instances()?;
        rows.iter().map(|(_, text)| sealed::parse(text, &self.layout.index())).collect()
    }

    /// The records on disk, for a rebuild of the index, and what is wrong with those that cannot be read.
    #[allow(clippy::type_complexity, reason = "two lists, used twice")]
    pub(crate) fn instance_files(
        &self,
    ) -> Result<(Vec<(InstanceRecord, String)>, Vec<(String, crate::Error)>)> {
        let (mut sound, mut damaged) = (Vec::new(), Vec::new());
        for name in names_in(&self.layout.instances())? {
            let Ok(id) = name.parse::<InstanceId>() else { continue };
            match sealed::read::<InstanceRecord>(&self.layout.instance_record(&id)) {
                Ok(pair) if pair.0.id == id => sound.push(pair),
                Ok(_) => {}
                Err(error) => damaged.push((name, error)),
            }
        }
        Ok((sound, damaged))
    }
}
