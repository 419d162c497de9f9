//! Staging: where a command makes what it will publish, and how the remains of dead commands are cleared away.
//!
//! A job is a directory `staging/<job>/` with a file `lock` that its process keeps locked. Jobs are made and swept
//! under the store's exclusive lock, so a job whose lock is free has lost its process.

use std::fs::File;
use std::path::{Path, PathBuf};

use kiln_disk::Existing;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Malformation, Result, io};
use crate::id::{ImageId, InstanceId, LayerId};
use crate::index::Index;
use crate::jobs;
use crate::key::PrivateKey;
use crate::layout::{
    Layout, create_new, make_dir, names_in, remove_file, remove_tree, sync_dir, write_whole,
};
use crate::lock::{self, Lock, Share};
use crate::steps::Step;
use crate::store::Store;

/// What a job is about to publish or remove. Written before the first name changes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Intent {
    /// Images whose row decides whether, and with which bytes, their manifest is there.
    pub(crate) images: Vec<ImageId>,
    /// Layers that are only there while a row holds them.
    pub(crate) layers: Vec<LayerId>,
    /// Instances whose row decides whether, and with which bytes, their record is there.
    #[serde(default)]
    pub(crate) instances: Vec<InstanceId>,
}

/// A staging directory of this process; removed on drop, unless something in it is still to be settled.
#[derive(Debug)]
pub(crate) struct JobDir {
    path: PathBuf,
    unsettled: bool,
    /// Left for another process to go on with.
    kept: bool,
    _lock: Lock,
}

impl JobDir {
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Writes the intent down for good. From here on, only [`settle`] may end the job.
    pub(crate) fn announce(&mut self, intent: &Intent) -> Result<()> {
        let path = self.path.join("intent.json");
        let text = serde_json::to_string(intent).unwrap_or_default();
        write_whole(&path, &text, Existing::Replace)?;
        // The directory's own name as well: an intent that a power failure takes away with it settles nothing.
        if let Some(staging) = self.path.parent() {
            sync_dir(staging)?;
        }
        self.unsettled = true;
        Ok(())
    }

    /// A job of a process that is gone, to go on with. The caller holds the store's exclusive lock and the job's.
    pub(crate) fn taken_over(path: PathBuf, lock: Lock) -> Self {
        Self { path, unsettled: false, kept: false, _lock: lock }
    }

    /// Leaves the directory where it is when this value goes.
    pub(crate) fn keep(&mut self) {
        self.kept = true;
    }

    /// Everything announced is settled: nobody has to go on with this.
    pub(crate) fn settled(&mut self) -> Result<()> {
        remove_file(&self.path.join("job.json"))?;
        remove_file(&self.path.join("intent.json"))?;
        self.unsettled = false;
        Ok(())
    }
}

impl Drop for JobDir {
    fn drop(&mut self) {
        if !self.unsettled && !self.kept {
            let _ = remove_tree(&self.path);
        }
    }
}

/// A new job. The caller holds the store's exclusive lock.
pub(crate) fn scratch_dir(layout: &Layout) -> Result<JobDir> {
    let pid = std::process::id();
    for number in 0_u32.. {
        let path = layout.staging().join(format!("{pid}-{number}"));
        match std::fs::create_dir(&path) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => continue,
            Err(source) => return Err(io("create the directory", &path, source)),
        }
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(crate::layout::DIR_MODE))
            .map_err(|source| io("set the mode of", &path, source))?;
        let lock = lock::wait_for(&path.join("lock"), Share::Exclusive)?;
        return Ok(JobDir { path, unsettled: false, kept: false, _lock: lock });
    }
    Err(io("create a directory in", &layout.staging(), std::io::ErrorKind::AlreadyExists.into()))
}

impl Store {
    /// Starts a job: a place on the store's own file system for what is to be published. Its directory goes with
    /// the value, and when the process dies, with the next command on the store.
    ///
    /// # Errors
    /// [`kiln_disk::Error::Io`], [`crate::Refusal::Busy`].
    pub fn begin(&self) -> Result<Job> {
        let _lock = self.exclusive()?;
        Ok(Job { store: self.clone(), dir: scratch_dir(&self.layout)?, signer: None })
    }
}

/// A publication in the making.
#[derive(Debug)]
pub struct Job {
    pub(crate) store: Store,
    pub(crate) dir: JobDir,
    pub(crate) signer: Option<PrivateKey>,
}

impl Job {
    /// The job's directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Signs what will be published: the signature gets its name in the same step as the manifest.
    pub fn sign_with(&mut self, key: PrivateKey) {
        self.signer = Some(key);
    }

    /// A new, empty file in the job's directory, readable and writable.
    ///
    /// # Errors
    /// [`kiln_disk::Error::Io`], `io.exists` when there is one of that name.
    pub fn create_file(&self, name: &str) -> Result<(File, PathBuf)> {
        let path = self.dir.path().join(name);
        Ok((create_new(&path)?, path))
    }
}

/// Makes names agree with the index for everything that was announced: the row decides.
///
/// An image with a row gets exactly the manifest of the row; one without loses it. A layer without a holder goes.
/// Can be repeated, from any state, so that it ends both a failed publication and an interrupted removal. The
/// caller holds the store's exclusive lock.
pub(crate) fn settle(store: &Store, index: &Index, intent: &Intent) -> Result<()> {
    let layout = &store.layout;
    for id in &intent.images {
        match index.texts(id)? {
            Some(texts) => {
                settle_file(layout, id, &layout.manifest(id), Some(&texts.manifest))?;
                settle_file(layout, id, &layout.record(id), texts.record.as_deref())?;
            }
            None => {
                store.steps.before(Step::RemoveManifest)?;
                remove_tree(&layout.image(id))?;
            }
        }
    }
    for id in &intent.instances {
        match index.instance_text(id)? {
            Some(text) => {
                let path = layout.instance_record(id);
                if std::fs::read(&path).ok().as_deref() != Some(text.as_bytes()) {
                    make_dir(&layout.instances())?;
                    make_dir(&layout.instance(id))?;
                    write_whole(&path, &text, Existing::Replace)?;
                }
            }
            None => remove_tree(&layout.instance(id))?,
        }
    }
    if !intent.images.is_empty() {
        sync_dir(&layout.images())?;
    }
    for id in &intent.layers {
        if index.holders(id)? == 0 {
            store.steps.before(Step::RemoveLayer)?;
            remove_layer(layout, id)?;
        }
    }
    Ok(())
}

/// Whether what a job was about to publish is there.
fn is_published(index: &Index, intent: &Intent) -> Result<bool> {
    for id in &intent.images {
        if index.texts(id)?.is_some() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Gives a document of an image the bytes that its row says, or none.
fn settle_file(layout: &Layout, id: &ImageId, path: &Path, text: Option<&str>) -> Result<()> {
    match text {
        Some(text) if std::fs::read(path).ok().as_deref() != Some(text.as_bytes()) => {
            make_dir(&layout.image(id))?;
            write_whole(path, text, Existing::Replace)
        }
        Some(_) => Ok(()),
        None => {
            if remove_file(path)? {
                sync_dir(&layout.image(id))?;
            }
            Ok(())
        }
    }
}

/// Removes the files of a layer; answers how many bytes the layer had.
pub(crate) fn remove_layer(layout: &Layout, id: &LayerId) -> Result<u64> {
    let path = layout.layer(id);
    let len = std::fs::metadata(&path).map_or(0, |metadata| metadata.len());
    let removed = remove_file(&path)?;
    if remove_file(&layout.leaves(id))? || removed {
        sync_dir(&layout.layer_dir(id))?;
    }
    Ok(if removed { len } else { 0 })
}

/// What became of the jobs of dead processes.
#[derive(Debug, Default)]
pub(crate) struct Swept {
    /// Cleared away.
    pub(crate) cleared: Vec<String>,
    /// Still there, with the reason.
    pub(crate) left: Vec<(String, Error)>,
}

/// Clears away the jobs of dead processes; does nothing when another process is changing names right now.
pub(crate) fn sweep(store: &Store) -> Result<Swept> {
    if names_in(&store.layout.staging())?.is_empty() {
        return Ok(Swept::default());
    }
    match lock::try_now(&store.layout.store_json(), Share::Exclusive) {
        Ok(Some(_lock)) => sweep_locked(store, None),
        Ok(None) => Ok(Swept::default()),
        // A reader who may not write leaves the clearing to others.
        Err(error) if matches!(error.code(), "io.permission") => Ok(Swept::default()),
        Err(error) => Err(error),
    }
}

/// The same, with the store's exclusive lock held by the caller.
pub(crate) fn sweep_locked(store: &Store, mut index: Option<Index>) -> Result<Swept> {
    let mut swept = Swept::default();
    store.sweep_partials()?;
    for name in names_in(&store.layout.staging())? {
        let path = store.layout.staging().join(&name);
        if !path.is_dir() {
            continue;
        }
        let lock_path = path.join("lock");
        let _alive = if lock_path.exists() {
            match lock::try_now(&lock_path, Share::Exclusive)? {
                None => continue,
                some => some,
            }
        } else {
            None
        };
        match clear(store, &path, &mut index) {
            Ok(()) if path.exists() => {}
            Ok(()) => swept.cleared.push(name),
            Err(error) if matches!(error, Error::Malformed { structure: "index", .. }) => return Err(error),
            Err(error) => swept.left.push((name, error)),
        }
    }
    Ok(swept)
}

fn clear(store: &Store, path: &Path, index: &mut Option<Index>) -> Result<()> {
    let intent_path = path.join("intent.json");
    match std::fs::read_to_string(&intent_path) {
        Ok(text) => {
            let intent: Intent = serde_json::from_str(&text).map_err(|error| Error::Malformed {
                structure: "intent",
                path: intent_path.clone(),
                problem: Malformation::Json(error),
            })?;
            let open = match index.take() {
                Some(open) => open,
                None => store.index()?,
            };
            let settled = settle(store, &open, &intent).and_then(|()| is_published(&open, &intent));
            *index = Some(open);
            if settled? {
                return remove_tree(path);
            }
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(io("read", &intent_path, error)),
    }
    if jobs::keep_for_resume(path)? {
        return remove_file(&intent_path).map(drop);
    }
    remove_tree(path)
}
