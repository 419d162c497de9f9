//! Looking images up, and listing them.

use std::path::Path;

use jiff::Timestamp;
use kiln_disk::digest::{ContentDigest, Digest};
use rusqlite::types::Value;
use serde::Serialize;

use crate::account::Account;
use crate::error::{Error, Malformation, Refusal, Result};
use crate::id::{ImageId, PREFIX};
use crate::index::{Entry, Index, Texts};
use crate::manifest::{Manifest, State};
use crate::name::{Name, NameTag};
use crate::record::Record;
use crate::rights::{Action, Relation};
use crate::sealed;
use crate::store::{Store, shortened};

/// An image as an account sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// What it is, with the name and state of today.
    pub manifest: Manifest,
    /// Its life.
    pub record: Record,
    /// How the account stands to it.
    pub relation: Relation,
}

/// What an image is to the account that asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Everyone's.
    Public,
    /// The account's own.
    Custom,
    /// Another account's, shared with this one.
    Shared,
}

impl Kind {
    /// The word.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Public => "public",
            Self::Custom => "custom",
            Self::Shared => "shared",
        }
    }
}

/// Which images to list. An empty filter lists all that the account may see.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    /// Only images whose name, `name:tag` or id fits one of these. `*` stands for any characters, `?` for one.
    pub patterns: Vec<String>,
    /// Only images whose name holds this text; case does not count.
    pub name: Option<String>,
    /// Only images of these kinds.
    pub kinds: Vec<Kind>,
    /// Only images of this owner.
    pub owner: Option<Account>,
    /// Only images with this operating system (the beginning of it is enough; case does not count).
    pub os: Option<String>,
    /// Only images for this architecture.
    pub architecture: Option<String>,
    /// Only images that boot in this way.
    pub boot_mode: Option<String>,
    /// Only images with this tag.
    pub tag: Option<String>,
    /// Only images in one of these states.
    pub states: Vec<State>,
    /// Only images of this family.
    pub family: Option<Name>,
    /// Only images published before this moment.
    pub before: Option<Timestamp>,
    /// In which order: the first decides, the next where it is a draw.
    pub sort: Vec<Sort>,
}

/// An order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sort {
    /// By what.
    pub key: SortKey,
    /// The largest or last first.
    pub descending: bool,
}

/// What to sort by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "columns of a listing")]
pub enum SortKey {
    Name,
    Created,
    Disk,
    Stored,
    Owner,
    State,
    Verified,
    Id,
}

impl SortKey {
    /// The keys by their words.
    pub const WORDS: [(&'static str, Self); 8] = [
        ("name", Self::Name),
        ("created", Self::Created),
        ("disk", Self::Disk),
        ("stored", Self::Stored),
        ("owner", Self::Owner),
        ("state", Self::State),
        ("verified", Self::Verified),
        ("id", Self::Id),
    ];

    const fn column(self) -> &'static str {
        match self {
            Self::Name => "name",
            Self::Created => "created_at",
            Self::Disk => "disk_bytes",
            Self::Stored => "stored_bytes",
            Self::Owner => "owner",
            Self::State => "state",
            Self::Verified => "verified_at",
            Self::Id => "images.id",
        }
    }
}

/// An image in a listing. Sizes are bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// All that is known about it.
    pub manifest: Manifest,
    /// Its life.
    pub record: Record,
    /// How the account stands to it.
    pub relation: Relation,
    /// Bytes of its layers.
    pub stored_bytes: u64,
    /// Bytes of the layers that no other image or instance has: what removing it would free.
    pub own_bytes: u64,
}

impl Listed {
    /// What it is to the account that asked.
    #[must_use]
    pub fn kind(&self) -> Kind {
        kind_of(&self.record, self.relation)
    }
}

impl Image {
    /// What it is to the account that asked.
    #[must_use]
    pub fn kind(&self) -> Kind {
        kind_of(&self.record, self.relation)
    }
}

fn kind_of(record: &Record, relation: Relation) -> Kind {
    match (record.image_type, relation) {
        (crate::manifest::ImageType::Public, _) => Kind::Public,
        (_, Relation::Owner) => Kind::Custom,
        _ => Kind::Shared,
    }
}

impl Store {
    /// The images that fit, by name, tag and age unless the filter says otherwise.
    ///
    /// # Errors
    /// [`Error::Malformed`] for a damaged index.
    pub fn list(&self, filter: &Filter) -> Result<Vec<Listed>> {
        let index = self.index()?;
        let (condition, values) = filter.condition(&self.account);
        let rows = index.select(&condition, rusqlite::params_from_iter(values), &filter.order())?;
        let mut listed = Vec::new();
        for (id, texts) in rows {
            let image = self.quick(&id, texts)?;
            let mut own_bytes = 0_u64;
            for layer in &image.manifest.layers {
                if index.holders(&layer.digest)? <= 1 {
                    own_bytes = own_bytes.saturating_add(layer.byte_len);
                }
            }
            let stored_bytes = image.manifest.stored_bytes();
            let Image { manifest, record, relation } = image;
            listed.push(Listed { manifest, record, relation, stored_bytes, own_bytes });
        }
        Ok(listed)
    }

    /// All images of the store, whosever they are: for its upkeep, not for its users.
    ///
    /// # Errors
    /// [`Error::Malformed`] for a damaged index.
    pub fn everything(&self) -> Result<Vec<Image>> {
        let rows = self.index()?.all()?;
        rows.into_iter().map(|(id, texts)| self.quick(&id, texts)).collect()
    }

    /// The one image that `query` means: `name:tag`, `name` (its tag `latest`), `family:NAME` (the latest usable
    /// image of a family), an id or a unique start of one (`img-7f`), or a digest of its content, its source file,
    /// its layer or its flat disk. Images that the account may not see are not there. An own image comes before
    /// others of its name.
    ///
    /// # Errors
    /// [`Refusal::NotFound`], [`Refusal::Ambiguous`].
    pub fn image(&self, query: &str) -> Result<Image> {
        let index = self.index()?;
        let ids = if query.starts_with(PREFIX) {
            index.by_prefix(query)?
        } else if let Some(family) = query.strip_prefix(FAMILY) {
            return self.latest_usable(&index, &family.parse()?);
        } else if query.parse::<ContentDigest>().is_ok() || query.parse::<Digest>().is_ok() {
            let digest =
                query.parse::<Digest>().map_or_else(|_| query.to_owned(), |digest| digest.to_string());
            index.by_digest(&digest)?
        } else {
            let wanted: NameTag = query.parse()?;
            index.by_any_tag(wanted.name.as_str(), wanted.tag.as_str())?
        };
        let mut images = Vec::new();
        for id in ids {
            let id: ImageId = id.parse().map_err(|_| self.odd_row(&id))?;
            match self.image_of(&index, &id) {
                Ok(image) => images.push(image),
                Err(Error::Refused(Refusal::NotFound { .. })) => {}
                Err(error) => return Err(error),
            }
        }
        let own = images.iter().filter(|image| image.relation == Relation::Owner).count();
        if own == 1 && images.len() > 1 && query.parse::<NameTag>().is_ok() {
            images.retain(|image| image.relation == Relation::Owner);
        }
        match images.len() {
            0 => Err(Refusal::NotFound { query: shortened(query), near: self.near(&index, query)? }.into()),
            1 => Ok(images.remove(0)),
            _ => {
                let candidates = images
                    .iter()
                    .map(|image| format!("{} ({})", image.manifest.id, image.manifest.title()))
                    .collect();
                Err(Refusal::Ambiguous { query: shortened(query), candidates }.into())
            }
        }
    }

    /// The manifest of [`Store::image`].
    ///
    /// # Errors
    /// As [`Store::image`].
    pub fn find(&self, query: &str) -> Result<Manifest> {
        Ok(self.image(query)?.manifest)
    }

    /// The latest image of a family that is neither deprecated nor expired. Own images come before others'.
    fn latest_usable(&self, index: &Index, family: &Name) -> Result<Image> {
        let rows = index.select(
            "family = ?1 AND state = 'normal' AND (expires_at IS NULL OR expires_at > ?2)",
            rusqlite::params![family.as_str(), Timestamp::now().as_microsecond()],
            "created_at DESC, images.id",
        )?;
        let mut others = None;
        for (id, texts) in rows {
            let image = self.quick(&id, texts)?;
            match image.relation {
                Relation::Owner => return Ok(image),
                Relation::Stranger => {}
                _ => others = others.or(Some(image)),
            }
        }
        others
            .ok_or_else(|| Refusal::NotFound { query: format!("{FAMILY}{family}"), near: Vec::new() }.into())
    }

    /// Images with the same name and another tag.
    fn near(&self, index: &Index, query: &str) -> Result<Vec<String>> {
        let Ok(wanted) = query.parse::<NameTag>() else { return Ok(Vec::new()) };
        let order = "name, tag IS NULL, tag, created_at, id";
        let rows = index.select("name = ?1", [wanted.name.as_str()], order)?;
        let mut near = Vec::new();
        for (id, texts) in rows {
            let image = self.quick(&id, texts)?;
            if image.relation != Relation::Stranger && near.len() < 5 {
                near.push(match image.manifest.tag {
                    Some(_) => image.manifest.title(),
                    None => image.manifest.id.to_string(),
                });
            }
        }
        Ok(near)
    }

    /// An image by its id, for the account.
    ///
    /// # Errors
    /// [`Refusal::NotFound`], also for one that the account may not see.
    pub(crate) fn image_of(&self, index: &Index, id: &ImageId) -> Result<Image> {
        let not_found = || Refusal::NotFound { query: id.to_string(), near: Vec::new() };
        let texts = index.texts(id)?.ok_or_else(not_found)?;
        let entry = self.entry_of(id.as_str(), texts)?;
        let image = self.seen(entry);
        let case = crate::rights::Case {
            relation: image.relation,
            state: image.record.state,
            circumstances: Vec::new(),
        };
        crate::rights::decide(Action::See, &case).map_err(|_| not_found())?;
        Ok(image)
    }

    /// A row as an image; its documents proved as files are.
    pub(crate) fn entry_of(&self, id: &str, texts: Texts) -> Result<Entry> {
        let entry =
            Entry::of(texts, &self.first_owner, &self.layout.index()).map_err(|error| match error {
                Error::Malformed { problem, path, .. } => Error::Malformed {
                    structure: "index",
                    path,
                    problem: Malformation::IndexCorrupt(format!("a row holds no manifest: {problem}")),
                },
                other => other,
            })?;
        if entry.manifest.id.as_str() == id { Ok(entry) } else { Err(self.odd_row(id)) }
    }

    /// The same for listings, without proving each document's seal: the index is a copy, and `fsck` compares it.
    fn quick(&self, id: &str, texts: Texts) -> Result<Image> {
        let corrupt = |error: serde_json::Error| Error::Malformed {
            structure: "index",
            path: self.layout.index(),
            problem: Malformation::IndexCorrupt(format!("a row holds no manifest: {error}")),
        };
        let manifest: Unsealed<Manifest> = serde_json::from_str(&texts.manifest).map_err(corrupt)?;
        let record = match &texts.record {
            Some(text) => serde_json::from_str::<Unsealed<Record>>(text).map_err(corrupt)?.document,
            None => Record::new(&manifest.document, self.first_owner.clone()),
        };
        if manifest.document.id.as_str() != id {
            return Err(self.odd_row(id));
        }
        let manifest = record.amend(manifest.document);
        Ok(self.seen(Entry { manifest, record, texts }))
    }

    fn seen(&self, entry: Entry) -> Image {
        let relation = self.relation_to(&entry.record);
        Image { manifest: entry.manifest, record: entry.record, relation }
    }

    /// How the account stands to an image.
    pub(crate) fn relation_to(&self, record: &Record) -> Relation {
        if record.owner == self.account {
            return Relation::Owner;
        }
        if record.image_type == crate::manifest::ImageType::Public {
            return Relation::Everyone;
        }
        match record.share_of(&self.account) {
            Some(share) if share.accepted_at.is_some() => Relation::Receiver,
            Some(_) => Relation::Offered,
            None => Relation::Stranger,
        }
    }

    pub(crate) fn odd_row(&self, id: &str) -> Error {
        Error::Malformed {
            structure: "index",
            path: self.layout.index(),
            problem: Malformation::IndexCorrupt(format!("a row names the image {id:?}")),
        }
    }

    /// Whether `name` is free for the account, before work is spent on an image for it.
    ///
    /// # Errors
    /// [`Refusal::NameTaken`].
    pub fn check_free(&self, name: &NameTag) -> Result<()> {
        match self.holder(&self.index()?, name)? {
            None => Ok(()),
            Some(holder) => Err(Refusal::NameTaken { name: name.to_string(), holder }.into()),
        }
    }

    /// The account's image with this name.
    pub(crate) fn holder(&self, index: &Index, name: &NameTag) -> Result<Option<ImageId>> {
        match index.by_tag(self.account.as_str(), name.name.as_str(), name.tag.as_str())?.first() {
            None => Ok(None),
            Some(id) => id.parse().map(Some).map_err(|_| self.odd_row(id)),
        }
    }
}

/// What stands before the name of a family in a query.
pub const FAMILY: &str = "family:";

/// A document whose seal is read and not compared.
struct Unsealed<T> {
    document: T,
}

impl<'de, T: sealed::Document> serde::Deserialize<'de> for Unsealed<T> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        let mut value = serde_json::Value::deserialize(deserializer)?;
        if let Some(fields) = value.as_object_mut() {
            fields.remove(T::SEAL);
        }
        let document = serde_json::from_value(value).map_err(serde::de::Error::custom)?;
        Ok(Self { document })
    }
}

impl Entry {
    /// The documents of an image, proved.
    pub(crate) fn of(texts: Texts, first_owner: &Account, path: &Path) -> Result<Self> {
        let manifest = Manifest::parse(&texts.manifest, path)?;
        let record = match &texts.record {
            Some(text) => sealed::parse::<Record>(text, path)?,
            None => Record::new(&manifest, first_owner.clone()),
        };
        Ok(Self { manifest: record.amend(manifest), record, texts })
    }

    /// An image that has no record yet.
    pub(crate) fn without_record(manifest: String, owner: &Account, path: &Path) -> Result<Self> {
        Self::of(Texts { manifest, record: None }, owner, path)
    }
}

impl Filter {
    /// A condition on the table of images, and its values.
    fn condition(&self, account: &Account) -> (String, Vec<Value>) {
        let mut terms = Vec::new();
        let mut values: Vec<Value> = vec![account.as_str().to_owned().into()];
        let shared = "EXISTS (SELECT 1 FROM shares WHERE image = images.id AND account = ?1)";
        let finished = "state IN ('syncing', 'normal', 'deprecated')";
        terms.push(format!("(owner = ?1 OR ({finished} AND (type = 'public' OR {shared})))"));
        let mut given = |value: Value| {
            values.push(value);
            values.len()
        };
        if !self.patterns.is_empty() {
            let fits = self.patterns.iter().map(|pattern| {
                // A bracket stands for itself; SQLite would read a set.
                let n = given(pattern.replace('[', "[[]").into());
                format!("name GLOB ?{n} OR images.id GLOB ?{n} OR name || ':' || tag GLOB ?{n}")
            });
            let fits: Vec<String> = fits.collect();
            terms.push(format!("({})", fits.join(" OR ")));
        }
        if let Some(name) = &self.name {
            terms.push(format!("instr(lower(name), ?{}) > 0", given(name.to_ascii_lowercase().into())));
        }
        if !self.kinds.is_empty() {
            let kinds: Vec<&str> = self
                .kinds
                .iter()
                .map(|kind| match kind {
                    Kind::Public => "type = 'public'",
                    Kind::Custom => "(type = 'custom' AND owner = ?1)",
                    Kind::Shared => "(type = 'custom' AND owner <> ?1)",
                })
                .collect();
            terms.push(format!("({})", kinds.join(" OR ")));
        }
        if let Some(owner) = &self.owner {
            terms.push(format!("owner = ?{}", given(owner.as_str().to_owned().into())));
        }
        if let Some(os) = &self.os {
            let n = given(os.to_lowercase().into());
            terms.push(format!("substr(lower(os), 1, length(?{n})) = ?{n}"));
        }
        let equal = [
            ("architecture", &self.architecture),
            ("tag", &self.tag),
            ("family", &self.family.as_ref().map(ToString::to_string)),
        ];
        for (column, wanted) in equal {
            if let Some(wanted) = wanted {
                terms.push(format!("{column} = ?{}", given(wanted.clone().into())));
            }
        }
        if let Some(wanted) = &self.boot_mode {
            // "bios+uefi" starts either way.
            let n = given(wanted.clone().into());
            terms.push(format!("instr('+' || boot_mode || '+', '+' || ?{n} || '+') > 0"));
        }
        if !self.states.is_empty() {
            let words: Vec<String> = self
                .states
                .iter()
                .map(|state| format!("?{}", given(state.word().to_owned().into())))
                .collect();
            terms.push(format!("state IN ({})", words.join(", ")));
        }
        if let Some(before) = self.before {
            terms.push(format!("created_at < ?{}", given(before.as_microsecond().into())));
        }
        (terms.join(" AND "), values)
    }

    fn order(&self) -> String {
        let mut terms: Vec<String> = self
            .sort
            .iter()
            .map(|sort| format!("{}{}", sort.key.column(), if sort.descending { " DESC" } else { "" }))
            .collect();
        terms.push("name, tag IS NULL, tag, created_at, images.id".to_owned());
        terms.join(", ")
    }
}
