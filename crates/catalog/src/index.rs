//! The index: what the manifests say, in SQLite, for quick questions. It can be made again at any time.
//!
//! A connection lives for one question or one change and holds a shared lock on `catalog.lock` meanwhile, so that
//! a rebuild, which needs it exclusively, never replaces a database that somebody has open.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension, TransactionBehavior, params};

use crate::error::{Error, Malformation, Refusal, Result, io};
use crate::id::{ImageId, LayerId};
use crate::layout::{Layout, create_new, sync_dir};
use crate::lock::{self, Lock, PATIENCE, Share};
use crate::manifest::Manifest;

/// "KILN", in the header of the database file.
const APPLICATION_ID: i64 = 0x4b49_4c4e;
/// Version of the tables.
const VERSION: i64 = 1;

const TABLES: &str = "
CREATE TABLE images (
    id         TEXT PRIMARY KEY NOT NULL,
    name       TEXT NOT NULL,
    tag        TEXT,
    created_at TEXT NOT NULL,
    disk_bytes INTEGER NOT NULL,
    manifest   TEXT NOT NULL
) STRICT;
CREATE UNIQUE INDEX images_by_tag ON images (name, tag) WHERE tag IS NOT NULL;
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

    fn connect(path: PathBuf, lock: Option<Lock>) -> Result<Self> {
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
        if version != VERSION {
            return Err(Error::Unsupported {
                code: "store.index.version",
                path: index.path.clone(),
                found: version.to_string(),
                known: VERSION.to_string(),
            });
        }
        Ok(index)
    }

    /// Makes an index with these manifests in a new file and brings it to the device; nobody uses it yet.
    ///
    /// Where two manifests claim one `name:tag`, the first in the list has it.
    pub(crate) fn build(path: &Path, manifests: &[(Manifest, String)]) -> Result<()> {
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
            for (manifest, text) in manifests {
                insert(&change, manifest, text, TagColumn::IfFree)?;
            }
            change.commit()?;
            connection.execute_batch("PRAGMA wal_checkpoint(TRUNCATE);")?;
            connection.close().map_err(|(_, error)| error)
        };
        made().map_err(|error| failed("make", path, error))?;
        let file = std::fs::File::open(path).map_err(|source| io("open", path, source))?;
        file.sync_all().map_err(|source| io("sync", path, source))
    }

    /// Puts a new index into place. What was there goes to `aside`, or away when that is `None`.
    ///
    /// # Errors
    /// Also [`Refusal::Busy`] while readers hold the old one.
    pub(crate) fn install(layout: &Layout, new: &Path, aside: Option<&Path>) -> Result<()> {
        let _lock = lock::wait_for(&layout.index_lock(), Share::Exclusive)?;
        let path = layout.index();
        // The log goes first: next to a database that it does not belong to, it would be played into that.
        for suffix in ["-wal", "-shm", ""] {
            let old = with_suffix(&path, suffix);
            let moved = match aside {
                Some(aside) => std::fs::rename(&old, with_suffix(aside, suffix)),
                None => std::fs::remove_file(&old),
            };
            match moved {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(io("move aside", &old, error));
                }
                _ => {}
            }
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

    /// The manifests of all images, as text with their ids, by name, tag and age.
    pub(crate) fn all(&self) -> Result<Vec<(String, String)>> {
        self.run("read", |connection| {
            let mut statement = connection
                .prepare("SELECT id, manifest FROM images ORDER BY name, tag IS NULL, tag, created_at, id")?;
            let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
            rows.collect()
        })
    }

    pub(crate) fn manifest_text(&self, id: &ImageId) -> Result<Option<String>> {
        self.run("read", |connection| {
            connection
                .query_row("SELECT manifest FROM images WHERE id = ?1", [id.as_str()], |row| row.get(0))
                .optional()
        })
    }

    pub(crate) fn by_tag(&self, name: &str, tag: &str) -> Result<Vec<String>> {
        self.ids("SELECT id FROM images WHERE name = ?1 AND tag = ?2", params![name, tag])
    }

    pub(crate) fn by_prefix(&self, prefix: &str) -> Result<Vec<String>> {
        self.ids("SELECT id FROM images WHERE substr(id, 1, length(?1)) = ?1 ORDER BY id", params![prefix])
    }

    pub(crate) fn by_digest(&self, digest: &str) -> Result<Vec<String>> {
        self.ids("SELECT image FROM digests WHERE digest = ?1 ORDER BY image", params![digest])
    }

    /// How many images have a layer.
    pub(crate) fn holders(&self, layer: &LayerId) -> Result<u64> {
        let count: i64 = self.run("read", |connection| {
            connection.query_row(
                "SELECT count(DISTINCT image) FROM layers WHERE digest = ?1",
                [layer.to_string()],
                |row| row.get(0),
            )
        })?;
        Ok(u64::try_from(count).unwrap_or(0))
    }

    /// Makes all changes of `edits` or none.
    pub(crate) fn change(&mut self, edits: &[Edit<'_>]) -> Result<()> {
        let path = self.path.clone();
        let mut attempt = || -> rusqlite::Result<()> {
            let change = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            for edit in edits {
                match edit {
                    Edit::Insert { manifest, text } => insert(&change, manifest, text, TagColumn::Must)?,
                    Edit::Untag { id, text } => {
                        change.execute(
                            "UPDATE images SET tag = NULL, manifest = ?2 WHERE id = ?1",
                            params![id.as_str(), text],
                        )?;
                    }
                    Edit::Delete { id } => {
                        change.execute("DELETE FROM images WHERE id = ?1", [id.as_str()])?;
                    }
                }
            }
            change.commit()
        };
        attempt().map_err(|error| failed("write", &path, error))
    }

    fn ids(&self, sql: &str, values: impl rusqlite::Params + Copy) -> Result<Vec<String>> {
        self.run("read", |connection| {
            let mut statement = connection.prepare(sql)?;
            let rows = statement.query_map(values, |row| row.get(0))?;
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

/// One change of the index.
pub(crate) enum Edit<'a> {
    /// A new image.
    Insert { manifest: &'a Manifest, text: &'a str },
    /// An image loses its tag; `text` is its new manifest.
    Untag { id: &'a ImageId, text: &'a str },
    /// An image goes.
    Delete { id: &'a ImageId },
}

/// What to do about a tag that another image has.
#[derive(Clone, Copy, PartialEq, Eq)]
enum TagColumn {
    Must,
    IfFree,
}

fn insert(connection: &Connection, manifest: &Manifest, text: &str, tag: TagColumn) -> rusqlite::Result<()> {
    let id = manifest.id.as_str();
    let name = manifest.name.as_str();
    let mut column = manifest.tag.as_ref().map(crate::name::Tag::as_str);
    if tag == TagColumn::IfFree {
        let taken = connection
            .query_row("SELECT 1 FROM images WHERE name = ?1 AND tag = ?2", params![name, column], |_| Ok(()))
            .optional()?;
        column = column.filter(|_| taken.is_none());
    }
    connection.execute(
        "INSERT INTO images (id, name, tag, created_at, disk_bytes, manifest) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        params![id, name, column, manifest.created_at.to_string(), signed(manifest.disk_bytes), text],
    )?;
    for (position, layer) in manifest.layers.iter().enumerate() {
        connection.execute(
            "INSERT INTO layers (image, position, digest, byte_len) VALUES (?1, ?2, ?3, ?4)",
            params![
                id,
                i64::try_from(position).unwrap_or(i64::MAX),
                layer.digest.to_string(),
                signed(layer.byte_len)
            ],
        )?;
    }
    let mut digests = vec![manifest.digests.content.to_string()];
    digests.extend(manifest.digests.raw.iter().map(ToString::to_string));
    digests.extend(manifest.source.digests.iter().map(ToString::to_string));
    digests.extend(manifest.layers.iter().map(|layer| layer.digest.to_string()));
    for digest in digests {
        connection
            .execute("INSERT OR IGNORE INTO digests (digest, image) VALUES (?1, ?2)", params![digest, id])?;
    }
    Ok(())
}

/// SQLite's numbers are signed. No disk reaches 2^63 bytes; the manifest has the exact number in any case.
fn signed(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
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
