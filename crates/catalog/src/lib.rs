//! Images as records and layers: the store on disk and its index.
//!
//! ```text
//! store.json                      what this directory is, and its version; also the lock of all changes
//! layers/aa/<digest>.qcow2        disks, named by the SHA-256 of the file
//! layers/aa/<digest>.leaves       their block hashes
//! images/<id>/manifest.json       what an image was when it was published: never written again
//! images/<id>/record.json         its life: owner, name, rights, state, history; the truth together with the manifest
//! images/<id>/signatures.json     who signed the image, when anybody did
//! instances/<id>/record.json      which image an instance was started from, and the layers that it keeps
//! quarantine/                     damaged layers, put aside
//! staging/<job>/                  what a running command is making; `lock` is held by its process
//! staging/<key>.part, .json       a download that broke off, to go on with
//! catalog.sqlite                  the index, made from the manifests
//! catalog.lock                    shared by whoever has the index open, exclusive to replace it
//! ```
//!
//! # Publication
//! Layers are written, brought to the device, read back for their digests, all in `staging/<job>/`. Then, with the
//! exclusive lock on `store.json` held: the job's *intent* (the image's id, its layers) is written for good; the
//! layers are linked to their names without replacing, their folder brought to the device; the manifest's folder
//! is renamed into `images/`, which is brought to the device; the row is committed. That commit is the moment at
//! which the image exists. A change in its life is published in the same way: intent, record, row. Removal goes the other way: intent, row, manifest, layers without a holder.
//!
//! # Failure
//! One rule undoes and completes everything: *the row decides*. For each image of an intent, a row means that its
//! manifest and record are there with the row's bytes, no row that they are not; a layer of an intent goes unless a row holds it.
//! A command that fails applies the rule itself. For one that dies, the next command does: it finds the job's lock
//! free, which only the death of its process can explain, as jobs are made with the exclusive lock held.
//!
//! # Locks
//! All are the kernel's and die with their process. Taken in this order: `store.json` (exclusive; whoever changes
//! names), `catalog.lock` (shared by users of the index, exclusive to replace it), SQLite's own, a job's. Removal
//! never breaks an import of the same layer: both change names under the one exclusive lock, and an import that
//! found its layer in the store looks again under the lock; if a removal took the layer away meanwhile, it links
//! its own copy, which it has in staging until the end. A reader keeps the layer open: removal takes the name, not
//! the bytes.

mod account;
mod appliance;
mod births;
mod capture;
mod copy;
mod error;
mod fsck;
mod guest;
mod id;
mod index;
mod instances;
mod job;
mod jobs;
mod key;
mod layout;
mod life;
mod locate;
mod lock;
pub mod machine;
mod manifest;
mod name;
mod partial;
mod publish;
mod query;
mod quota;
mod rebuild;
mod record;
mod remove;
pub mod rights;
mod scrub;
mod sealed;
pub mod settings;
mod signature;
mod source;
mod space;
mod stack;
mod steps;
mod store;
mod verify;

pub mod checks;
pub mod doctor;
pub mod kvm;

pub use account::Account;
pub use appliance::ApplianceRecord;
pub use births::{Births, Born, RUNNING, layer_from_instance};
pub use capture::{
    CaptureRecord, CaptureSource, Consistency, FileSystemRecord, FoundBy, FreezeRecord, IdentityRecord,
    MachineFacts,
};
pub use copy::draft_of_copy;
pub use error::{Error, Family, Malformation, Refusal, Result};
pub use fsck::{FsckOptions, FsckReport, Repaired};
pub use guest::{GuestNote, GuestRecord, GuestVerdict, HERE};
pub use id::{BadId, ImageId, InstanceId, LayerId};
pub use instances::{InstanceRecord, SCHEMA as INSTANCE_SCHEMA};
pub use job::Job;
pub use jobs::{CommandResume, CopyResume, JobFacts, JobView, KEPT_DAYS, Progress, Resume, Watched};
pub use key::{KeyProblem, KeyRing, KnownKey, PrivateKey, PublicKey, read_public};
pub use life::Attributes;
pub use locate::{Places, locate};
pub use manifest::{
    CheckRecord, Checksum, FindingCount, ImageDigests, ImageType, LayerRecord, Manifest, Origin, OriginKind,
    Provenance, SCHEMA as IMAGE_SCHEMA, SourceRecord, State,
};
pub use name::{LATEST, MAX_DESCRIPTION, MAX_LEN, Name, NameProblem, NameTag, Tag};
pub use partial::Partial;
pub use publish::{Birth, Draft, IfTaken, MAX_DEPTH, NewLayer, Published, SealedLayer, check_description};
pub use query::{FAMILY, Filter, Image, Kind, Listed, Sort, SortKey};
pub use quota::Quota;
pub use rebuild::Rebuilt;
pub use record::{
    Audit, LifeEvent, MAX_EVENTS, MAX_LABELS, Record, SCHEMA as RECORD_SCHEMA, Share, Verified, What,
};
pub use remove::Removal;
pub use rights::{Action, Reason, Relation};
pub use scrub::{DamagedLayer, ScrubOptions, Scrubbed};
pub use signature::{SCHEMA as SIGNATURES_SCHEMA, SignatureRecord, Signed};
pub use source::{DownloadRecord, SignatureFacts, SignerRecord};
pub use space::{AccountUsage, Collected, ImageUsage, Node, PrunePolicy, Verdict, monthly_cost};
pub use store::{SCHEMA, Store, VERSION};
pub use verify::{LayerReader, LayerVerdict, Verification};

#[cfg(test)]
mod tests;
