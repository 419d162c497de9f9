//! The index: what the manifests say, in SQLite, for quick questions. It can be made again at any time.
//!
//! A connection lives for one question or one change and holds a shared lock on `catalog.lock` meanwhile, so that
//! a rebuild, which needs it exclusively, never replaces a database that somebody has open.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension, TransactionBehavior, params};

use crate::error::{Error, Malformation, Refusal, Result, io};
use crate::id::{ImageId, InstanceId, LayerId};
use crate::instances::InstanceRecord;
use crate::layout::{Layout, create_new, sync_dir};
use crate::lock::{self, Lock, PATIENCE, Share};
use crate::manifest::Manifest;
use crate::record::Record;

/// "KILN", in the header of the database file.
const APPLICATION_ID: i64 = 0x4b49_4c4e;
/// Version of the tables.
const VERSION: i64 = 2;

const TABLES: &str = "
CREATE TABLE images (
    id           TEXT PRIMARY KEY NOT NULL,
    owner        TEXT NOT NULL,
    name         TEXT NOT NULL,
    tag          TEXT,
    type         TEXT NOT NULL,
    state        TEXT NOT NULL,
    os           TEXT,
    architecture TEXT,
    boot_mode    TEXT,
    family       TEXT,
    created_at   INTEGER NOT NULL,
    expires_at   INTEGER,
    verified_at  INTEGER,
    disk_bytes   INTEGER NOT NULL,
    stored_bytes INTEGER NOT NULL
) STRICT;
CREATE UNIQUE INDEX images_by_tag ON images (owner, name, tag) WHERE tag IS NOT NULL;
CREATE INDEX images_by_name ON images (name, tag);
CREATE INDEX images_by_family ON images (family, created_at) WHERE family IS NOT NULL;
CREATE TABLE texts (
    image    TEXT PRIMARY KEY NOT NULL REFERENCES images (id) ON DELETE CASCADE,
    manifest TEXT NOT NULL,
    record   TEXT
) STRICT;
CREATE TABLE shares (
    image    TEXT NOT NULL REFERENCES images (id) ON DELETE CASCADE,
    account  TEXT NOT NULL,
    accepted INTEGER NOT NULL,
    PRIMARY KEY (image, account)
) STRICT, WITHOUT ROWID;
CREATE INDEX shares_by_account ON shares (account, image);
CREATE TABLE layers (
    image    TEXT NOT NULL REFERENCES images (id) ON DELETE CASCADE,
    position INTEGER NOT NULL,
    digest   TEXT NOT NULL,
    byte_len INTEGER NOT NULL,
    PRIMARY KEY (image, position)
) STRICT;
CREATE INDEX layers_by_digest ON layers (digest);
CREATE TABLE digests (
    digest TEXT NOT NULL,
    image  TEXT NOT NULL REFERENCES images (id) ON DELETE CASCADE,
    PRIMARY KEY (digest, image)
) STRICT, WITHOUT ROWID;
CREATE INDEX digests_by_image ON digests (image);
CREATE TABLE instances (
    id     TEXT PRIMARY KEY NOT NULL,
    image  TEXT NOT NULL,
    record TEXT NOT NULL
) STRICT;
CREATE INDEX instances_by_image ON instances (image);
CREATE TABLE instance_layers (
    instance TEXT NOT NULL REFERENCES instances (id) ON DELETE CASCADE,
    digest   TEXT NOT NULL,
    PRIMARY KEY (instance, digest)
) STRICT, WITHOUT ROWID;
CREATE INDEX instance_layers_by_digest ON instance_layers (digest);
";

/// An open index.
pub(crate) struct Index {
    connection: Connection,
    path: PathBuf,
    _lock: Option<Lock>,
}

impl Index {
    /// Opens the index of a store.
    ///
    /// # Errors
    /// [`Error::Malformed`] when it is missing, damaged or of another program; [`Error::Unsupported`].
    pub(crate) fn open(layout: &Layout) -> Result<Self> {
        let lock = lock::wait_for(&layout.index_lock(), Share::Shared)?;
        let path = layout.index();
        if !path.try_exists().map_err(|source| io("look for", &path, source))? {
            return Err(malformed(&path, Malformation::IndexMissing));
        }
        Self::connect(path, Some(lock))
    }

    /// The manifests in an index of version 1, with which a store of version 1 is opened for the last time. `None`
    /// when the index is of this version already.
    pub(crate) fn of_version_1(layout: &Layout) -> Result<Option<Vec<String>>> {
        let lock = lock::wait_for(&layout.index_lock(), Share::Shared)?;
        let path = layout.index();
        if !path.try_exists().map_err(|source| io("look for", &path, source))? {
            return Err(malformed(&path, Malformation::IndexMissing));
        }
        match Self::connect_as(path, Some(lock), 1) {
            Ok(index) => {
                let sql = "SELECT manifest FROM images ORDER BY created_at, id";
                index.ids(sql, params![]).map(Some)
            }
            Err(Error::Unsupported { found, .. }) if found == VERSION.to_string() => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn connect(path: PathBuf, lock: Option<Lock>) -> Result<Self> {
        Self::connect_as(path, lock, VERSION)
    }

    fn connect_as(path: PathBuf, lock: Option<Lock>, known: i64) -> Result<Self> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection =
            Connection::open_with_flags(&path, flags).map_err(|error| failed("open", &path, error))?;
        let index = Self { connection, path, _lock: lock };
        index.run("open", |connection| {
            connection.busy_timeout(PATIENCE)?;
            connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
            connection.execute_batch(
                "PRAGMA trusted_schema = OFF; PRAGMA cell_size_check = ON; PRAGMA foreign_keys = ON;
                 PRAGMA synchronous = FULL;",
            )
        })?;
        let (application_id, version) = index.run("open", |connection| {
            let application_id = connection.query_row("PRAGMA application_id", [], |row| row.get(0))?;
            let version: i64 = connection.query_row("PRAGMA user_version", [], |row| row.get(0))?;
            Ok((application_id, version))
        })?;
        if application_id != APPLICATION_ID {
            return Err(malformed(&index.path, Malformation::IndexForeign { application_id }));
        }
        if version != known {
            return Err(Error::Unsupported {
                code: "store.index.version",
                path: index.path.clone(),
                found: version.to_string(),
                known: known.to_string(),
            });
        }
        Ok(index)
    }

    /// Makes an index with these manifests in a new file and brings it to the device; nobody uses it yet.
    ///
    /// Where two images of one owner claim one `name:tag`, the first in the list has it.
    pub(crate) fn build(path: &Path, images: &[Entry], instances: &[(InstanceRecord, String)]) -> Result<()> {
        drop(create_new(path)?);
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let made = || -> rusqlite::Result<()> {
            let mut connection = Connection::open_with_flags(path, flags)?;
            connection.execute_batch(&format!(
                "PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {VERSION};
                 PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON;"
            ))?;
            let change = connection.transaction()?;
            change.execute_batch(TABLES)?;
            for entry in images {
                insert(&change, entry, TagColumn::IfFree)?;
            }
            for (record, text) in instances {
                insert_instance(&change, record, text)?;
            }
            change.commit()?;
            connection.execute_batch("PRAGMA wal_checkpoint(TRUNCATE);")?;
            connection.close().map_err(|(_, error)| error)
        };
        made().map_err(|error| failed("make", path, error))?;
        let file = std::fs::File::open(path).map_err(|source| io("open", path, source))?;
        file.sync_all().map_err(|source| io("sync", path, source))
    }

    /// Puts a new index into place. What was there goes to `aside`, or away when that is `None`. At every moment there
    /// is the old one or the new one.
    ///
    /// # Errors
    /// Also [`Refusal::Busy`] while readers hold the old one.
    pub(crate) fn install(layout: &Layout, new: &Path, aside: Option<&Path>) -> Result<()> {
        let _lock = lock::wait_for(&layout.index_lock(), Share::Exclusive)?;
        let path = layout.index();
        match aside {
            Some(aside) => keep(&path, aside)?,
            None => settle(&path)?,
        }
        // The log goes first: next to a database that it does not belong to, it would be played into that.
        for suffix in ["-wal", "-shm"] {
            let old = with_suffix(&path, suffix);
            if_there(std::fs::remove_file(&old)).map_err(|source| io("remove", &old, source))?;
        }
        std::fs::rename(new, &path).map_err(|source| io("put into place", &path, source))?;
        sync_dir(layout.root())
    }

    /// Everything wrong with the database file itself.
    pub(crate) fn integrity(&self) -> Result<Vec<String>> {
        self.run("check", |connection| {
            let mut statement = connection.prepare("PRAGMA integrity_check(20)")?;
            let rows = statement.query_map([], |row| row.get::<_, String>(0))?;
            let mut problems: Vec<String> = rows.collect::<Result<_, _>>()?;
            problems.retain(|line| line != "ok");
            let mut statement = connection.prepare("PRAGMA foreign_key_check")?;
            let broken = statement.query_map([], |row| row.get::<_, String>(0))?;
            for table in broken {
                problems.push(format!("a row of {:?} points at no image", table?));
            }
            Ok(problems)
        })
    }

    /// The documents of all images, with their ids, by name, tag and age.
    pub(crate) fn all(&self) -> Result<Vec<(String, Texts)>> {
        self.select("", params![], "name, tag IS NULL, tag, created_at, id")
    }

    /// The documents of the images that fit a condition on `images`, in an order.
    #[allow(
        clippy::needless_pass_by_value,
        reason = "callers hand over arrays; a question asked again takes a clone"
    )]
    pub(crate) fn select(
        &self,
        condition: &str,
        values: impl rusqlite::Params + Clone,
        order: &str,
    ) -> Result<Vec<(String, Texts)>> {
        let condition = if condition.is_empty() { "1" } else { condition };
        let sql = format!(
            "SELECT images.id, manifest, record FROM images JOIN texts ON texts.image = images.id
             WHERE {condition} ORDER BY {order}"
        );
        self.run("read", |connection| {
            let mut statement = connection.prepare(&sql)?;
            let rows = statement.query_map(values.clone(), |row| {
                Ok((row.get(0)?, Texts { manifest: row.get(1)?, record: row.get(2)? }))
            })?;
            rows.collect()
        })
    }

    pub(crate) fn texts(&self, id: &ImageId) -> Result<Option<Texts>> {
        self.run("read", |connection| {
            connection
                .query_row("SELECT manifest, record FROM texts WHERE image = ?1", [id.as_str()], |row| {
                    Ok(Texts { manifest: row.get(0)?, record: row.get(1)? })
                })
                .optional()
        })
    }

    /// The image of an owner with this name and tag.
    pub(crate) fn by_tag(&self, owner: &str, name: &str, tag: &str) -> Result<Vec<String>> {
        self.ids(
            "SELECT id FROM images WHERE owner = ?1 AND name = ?2 AND tag = ?3",
            params![owner, name, tag],
        )
    }

    /// Images of all owners with this name and tag.
    pub(crate) fn by_any_tag(&self, name: &str, tag: &str) -> Result<Vec<String>> {
        self.ids("SELECT id FROM images WHERE name = ?1 AND tag = ?2 ORDER BY id", params![name, tag])
    }

    pub(crate) fn by_prefix(&self, prefix: &str) -> Result<Vec<String>> {
        // A range, so that the primary key serves it: no id holds a character behind 'z'.
        self.ids(
            "SELECT id FROM images WHERE id >= ?1 AND id < ?1 || '{' AND substr(id, 1, length(?1)) = ?1
             ORDER BY id",
            params![prefix],
        )
    }

    pub(crate) fn by_digest(&self, digest: &str) -> Result<Vec<String>> {
        self.ids("SELECT image FROM digests WHERE digest = ?1 ORDER BY image", params![digest])
    }

    /// How many images and instances have a layer.
    pub(crate) fn holders(&self, layer: &LayerId) -> Result<u64> {
        let count: i64 = self.run("read", |connection| {
            let mut statement = connection.prepare_cached(
                "SELECT (SELECT count(DISTINCT image) FROM layers WHERE digest = ?1)
                      + (SELECT count(*) FROM instance_layers WHERE digest = ?1)",
            )?;
            statement.query_row([layer.to_string()], |row| row.get(0))
        })?;
        Ok(u64::try_from(count).unwrap_or(0))
    }

    /// The images that have a layer.
    pub(crate) fn images_of(&self, layer: &LayerId) -> Result<Vec<String>> {
        self.ids("SELECT DISTINCT image FROM layers WHERE digest = ?1 ORDER BY image", [layer.to_string()])
    }

    /// Every layer that an image or an instance has.
    pub(crate) fn held_layers(&self) -> Result<Vec<String>> {
        self.ids("SELECT digest FROM layers UNION SELECT digest FROM instance_layers", params![])
    }

    /// Whether an image of an account has a layer.
    pub(crate) fn owner_has(&self, owner: &str, layer: &LayerId) -> Result<bool> {
        let sql = "SELECT id FROM images JOIN layers ON layers.image = images.id
                   WHERE digest = ?2 AND owner = ?1 LIMIT 1";
        Ok(!self.ids(sql, params![owner, layer.to_string()])?.is_empty())
    }

    /// How many images an account has, and the bytes of their layers, each counted once.
    pub(crate) fn taken_by(&self, owner: &str) -> Result<(u64, u64)> {
        let (images, bytes): (i64, i64) = self.run("read", |connection| {
            connection.query_row(
                "SELECT (SELECT count(*) FROM images WHERE owner = ?1),
                        (SELECT coalesce(sum(byte_len), 0) FROM (
                             SELECT DISTINCT digest, byte_len FROM layers
                             JOIN images ON images.id = layers.image WHERE owner = ?1))",
                [owner],
                |row| Ok((row.get(0)?, row.get(1)?)),
            )
        })?;
        Ok((u64::try_from(images).unwrap_or(0), u64::try_from(bytes).unwrap_or(0)))
    }

    /// The number that a question with one number in it answers.
    pub(crate) fn count(&self, sql: &str, value: i64) -> Result<u64> {
        let count: i64 =
            self.run("read", |connection| connection.query_row(sql, [value], |row| row.get(0)))?;
        Ok(u64::try_from(count).unwrap_or(0))
    }

    /// Ids of the instances that were started from an image.
    pub(crate) fn instances_of(&self, image: &ImageId) -> Result<Vec<String>> {
        self.ids("SELECT id FROM instances WHERE image = ?1 ORDER BY id", [image.as_str()])
    }

    /// The record of an instance as text.
    pub(crate) fn instance_text(&self, id: &InstanceId) -> Result<Option<String>> {
        self.run("read", |connection| {
            connection
                .query_row("SELECT record FROM instances WHERE id = ?1", [id.as_str()], |row| row.get(0))
                .optional()
        })
    }

    /// The records of all instances, as text with their ids.
    pub(crate) fn instances(&self) -> Result<Vec<(String, String)>> {
        self.run("read", |connection| {
            let mut statement = connection.prepare("SELECT id, record FROM instances ORDER BY id")?;
            let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
            rows.collect()
        })
    }

    /// Makes all changes of `edits` or none.
    pub(crate) fn change(&mut self, edits: &[Edit<'_>]) -> Result<()> {
        let path = self.path.clone();
        let mut attempt = || -> rusqlite::Result<()> {
            let change = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            for edit in edits {
                match edit {
                    Edit::Insert(entry) => insert(&change, entry, TagColumn::Must)?,
                    Edit::Amend(entry) => {
                        let id = entry.manifest.id.as_str();
                        change.execute("DELETE FROM images WHERE id = ?1", [id])?;
                        insert(&change, entry, TagColumn::Must)?;
                    }
                    Edit::Delete { id } => {
                        change.execute("DELETE FROM images WHERE id = ?1", [id.as_str()])?;
                    }
                    Edit::PutInstance { record, text } => {
                        change.execute("DELETE FROM instances WHERE id = ?1", [record.id.as_str()])?;
                        insert_instance(&change, record, text)?;
                    }
                    Edit::DropInstance { id } => {
                        change.execute("DELETE FROM instances WHERE id = ?1", [id.as_str()])?;
                    }
                }
            }
            change.commit()
        };
        attempt().map_err(|error| failed("write", &path, error))
    }

    #[allow(
        clippy::needless_pass_by_value,
        reason = "callers hand over arrays; a question asked again takes a clone"
    )]
    pub(crate) fn ids(&self, sql: &str, values: impl rusqlite::Params + Clone) -> Result<Vec<String>> {
        self.run("read", |connection| {
            let mut statement = connection.prepare_cached(sql)?;
            let rows = statement.query_map(values.clone(), |row| row.get(0))?;
            rows.collect()
        })
    }

    /// Runs a question; "locked by another connection" is asked again until the patience ends. SQLite answers that
    /// without waiting in a few corners (log recovery, the last connection's farewell).
    fn run<T>(
        &self,
        operation: &'static str,
        mut question: impl FnMut(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T> {
        let started = std::time::Instant::now();
        loop {
            match question(&self.connection) {
                Err(error) if is_busy(&error) && started.elapsed() < PATIENCE => {
                    std::thread::sleep(Duration::from_millis(5));
                }
                other => return other.map_err(|error| failed(operation, &self.path, error)),
            }
        }
    }
}

/// The two documents of an image as text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Texts {
    pub(crate) manifest: String,
    /// None for an image that never had a record written.
    pub(crate) record: Option<String>,
}

/// An image as it goes into the index.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    /// The manifest as the record amends it.
    pub(crate) manifest: Manifest,
    /// The record, written or implied.
    pub(crate) record: Record,
    /// Both as they are on disk.
    pub(crate) texts: Texts,
}

/// One change of the index.
pub(crate) enum Edit<'a> {
    /// A new image.
    Insert(&'a Entry),
    /// What is known about an image changed.
    Amend(&'a Entry),
    /// An image goes.
    Delete { id: &'a ImageId },
    /// A new instance, or what is known about one changed.
    PutInstance { record: &'a InstanceRecord, text: &'a str },
    /// An instance goes.
    DropInstance { id: &'a InstanceId },
}

/// What to do about a tag that another image has.
#[derive(Clone, Copy, PartialEq, Eq)]
enum TagColumn {
    Must,
    IfFree,
}

fn insert(connection: &Connection, entry: &Entry, tag: TagColumn) -> rusqlite::Result<()> {
    let Entry { manifest, record, texts } = entry;
    let id = manifest.id.as_str();
    let (owner, name) = (record.owner.as_str(), record.name.as_str());
    let mut column = record.tag.as_ref().map(crate::name::Tag::as_str);
    if tag == TagColumn::IfFree {
        let taken = connection
            .prepare_cached("SELECT 1 FROM images WHERE owner = ?1 AND name = ?2 AND tag = ?3")?
            .query_row(params![owner, name, column], |_| Ok(()))
            .optional()?;
        column = column.filter(|_| taken.is_none());
    }
    connection
        .prepare_cached(
            "INSERT INTO images (id, owner, name, tag, type, state, os, architecture, boot_mode, family,
                                 created_at, expires_at, verified_at, disk_bytes, stored_bytes)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15)",
        )?
        .execute(params![
            id,
            owner,
            name,
            column,
            record.image_type.word(),
            record.state.word(),
            record.os,
            record.architecture,
            record.boot_mode,
            record.family.as_ref().map(crate::name::Name::as_str),
            manifest.created_at.as_microsecond(),
            record.expires_at.map(jiff::Timestamp::as_microsecond),
            record.verified.as_ref().map(|verified| verified.at.as_microsecond()),
            signed(manifest.disk_bytes),
            signed(manifest.stored_bytes()),
        ])?;
    connection
        .prepare_cached("INSERT INTO texts (image, manifest, record) VALUES (?1, ?2, ?3)")?
        .execute(params![id, texts.manifest, texts.record])?;
    for share in &record.shares {
        connection
            .prepare_cached("INSERT OR IGNORE INTO shares (image, account, accepted) VALUES (?1, ?2, ?3)")?
            .execute(params![id, share.account.as_str(), share.accepted_at.is_some()])?;
    }
    for (position, layer) in manifest.layers.iter().enumerate() {
        connection
            .prepare_cached("INSERT INTO layers (image, position, digest, byte_len) VALUES (?1, ?2, ?3, ?4)")?
            .execute(params![
                id,
                i64::try_from(position).unwrap_or(i64::MAX),
                layer.digest.to_string(),
                signed(layer.byte_len)
            ])?;
    }
    let mut digests = vec![manifest.digests.content.to_string()];
    digests.extend(manifest.digests.raw.iter().map(ToString::to_string));
    digests.extend(manifest.source.digests.iter().map(ToString::to_string));
    digests.extend(manifest.layers.iter().map(|layer| layer.digest.to_string()));
    for digest in digests {
        connection
            .prepare_cached("INSERT OR IGNORE INTO digests (digest, image) VALUES (?1, ?2)")?
            .execute(params![digest, id])?;
    }
    Ok(())
}

fn insert_instance(connection: &Connection, record: &InstanceRecord, text: &str) -> rusqlite::Result<()> {
    connection.execute(
        "INSERT INTO instances (id, image, record) VALUES (?1, ?2, ?3)",
        params![record.id.as_str(), record.image.as_str(), text],
    )?;
    for layer in &record.layers {
        connection.execute(
            "INSERT OR IGNORE INTO instance_layers (instance, digest) VALUES (?1, ?2)",
            params![record.id.as_str(), layer.to_string()],
        )?;
    }
    Ok(())
}

/// SQLite's numbers are signed. No disk reaches 2^63 bytes; the manifest has the exact number in any case.
fn signed(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

/// Gives a damaged database, its log as well, a second name.
fn keep(path: &Path, aside: &Path) -> Result<()> {
    for suffix in ["", "-wal"] {
        let (old, kept) = (with_suffix(path, suffix), with_suffix(aside, suffix));
        // Not every file system has second names.
        let named = std::fs::hard_link(&old, &kept).or_else(|_| std::fs::rename(&old, &kept));
        if_there(named).map_err(|source| io("move aside", &old, source))?;
    }
    Ok(())
}

/// Brings what is in the log of a database into the database, so that it can do without. The last process that
/// closes it does so too, unless it dies.
fn settle(path: &Path) -> Result<()> {
    for needed in [path.to_owned(), with_suffix(path, "-wal")] {
        if !needed.try_exists().map_err(|source| io("look for", &needed, source))? {
            return Ok(());
        }
    }
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let settled = || -> rusqlite::Result<()> {
        let connection = Connection::open_with_flags(path, flags)?;
        connection.execute_batch("PRAGMA synchronous = FULL; PRAGMA wal_checkpoint(TRUNCATE);")?;
        connection.close().map_err(|(_, error)| error)
    };
    settled().map_err(|error| failed("settle", path, error))
}

/// What is not there needs nothing done.
fn if_there(done: std::io::Result<()>) -> std::io::Result<()> {
    done.or_else(|error| if error.kind() == std::io::ErrorKind::NotFound { Ok(()) } else { Err(error) })
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

fn is_busy(error: &rusqlite::Error) -> bool {
    matches!(
        error.sqlite_error_code(),
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked | ErrorCode::FileLockingProtocolFailed)
    )
}

fn malformed(path: &Path, problem: Malformation) -> Error {
    Error::Malformed { structure: "index", path: path.to_owned(), problem }
}

fn failed(operation: &'static str, path: &Path, error: rusqlite::Error) -> Error {
    if is_busy(&error) {
        let path = path.parent().unwrap_or(path).to_owned();
        return Refusal::Busy { path, seconds: PATIENCE.as_secs() }.into();
    }
    match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
            malformed(path, Malformation::IndexCorrupt(error.to_string()))
        }
        // A table or a column that is not there: the file is a database, but not the one that we made.
        Some(ErrorCode::Unknown) | None => malformed(path, Malformation::IndexCorrupt(error.to_string())),
        _ => Error::Index { operation, path: path.to_owned(), source: Box::new(error) },
    }
}
