//! The record: what changes in an image's life, in `images/<id>/record.json` beside the manifest.
//!
//! The manifest stays as it was published, so that a signature over it and a copy made from it keep their meaning;
//! a change of name, rights or state writes a new record. An image without one (of a store from before there were
//! records) has the record that its manifest implies.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::account::Account;
use crate::error::{Refusal, Result};
use crate::guest::GuestRecord;
use crate::id::ImageId;
use crate::manifest::{CheckRecord, ImageType, LayerRecord, Manifest, State};
use crate::name::{MAX_DESCRIPTION, Name, Tag};
use crate::sealed::Document;

/// The value of the field `schema`.
pub const SCHEMA: &str = "kiln.record.v1";

/// The most events that a history keeps; older ones are counted only.
pub const MAX_EVENTS: usize = 1000;
/// The most labels that an image may have.
pub const MAX_LABELS: usize = 64;

/// What changes in an image's life.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// [`SCHEMA`].
    pub schema: String,
    /// The image.
    pub id: ImageId,
    /// Counts the changes, from 1.
    pub revision: u64,
    /// Whose it is.
    pub owner: Account,
    /// The name.
    pub name: Name,
    /// The tag; none when it was moved to a newer image.
    pub tag: Option<Tag>,
    /// Free text of at most 256 characters.
    pub description: String,
    /// Who may see it.
    #[serde(rename = "type")]
    pub image_type: ImageType,
    /// Where it stands.
    pub state: State,
    /// The guest's architecture, when known.
    pub architecture: Option<String>,
    /// The guest's operating system, when known.
    pub os: Option<String>,
    /// How the guest boots, when known.
    pub boot_mode: Option<String>,
    /// The family that it belongs to: successive images of one purpose.
    pub family: Option<Name>,
    /// What the owner wrote on it.
    pub labels: BTreeMap<String, String>,
    /// Whether it is kept from being removed.
    pub protected: bool,
    /// When it ceases to be offered.
    pub expires_at: Option<Timestamp>,
    /// Whom it is shared with.
    pub shares: Vec<Share>,
    /// What people who looked at it say.
    pub audits: Vec<Audit>,
    /// The last time that all of it was read.
    pub verified: Option<Verified>,
    /// What later rules say, when they judged it again.
    pub screened: Option<CheckRecord>,
    /// What later rules about guests say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guest: Option<GuestRecord>,
    /// Its layers, base first, when they are no longer the ones that it was published with.
    pub layers: Option<Vec<LayerRecord>>,
    /// What happened to it, oldest first.
    pub history: Vec<LifeEvent>,
    /// Events that are no longer kept.
    pub forgotten_events: u64,
}

/// An account that an image is shared with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Share {
    /// The receiver.
    pub account: Account,
    /// Since when.
    pub since: Timestamp,
    /// When the receiver acknowledged the source.
    pub accepted_at: Option<Timestamp>,
}

/// What somebody who looked at an image says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Audit {
    /// Who.
    pub account: Account,
    /// When.
    pub at: Timestamp,
    /// What.
    pub note: String,
}

/// A reading of all of an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Verified {
    /// When.
    pub at: Timestamp,
    /// Whether it was what it should be.
    pub intact: bool,
}

/// Something that happened to an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LifeEvent {
    /// When.
    pub at: Timestamp,
    /// Who did it.
    pub account: Account,
    /// What.
    pub what: What,
    /// The particulars, for people; empty when the word says all.
    pub detail: String,
}

/// Kinds of events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum What {
    /// Became an image.
    Published,
    /// Got another name or tag.
    Tagged,
    /// Lost its tag.
    Untagged,
    /// Attributes changed.
    Changed,
    /// Shared with an account.
    Shared,
    /// A receiver acknowledged the source.
    Accepted,
    /// No longer shared with an account.
    Revoked,
    /// Made public.
    MadePublic,
    /// No longer public.
    MadePrivate,
    /// Looked at.
    Audited,
    /// No longer recommended.
    Deprecated,
    /// Recommended again.
    Undeprecated,
    /// Kept from removal.
    Protected,
    /// May be removed again.
    Unprotected,
    /// Copied.
    Copied,
    /// All of it was read.
    Verified,
    /// Judged by later rules.
    Screened,
    /// Its layers were joined to one.
    Flattened,
}

impl What {
    /// The word as the record has it.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Published => "published",
            Self::Tagged => "tagged",
            Self::Untagged => "untagged",
            Self::Changed => "changed",
            Self::Shared => "shared",
            Self::Accepted => "accepted",
            Self::Revoked => "revoked",
            Self::MadePublic => "made-public",
            Self::MadePrivate => "made-private",
            Self::Audited => "audited",
            Self::Deprecated => "deprecated",
            Self::Undeprecated => "undeprecated",
            Self::Protected => "protected",
            Self::Unprotected => "unprotected",
            Self::Copied => "copied",
            Self::Verified => "verified",
            Self::Screened => "screened",
            Self::Flattened => "flattened",
        }
    }
}

impl Document for Record {
    const STRUCTURE: &'static str = "record";
    const SCHEMA: &'static str = SCHEMA;
    const SEAL: &'static str = "record_sha256";
    const VERSION_CODE: &'static str = "store.record.version";
    /// 10,000 shares and a full history fit well.
    const MAX_LEN: u64 = 16 << 20;
}

impl Record {
    /// The record of an image at its publication, and of one that never had a record written.
    pub(crate) fn new(manifest: &Manifest, owner: Account) -> Self {
        let published = LifeEvent {
            at: manifest.created_at,
            account: owner.clone(),
            what: What::Published,
            detail: match &manifest.origin {
                Some(origin) => format!("from {} of {}", origin.image, origin.owner),
                None => String::new(),
            },
        };
        Self {
            schema: SCHEMA.to_owned(),
            id: manifest.id.clone(),
            revision: 1,
            owner,
            name: manifest.name.clone(),
            tag: manifest.tag.clone(),
            description: manifest.description.clone(),
            image_type: manifest.image_type,
            state: manifest.state,
            architecture: manifest.architecture.clone(),
            os: manifest.os.clone(),
            boot_mode: manifest.boot_mode.clone(),
            family: None,
            labels: BTreeMap::new(),
            protected: false,
            expires_at: None,
            shares: Vec::new(),
            audits: Vec::new(),
            verified: None,
            screened: None,
            guest: None,
            layers: None,
            history: vec![published],
            forgotten_events: 0,
        }
    }

    /// The manifest as the record amends it: with the name, state and facts of today.
    #[must_use]
    pub fn amend(&self, mut manifest: Manifest) -> Manifest {
        manifest.name = self.name.clone();
        manifest.tag = self.tag.clone();
        manifest.description = self.description.clone();
        manifest.image_type = self.image_type;
        manifest.state = self.state;
        manifest.architecture = self.architecture.clone();
        manifest.os = self.os.clone();
        manifest.boot_mode = self.boot_mode.clone();
        if let Some(layers) = &self.layers {
            manifest.layers = layers.clone();
        }
        manifest
    }

    /// Writes an event down.
    pub(crate) fn note(&mut self, account: &Account, what: What, detail: impl Into<String>) {
        let detail: String = detail.into();
        self.history.push(LifeEvent {
            at: Timestamp::now(),
            account: account.clone(),
            what,
            detail: detail.chars().take(2 * MAX_DESCRIPTION).collect(),
        });
        // The first event, the publication, is always kept.
        while self.history.len() > MAX_EVENTS {
            self.history.remove(1);
            self.forgotten_events = self.forgotten_events.saturating_add(1);
        }
    }

    /// The share of an account.
    #[must_use]
    pub fn share_of(&self, account: &Account) -> Option<&Share> {
        self.shares.iter().find(|share| share.account == *account)
    }

    /// Whether its time is over.
    #[must_use]
    pub fn expired(&self, now: Timestamp) -> bool {
        self.expires_at.is_some_and(|at| at <= now)
    }
}

/// Judges a word or line that a user writes on an image.
///
/// # Errors
/// [`Refusal::Text`].
pub(crate) fn check_text(what: &'static str, text: &str, allowed: usize) -> Result<()> {
    let len = text.chars().count();
    if len > 0 && len <= allowed && !text.chars().any(char::is_control) {
        return Ok(());
    }
    Err(Refusal::Text { what, len, allowed }.into())
}
