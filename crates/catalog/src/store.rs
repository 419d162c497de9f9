//! A store: opening one, its label, its locks.

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use kiln_disk::{Existing, FileSource};
use serde::{Deserialize, Serialize};

use crate::account::Account;
use crate::error::{Error, Malformation, Refusal, Result, io};
use crate::index::{Entry, Index};
use crate::instances::InstanceRecord;
use crate::job;
use crate::layout::{DIR_MODE, Layout, make_dir, names_in, sync_dir, write_whole};
use crate::lock::{self, Lock, Share};
use crate::manifest::LayerRecord;
use crate::quota::Quota;
use crate::steps::Steps;

/// The value of `schema` in `store.json`.
pub const SCHEMA: &str = "kiln.store.v2";
/// The version of the store that this program writes. Stores of version 1, which had no records, are brought to it
/// when they are opened.
pub const VERSION: u32 = 2;
/// Schema and version of a store without records.
const BEFORE: (&str, u32) = ("kiln.store.v1", 1);

/// A directory of images, and the account that acts on it. Cheap to clone; holds nothing open, so any number of
/// processes and threads may have one.
#[derive(Debug, Clone)]
pub struct Store {
    pub(crate) layout: Layout,
    pub(crate) steps: Steps,
    pub(crate) account: Account,
    pub(crate) quota: Quota,
    /// The owner of images without a record.
    pub(crate) first_owner: Account,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Label {
    schema: String,
    version: u32,
    created_at: Timestamp,
    /// The owner of images without a record: those from before there were records.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    owner: Option<Account>,
}

impl Store {
    /// Opens the store at `path`, or makes one there when there is nothing or an empty directory. Left-overs of
    /// processes that died are cleared away.
    ///
    /// # Errors
    /// [`Refusal::NotAStore`] for a directory full of something else; [`Error::Unsupported`] (`store.version`) for
    /// a store of another version, which is not touched.
    pub fn open_or_create(path: &Path) -> Result<Self> {
        let layout = Layout::new(path.to_owned());
        if !layout.store_json().try_exists().map_err(|source| io("look for", path, source))? {
            create(&layout)?;
        }
        Self::open(path)
    }

    /// Opens the store at `path`. Left-overs of processes that died are cleared away.
    ///
    /// # Errors
    /// [`Refusal::NoStore`] when there is none; otherwise as [`Store::open_or_create`].
    pub fn open(path: &Path) -> Result<Self> {
        let store = Self::open_unswept(path)?;
        // The index may be damaged, and this the command that mends it.
        match job::sweep(&store) {
            Ok(_) | Err(Error::Malformed { structure: "index", .. } | Error::Unsupported { .. }) => Ok(store),
            Err(error) => Err(error),
        }
    }

    pub(crate) fn open_unswept(path: &Path) -> Result<Self> {
        let layout = Layout::new(path.to_owned());
        let mut label = read_label(&layout)?;
        for dir in [layout.layers(), layout.images(), layout.staging()] {
            make_dir(&dir)?;
        }
        if label.version == BEFORE.1 {
            label = upgrade(&layout)?;
        }
        let host = Account::of_owner(&layout.store_json());
        let store = Self {
            first_owner: label.owner.unwrap_or_else(|| host.clone()),
            layout,
            steps: Steps::default(),
            account: host,
            quota: Quota::default(),
        };
        store.first_index()?;
        Ok(store)
    }

    /// The same store, with everything done on behalf of `account`. Without this, that is the user of the operating
    /// system whom the store belongs to.
    #[must_use]
    pub fn acting_as(mut self, account: Account) -> Self {
        self.account = account;
        self
    }

    /// The same store with other limits.
    #[must_use]
    pub fn with_quota(mut self, quota: Quota) -> Self {
        self.quota = quota;
        self
    }

    /// On whose behalf it acts.
    #[must_use]
    pub fn account(&self) -> &Account {
        &self.account
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.layout.root()
    }

    /// A store has no index until the first process that saw it made one.
    fn first_index(&self) -> Result<()> {
        let missing = || -> Result<bool> {
            let path = self.layout.index();
            Ok(!path.try_exists().map_err(|source| io("look for", &path, source))?
                && names_in(&self.layout.images())?.is_empty())
        };
        if missing()? {
            let _lock = self.exclusive()?;
            if missing()? {
                self.replace_index(&[], &[], None)?;
            }
        }
        Ok(())
    }

    /// Makes a new index beside the old one and puts it into place.
    pub(crate) fn replace_index(
        &self,
        images: &[Entry],
        instances: &[(InstanceRecord, String)],
        aside: Option<&Path>,
    ) -> Result<()> {
        replace_index(&self.layout, images, instances, aside)
    }

    /// The lock of everything that changes names in the store: only one process at a time does.
    pub(crate) fn exclusive(&self) -> Result<Lock> {
        lock::wait_for(&self.layout.store_json(), Share::Exclusive)
    }

    pub(crate) fn index(&self) -> Result<Index> {
        Index::open(&self.layout)
    }

    /// Opens the file of a layer for reading. It stays readable even when the image is removed meanwhile.
    ///
    /// # Errors
    /// [`kiln_disk::Error::Io`], `io.not-found` when the file is not there.
    pub fn open_layer(&self, layer: &LayerRecord) -> Result<FileSource> {
        Ok(FileSource::open(&self.layout.layer(&layer.digest))?)
    }

    /// Opens the list of block hashes of a layer.
    ///
    /// # Errors
    /// As [`Store::open_layer`].
    pub fn open_leaves(&self, layer: &LayerRecord) -> Result<FileSource> {
        Ok(FileSource::open(&self.layout.leaves(&layer.digest))?)
    }

    /// Where the file of a layer is.
    #[must_use]
    pub fn layer_path(&self, layer: &LayerRecord) -> PathBuf {
        self.layout.layer(&layer.digest)
    }
}

fn replace_index(
    layout: &Layout,
    images: &[Entry],
    instances: &[(InstanceRecord, String)],
    aside: Option<&Path>,
) -> Result<()> {
    let dir = job::scratch_dir(layout)?;
    let new = dir.path().join("catalog.sqlite");
    Index::build(&new, images, instances)?;
    Index::install(layout, &new, aside)
}

/// Brings a store of version 1 to this one: an index with the new tables is made of the old one's rows, then the
/// label is written. Both may be repeated, so dying in between does no harm. Images stay as they are on disk; they
/// belong to whoever the store belongs to.
fn upgrade(layout: &Layout) -> Result<Label> {
    let _lock = lock::wait_for(&layout.store_json(), Share::Exclusive)?;
    let mut label = read_label(layout)?;
    if label.version != BEFORE.1 {
        return Ok(label);
    }
    let owner = Account::of_owner(&layout.store_json());
    match Index::of_version_1(layout) {
        Ok(Some(rows)) => {
            let mut entries = Vec::new();
            for text in rows {
                entries.push(Entry::without_record(text, &owner, &layout.index())?);
            }
            replace_index(layout, &entries, &[], None)?;
        }
        // Done already, or the first index is still to be made, or it is damaged, which is `rebuild`'s business.
        Ok(None) | Err(Error::Malformed { structure: "index", .. }) => {}
        Err(error) => return Err(error),
    }
    label = Label { schema: SCHEMA.to_owned(), version: VERSION, owner: Some(owner), ..label };
    write_label(layout, &label, Existing::Replace)?;
    Ok(label)
}

pub(crate) fn shortened(query: &str) -> String {
    query.chars().take(160).collect()
}

/// Makes the directory and its label. The label comes last of what is needed to be a store and first of all else.
fn create(layout: &Layout) -> Result<()> {
    let root = layout.root();
    if root.as_os_str().is_empty() {
        return Err(Refusal::NoPlace.into());
    }
    if !root.is_dir() {
        let parents: Vec<&Path> = root.ancestors().skip(1).take_while(|path| !path.is_dir()).collect();
        DirBuilder::new()
            .recursive(true)
            .mode(DIR_MODE)
            .create(root)
            .map_err(|source| io("create the directory", root, source))?;
        for path in parents.into_iter().chain([root]) {
            sync_dir(path.parent().filter(|path| !path.as_os_str().is_empty()).unwrap_or(Path::new(".")))?;
        }
    }
    // A killed process may have left the nameless start of a label, and another process may be ahead of us.
    let others = names_in(root)?.into_iter().any(|name| !name.starts_with(".store.json."));
    if others && !layout.store_json().exists() {
        return Err(Refusal::NotAStore { path: root.to_owned() }.into());
    }
    let label =
        Label { schema: SCHEMA.to_owned(), version: VERSION, created_at: Timestamp::now(), owner: None };
    match write_label(layout, &label, Existing::Keep) {
        Err(error) if error.code() == "io.exists" => Ok(()),
        other => other,
    }
}

fn write_label(layout: &Layout, label: &Label, existing: Existing) -> Result<()> {
    let text = serde_json::to_string_pretty(label).unwrap_or_default();
    write_whole(&layout.store_json(), &format!("{text}\n"), existing)
}

fn read_label(layout: &Layout) -> Result<Label> {
    let path = layout.store_json();
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let root = layout.root();
            return Err(if root.is_dir() && !names_in(root)?.is_empty() {
                Refusal::NotAStore { path: root.to_owned() }.into()
            } else {
                Refusal::NoStore { path: root.to_owned() }.into()
            });
        }
        Err(error) => return Err(io("read", &path, error)),
    };
    #[derive(Deserialize)]
    struct Version {
        schema: String,
        version: u32,
    }
    let malformed = |error| Error::Malformed {
        structure: "store.json",
        path: path.clone(),
        problem: Malformation::Json(error),
    };
    let version: Version = serde_json::from_str(&text).map_err(malformed)?;
    if ![(SCHEMA, VERSION), BEFORE].contains(&(version.schema.as_str(), version.version)) {
        return Err(Error::Unsupported {
            code: "store.version",
            path,
            found: format!("{} version {}", shortened(&version.schema), version.version),
            known: format!("{SCHEMA} version {VERSION}"),
        });
    }
    serde_json::from_str(&text).map_err(malformed)
}
