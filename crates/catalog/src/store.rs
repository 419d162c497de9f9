//! A store: opening, looking things up, listing.

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use kiln_disk::digest::{ContentDigest, Digest};
use kiln_disk::{Existing, FileSource};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Malformation, Refusal, Result, io};
use crate::id::{ImageId, PREFIX};
use crate::index::Index;
use crate::job;
use crate::layout::{DIR_MODE, Layout, make_dir, names_in, sync_dir, write_whole};
use crate::lock::{self, Lock, Share};
use crate::manifest::{LayerRecord, Manifest};
use crate::name::{NameTag, Tag};
use crate::steps::Steps;

/// The value of `schema` in `store.json`.
pub const SCHEMA: &str = "kiln.store.v1";
/// The version of the store that this program reads and writes.
pub const VERSION: u32 = 1;

/// A directory of images. Cheap to clone; holds nothing open, so any number of processes and threads may have one.
#[derive(Debug, Clone)]
pub struct Store {
    pub(crate) layout: Layout,
    pub(crate) steps: Steps,
}

#[derive(Debug, Serialize, Deserialize)]
struct Label {
    schema: String,
    version: u32,
    created_at: Timestamp,
}

/// Which images to list.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    /// Only images whose name, `name:tag` or id fits one of these. `*` stands for any characters, `?` for one.
    pub patterns: Vec<String>,
}

/// An image in a listing. Sizes are bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Listed {
    /// All that is known about it.
    #[serde(flatten)]
    pub manifest: Manifest,
    /// Bytes of its layers.
    pub stored_bytes: u64,
    /// Bytes of the layers that no other image has: what removing it would free.
    pub own_bytes: u64,
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
        read_label(&layout)?;
        for dir in [layout.layers(), layout.images(), layout.staging()] {
            make_dir(&dir)?;
        }
        let store = Self { layout, steps: Steps::default() };
        store.first_index()?;
        Ok(store)
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
                self.replace_index(&[], None)?;
            }
        }
        Ok(())
    }

    /// Makes a new index beside the old one and puts it into place.
    pub(crate) fn replace_index(&self, manifests: &[(Manifest, String)], aside: Option<&Path>) -> Result<()> {
        let dir = job::scratch_dir(&self.layout)?;
        let new = dir.path().join("catalog.sqlite");
        Index::build(&new, manifests)?;
        Index::install(&self.layout, &new, aside)
    }

    /// The lock of everything that changes names in the store: only one process at a time does.
    pub(crate) fn exclusive(&self) -> Result<Lock> {
        lock::wait_for(&self.layout.store_json(), Share::Exclusive)
    }

    pub(crate) fn index(&self) -> Result<Index> {
        Index::open(&self.layout)
    }

    /// The images that fit, by name, tag and age.
    ///
    /// # Errors
    /// [`Error::Malformed`] for a damaged index.
    pub fn list(&self, filter: &Filter) -> Result<Vec<Listed>> {
        let index = self.index()?;
        let mut listed = Vec::new();
        for (_, text) in index.all()? {
            let manifest = self.from_index(&text)?;
            if !filter.fits(&manifest) {
                continue;
            }
            let mut own_bytes = 0_u64;
            for layer in &manifest.layers {
                if index.holders(&layer.digest)? <= 1 {
                    own_bytes = own_bytes.saturating_add(layer.byte_len);
                }
            }
            listed.push(Listed { stored_bytes: manifest.stored_bytes(), own_bytes, manifest });
        }
        Ok(listed)
    }

    /// The one image that `query` means: `name:tag`, `name` (its tag `latest`), an id or a unique start of one
    /// (`img-7f`), or a digest of its content, its source file, its layer or its flat disk.
    ///
    /// # Errors
    /// [`Refusal::NotFound`], [`Refusal::Ambiguous`].
    pub fn find(&self, query: &str) -> Result<Manifest> {
        let index = self.index()?;
        let ids = if query.starts_with(PREFIX) {
            index.by_prefix(query)?
        } else if query.parse::<ContentDigest>().is_ok() || query.parse::<Digest>().is_ok() {
            let digest =
                query.parse::<Digest>().map_or_else(|_| query.to_owned(), |digest| digest.to_string());
            index.by_digest(&digest)?
        } else {
            let wanted: NameTag = query.parse()?;
            index.by_tag(wanted.name.as_str(), wanted.tag.as_str())?
        };
        match ids.as_slice() {
            [] => Err(Refusal::NotFound { query: shortened(query), near: self.near(&index, query)? }.into()),
            [id] => {
                let id: ImageId = id.parse().map_err(|_| self.odd_row(id))?;
                let text = index.manifest_text(&id)?.ok_or_else(|| self.odd_row(id.as_str()))?;
                self.from_index(&text)
            }
            several => {
                let mut candidates = Vec::new();
                for id in several {
                    let title = match id.parse().map(|id| index.manifest_text(&id)) {
                        Ok(Ok(Some(text))) => self.from_index(&text)?.title(),
                        _ => "?".to_owned(),
                    };
                    candidates.push(format!("{id} ({title})"));
                }
                Err(Refusal::Ambiguous { query: shortened(query), candidates }.into())
            }
        }
    }

    /// Images with the same name and another tag.
    fn near(&self, index: &Index, query: &str) -> Result<Vec<String>> {
        let Ok(wanted) = query.parse::<NameTag>() else { return Ok(Vec::new()) };
        let mut near = Vec::new();
        for (_, text) in index.all()? {
            let manifest = self.from_index(&text)?;
            if manifest.name == wanted.name && near.len() < 5 {
                near.push(match manifest.tag {
                    Some(_) => manifest.title(),
                    None => manifest.id.to_string(),
                });
            }
        }
        Ok(near)
    }

    /// The manifest in a row, which is a copy of the file's bytes.
    #[allow(clippy::wrong_self_convention, reason = "reads from the index, not from self")]
    fn from_index(&self, text: &str) -> Result<Manifest> {
        Manifest::parse(text, &self.layout.index()).map_err(|error| match error {
            Error::Malformed { problem, path, .. } => Error::Malformed {
                structure: "index",
                path,
                problem: Malformation::IndexCorrupt(format!("a row holds no manifest: {problem}")),
            },
            other => other,
        })
    }

    fn odd_row(&self, id: &str) -> Error {
        Error::Malformed {
            structure: "index",
            path: self.layout.index(),
            problem: Malformation::IndexCorrupt(format!("a row names the image {id:?}")),
        }
    }

    /// Opens the file of a layer for reading. It stays readable even when the image is removed meanwhile.
    ///
    /// # Errors
    /// [`kiln_disk::Error::Io`], `io.not-found` when the file is not there.
    pub fn open_layer(&self, layer: &LayerRecord) -> Result<FileSource> {
        Ok(FileSource::open(&self.layout.layer(&layer.digest))?)
    }

    /// Where the file of a layer is.
    #[must_use]
    pub fn layer_path(&self, layer: &LayerRecord) -> PathBuf {
        self.layout.layer(&layer.digest)
    }

    /// Whether `name` is free, before work is spent on an image for it.
    ///
    /// # Errors
    /// [`Refusal::NameTaken`].
    pub fn check_free(&self, name: &NameTag) -> Result<()> {
        match self.holder(&self.index()?, name)? {
            None => Ok(()),
            Some(holder) => Err(Refusal::NameTaken { name: name.to_string(), holder }.into()),
        }
    }

    pub(crate) fn holder(&self, index: &Index, name: &NameTag) -> Result<Option<ImageId>> {
        match index.by_tag(name.name.as_str(), name.tag.as_str())?.first() {
            None => Ok(None),
            Some(id) => id.parse().map(Some).map_err(|_| self.odd_row(id)),
        }
    }
}

impl Filter {
    fn fits(&self, manifest: &Manifest) -> bool {
        self.patterns.is_empty()
            || self.patterns.iter().any(|pattern| {
                glob(pattern, manifest.name.as_str())
                    || glob(pattern, manifest.id.as_str())
                    || manifest
                        .tag
                        .as_ref()
                        .map(Tag::as_str)
                        .is_some_and(|_| glob(pattern, &manifest.title()))
            })
    }
}

/// `*` any characters, `?` one; everything else itself. Time: length of pattern times length of text.
fn glob(pattern: &str, text: &str) -> bool {
    let text: Vec<char> = text.chars().collect();
    // reach[i]: the pattern so far can end before character i.
    let mut reach = vec![false; text.len() + 1];
    reach[0] = true;
    for sign in pattern.chars() {
        let mut next = vec![false; text.len() + 1];
        match sign {
            '*' => {
                let mut open = false;
                for (now, then) in reach.iter().zip(next.iter_mut()) {
                    open |= *now;
                    *then = open;
                }
            }
            _ => {
                for (index, found) in text.iter().enumerate() {
                    next[index + 1] = reach[index] && (sign == '?' || sign == *found);
                }
            }
        }
        reach = next;
    }
    reach.last().copied().unwrap_or(false)
}

fn shortened(query: &str) -> String {
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
    let label = Label { schema: SCHEMA.to_owned(), version: VERSION, created_at: Timestamp::now() };
    let text = serde_json::to_string_pretty(&label).unwrap_or_default();
    match write_whole(&layout.store_json(), &format!("{text}\n"), Existing::Keep) {
        Err(error) if error.code() == "io.exists" => Ok(()),
        other => other,
    }
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
    if version.schema != SCHEMA || version.version != VERSION {
        return Err(Error::Unsupported {
            code: "store.version",
            path,
            found: format!("{} version {}", shortened(&version.schema), version.version),
            known: format!("{SCHEMA} version {VERSION}"),
        });
    }
    serde_json::from_str(&text).map_err(malformed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn globs_match_whole_names() {
        for (pattern, text, fits) in [
            ("debian", "debian", true),
            ("debian", "debian:12", false),
            ("deb*", "debian:12", true),
            ("*:12", "debian:12", true),
            ("d?bian", "debian", true),
            ("d?bian", "dbian", false),
            ("*a*b*", "xxaxxbxx", true),
            ("", "", true),
            ("", "a", false),
        ] {
            assert_eq!(glob(pattern, text), fits, "{pattern} {text}");
        }
    }

    #[test]
    fn a_pattern_full_of_stars_costs_no_time() {
        assert!(!glob(&"*a".repeat(200), &"a".repeat(199)));
    }
}
