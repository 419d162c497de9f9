//! The error of the store.
//!
//! I/O on files comes as [`kiln_disk::Error`]; the other families are the store's own. Nothing that a user typed
//! or that a file held is printed raw: names go through `{:?}`.

use std::path::PathBuf;

use crate::account::Account;
use crate::id::ImageId;
use crate::name::{Name, NameProblem};
use crate::rights::{Action, Reason};

/// Shorthand for results of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Who should look at an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// The machine.
    Io,
    /// Whoever owns the damaged file.
    Malformed,
    /// Whoever can offer another version.
    Unsupported,
    /// Whoever asked.
    Refused,
    /// Nobody: the user interrupted.
    Cancelled,
}

/// Why the store did not do something.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Files and disks.
    #[error(transparent)]
    Disk(#[from] kiln_disk::Error),
    /// The database engine failed on a healthy index: no space, no permission, I/O.
    #[error("cannot {operation} the index {}", path.display())]
    Index {
        /// Verb.
        operation: &'static str,
        /// The database file.
        path: PathBuf,
        /// The engine's answer.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A file of the store contradicts itself.
    #[error("damaged {structure} {}", path.display())]
    Malformed {
        /// What the file is: "manifest", "store.json", "index".
        structure: &'static str,
        /// Where it is.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        problem: Malformation,
    },
    /// A file of the store is newer than this program.
    #[error("{} was written by another version of Kiln ({found:?}; this one reads {known:?})", path.display())]
    Unsupported {
        /// The stable code: `store.version`, `store.manifest.version`, `store.index.version`.
        code: &'static str,
        /// Where it is.
        path: PathBuf,
        /// The version that the file names.
        found: String,
        /// The version that is understood.
        known: String,
    },
    /// A rule said no.
    #[error("refused: {0}")]
    Refused(Refusal),
}

/// One way in which a file of the store is wrong.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Malformation {
    /// Not the JSON that it should be.
    #[error("it cannot be read as JSON of its schema")]
    Json(#[source] serde_json::Error),
    /// Not the TOML that it should be.
    #[error("it cannot be read as TOML: {0}")]
    Toml(String),
    /// Longer than any honest file of its kind.
    #[error("it has {len} bytes, at most {allowed} make sense")]
    TooLong {
        /// Its length.
        len: u64,
        /// The limit.
        allowed: u64,
    },
    /// The content does not have the digest that it carries.
    #[error("its content has {computed}, it says {stored}")]
    SelfDigest {
        /// The digest in the file.
        stored: String,
        /// The digest of the rest of the file.
        computed: String,
    },
    /// The same facts, but not the bytes that Kiln writes.
    #[error("it was edited: its bytes are not the ones that Kiln writes")]
    NotCanonical,
    /// The manifest of another image.
    #[error("it describes {found}")]
    WrongImage {
        /// The id in the file.
        found: ImageId,
    },
    /// The index is not there although images are.
    #[error("it is missing")]
    IndexMissing,
    /// The index is no SQLite database, or a damaged one.
    #[error("the database engine says: {0}")]
    IndexCorrupt(String),
    /// A SQLite database of something else.
    #[error("it is a database of another program (application id {application_id:#010x})")]
    IndexForeign {
        /// The id in its header.
        application_id: i64,
    },
}

/// One way in which a rule says no.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// A name or a tag breaks the rules.
    #[error("{what} {given:?} is not allowed: {problem}")]
    Name {
        /// "name" or "tag".
        what: &'static str,
        /// What was given, cut to a readable length.
        given: String,
        /// The rule.
        problem: NameProblem,
    },
    /// A description that is too long or holds control characters.
    #[error("the description has {len} characters, at most {allowed} printable ones are allowed")]
    Description {
        /// Characters given.
        len: usize,
        /// Characters allowed.
        allowed: usize,
    },
    /// Another image has the name.
    #[error("{name} is already {holder}")]
    NameTaken {
        /// The `name:tag`.
        name: String,
        /// The image that has it.
        holder: ImageId,
    },
    /// Nothing fits.
    #[error("no image {query:?}")]
    NotFound {
        /// What was asked for.
        query: String,
        /// Images that the user may have meant.
        near: Vec<String>,
    },
    /// More than one image fits.
    #[error("{query:?} fits several images: {}", candidates.join(", "))]
    Ambiguous {
        /// What was asked for.
        query: String,
        /// All that fit, with their names.
        candidates: Vec<String>,
    },
    /// There is no store at the place.
    #[error("there is no store at {}", path.display())]
    NoStore {
        /// The place.
        path: PathBuf,
    },
    /// A directory full of something else.
    #[error("{} is not empty and not a store", path.display())]
    NotAStore {
        /// The place.
        path: PathBuf,
    },
    /// No place for a store is known.
    #[error("no place for the store is known")]
    NoPlace,
    /// Another process holds the lock for too long.
    #[error("the store {} is busy: its lock was not free for {seconds} s", path.display())]
    Busy {
        /// The store.
        path: PathBuf,
        /// How long was waited.
        seconds: u64,
    },
    /// A staged layer changed between its making and its publication, or does not hold what was said.
    #[error("the staged layer {} has {found}, expected {expected}", path.display())]
    LayerDiffers {
        /// The staged file.
        path: PathBuf,
        /// What was read back.
        found: String,
        /// What was written.
        expected: String,
    },
    /// A key is not usable.
    #[error("{0}")]
    Key(crate::key::KeyProblem),
    /// The rights table says no.
    #[error("{id} ({title}) cannot be {}: {}", action.verb(), reason.words())]
    Rights {
        /// What was to be done.
        action: Action,
        /// The image.
        id: ImageId,
        /// Its name and tag.
        title: String,
        /// Why not.
        reason: Reason,
    },
    /// The account has all that it may have.
    #[error("the quota of {what} is {allowed}: {used} are taken, {asked} more were asked for")]
    Quota {
        /// Of what.
        what: &'static str,
        /// Taken already.
        used: u64,
        /// Asked for.
        asked: u64,
        /// Allowed.
        allowed: u64,
    },
    /// A text that is empty, too long, or holds control characters.
    #[error("the {what} has {len} characters: 1 to {allowed} printable ones are allowed")]
    Text {
        /// What it is.
        what: &'static str,
        /// Characters given.
        len: usize,
        /// Characters allowed.
        allowed: usize,
    },
    /// More of something than an image may have.
    #[error("an image has at most {allowed} {what}")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// Allowed.
        allowed: usize,
    },
    /// An image shared with its owner.
    #[error("an image cannot be shared with its own owner")]
    ShareWithSelf,
    /// A share that is not there.
    #[error("it is not shared with {account}")]
    NotShared {
        /// The account.
        account: Account,
    },
    /// An instance that is not there.
    #[error("no instance {id:?}")]
    NoInstance {
        /// What was asked for.
        id: String,
    },
    /// A name that an instance cannot have.
    #[error("{:?} {why}", name.as_str())]
    InstanceName {
        /// The name.
        name: Name,
        /// Why not.
        why: &'static str,
    },
    /// An image got other layers while an instance of it was being made.
    #[error("the layers of {image} were changed by another command meanwhile")]
    LayersChanged {
        /// The image.
        image: ImageId,
    },
    /// A job that is not there.
    #[error("no job {id:?}")]
    NoJob {
        /// What was asked for.
        id: String,
    },
    /// A job that cannot go on.
    #[error("the job {id} cannot be resumed: {reason}")]
    NotResumable {
        /// The job.
        id: String,
        /// Why not.
        reason: &'static str,
    },
    /// More layers upon each other than are read.
    #[error("an image of {layers} layers: at most {allowed} are stacked")]
    TooDeep {
        /// How many.
        layers: usize,
        /// How many may be.
        allowed: usize,
    },
    /// Something in the store cannot be read, so it is not known what is needed.
    #[error("{what} cannot be read, so it is not known which layers are needed")]
    NotClean {
        /// An image or an instance.
        what: String,
    },
    /// A setting that cannot be used.
    #[error("the setting {key} from {origin}: {problem}")]
    Setting {
        /// Its name.
        key: String,
        /// Where it is.
        origin: String,
        /// What is wrong.
        problem: String,
    },
    /// The image has a shape that this version cannot open.
    #[error("{id} has {layers} layers, this version opens images of one")]
    LayerCount {
        /// The image.
        id: ImageId,
        /// How many it has.
        layers: usize,
    },
}

impl Error {
    /// The stable code that scripts branch on.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Disk(error) => error.code(),
            Self::Index { .. } => "store.index.io",
            Self::Unsupported { code, .. } => code,
            Self::Malformed { structure, problem, .. } => match problem {
                Malformation::IndexMissing => "store.index.missing",
                Malformation::IndexCorrupt(_) => "store.index.damaged",
                Malformation::IndexForeign { .. } => "store.index.foreign",
                _ if *structure == "manifest" => "store.manifest.damaged",
                _ if *structure == "record" => "store.record.damaged",
                _ if *structure == "instance record" => "store.instance.damaged",
                _ if *structure == "settings" => "config.syntax",
                _ if *structure == "intent" => "store.staging.damaged",
                _ if *structure == "signatures" => "store.signatures.damaged",
                _ => "store.json.damaged",
            },
            Self::Refused(refusal) => refusal.code(),
        }
    }

    /// What to do next, when there is something better than the message.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        let fixed = match self {
            Self::Disk(error) => error.hint()?,
            Self::Index { .. } => "check the free space and the permissions of the store's directory",
            Self::Unsupported { .. } => "use the version of kiln that wrote it, or a newer one",
            Self::Malformed { problem, structure, .. } => match problem {
                Malformation::IndexMissing
                | Malformation::IndexCorrupt(_)
                | Malformation::IndexForeign { .. } => {
                    "the images are not in the index: kiln store rebuild makes it again and keeps the old one aside"
                }
                _ if *structure == "manifest" => "kiln store fsck lists what else is wrong in the store",
                _ if *structure == "record" => {
                    "kiln store fsck --repair writes it again from the index, when that still has it"
                }
                _ => "restore the file from a backup, or name another store with --store",
            },
            Self::Refused(refusal) => return refusal.hint(),
        };
        Some(fixed.to_owned())
    }

    /// Who should look at it.
    #[must_use]
    pub fn family(&self) -> Family {
        match self {
            Self::Disk(kiln_disk::Error::Malformed { .. }) | Self::Malformed { .. } => Family::Malformed,
            Self::Disk(kiln_disk::Error::Unsupported { .. }) | Self::Unsupported { .. } => {
                Family::Unsupported
            }
            Self::Disk(kiln_disk::Error::Refused { .. }) | Self::Refused(_) => Family::Refused,
            Self::Disk(kiln_disk::Error::Cancelled) => Family::Cancelled,
            Self::Disk(_) | Self::Index { .. } => Family::Io,
        }
    }
}

impl Refusal {
    /// The stable code.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Name { problem, .. } => problem.code(),
            Self::Description { .. } => "name.description",
            Self::NameTaken { .. } => "store.name-taken",
            Self::NotFound { .. } => "store.not-found",
            Self::Ambiguous { .. } => "store.ambiguous",
            Self::NoStore { .. } => "store.missing",
            Self::NotAStore { .. } => "store.foreign",
            Self::NoPlace => "store.no-place",
            Self::Busy { .. } => "store.busy",
            Self::LayerDiffers { .. } => "store.layer.differs",
            Self::Rights { reason, .. } => reason.code(),
            Self::Quota { .. } => "store.quota",
            Self::Text { .. } => "name.text",
            Self::TooMany { .. } => "name.too-many",
            Self::ShareWithSelf => "rights.own-account",
            Self::NotShared { .. } => "rights.not-shared",
            Self::NoInstance { .. } => "store.no-instance",
            Self::InstanceName { .. } => "instance.name",
            Self::LayersChanged { .. } => "store.layers.changed",
            Self::NoJob { .. } => "store.no-job",
            Self::NotResumable { .. } => "store.job.not-resumable",
            Self::TooDeep { .. } => "store.layers.depth",
            Self::NotClean { .. } => "store.not-clean",
            Self::Setting { .. } => "config.value",
            Self::LayerCount { .. } => "store.layers",
            Self::Key(problem) => problem.code(),
        }
    }

    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Name { problem, .. } => problem.hint().to_owned(),
            Self::Description { .. } => "shorten the text, and leave out line breaks".to_owned(),
            Self::NameTaken { name, .. } => {
                format!("choose another tag, or move {name} to the new image with --replace")
            }
            Self::NotFound { near, .. } if near.is_empty() => "kiln ls lists the images".to_owned(),
            Self::NotFound { near, .. } => format!("there is {}", near.join(", ")),
            Self::Ambiguous { .. } => "use the whole id".to_owned(),
            Self::NoStore { .. } => {
                "kiln import makes one; --store or KILN_STORE name another place".to_owned()
            }
            Self::NotAStore { .. } => "name an empty or a new directory".to_owned(),
            Self::NoPlace => "give --store DIR, or set KILN_STORE or HOME".to_owned(),
            Self::Busy { .. } => "wait for the other kiln to finish, then try again".to_owned(),
            Self::LayerDiffers { .. } => {
                "the file system did not give back what was written: check the disk and its cable, then try again"
                    .to_owned()
            }
            Self::Key(problem) => problem.hint().to_owned(),
            Self::Rights { id, reason, .. } => return reason.hint(id.as_str()),
            Self::Quota { what, .. } => format!(
                "kiln prune and kiln rm make room; kiln config show --origin says where quota.{what} is set"
            ),
            Self::Text { .. } => "shorten the text, and leave out line breaks".to_owned(),
            Self::NotShared { .. } => "kiln shares IMAGE shows with whom it is shared".to_owned(),
            Self::NoJob { .. } => "kiln jobs lists them".to_owned(),
            Self::NotResumable { .. } => {
                "kiln jobs shows it; kiln cancel JOB stops it, or clears it away".to_owned()
            }
            Self::TooDeep { .. } => "kiln flatten IMAGE joins the layers of the image below".to_owned(),
            Self::NotClean { .. } => "kiln store fsck says what is wrong with it".to_owned(),
            Self::Setting { .. } => {
                "kiln config show --origin lists all settings and where they come from".to_owned()
            }
            Self::NoInstance { .. } => "kiln ps --all lists the instances".to_owned(),
            Self::InstanceName { .. } => {
                "choose another name; kiln ps --all lists the instances".to_owned()
            }
            Self::LayersChanged { .. } => "run the same command again".to_owned(),
            Self::LayerCount { .. } | Self::TooMany { .. } | Self::ShareWithSelf => return None,
        })
    }
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

/// An [`enum@Error`] for a failed file operation.
pub(crate) fn io(operation: &'static str, path: &std::path::Path, source: std::io::Error) -> Error {
    kiln_disk::Error::io(operation, path.display().to_string(), source).into()
}
