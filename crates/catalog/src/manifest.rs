//! The manifest: what an image was when it was published, in one file, `images/<id>/manifest.json`.
//!
//! It is written once. What changes in an image's life (its name and tag, who may use it, its state) is in the
//! [record](crate::record) beside it, which amends a manifest that was read. Both have the one form of
//! [`crate::sealed`]; together they are the truth, and the index is made from them.

use std::path::Path;

use jiff::Timestamp;
use kiln_disk::Severity;
use kiln_disk::digest::{ContentDigest, Digest};
use serde::{Deserialize, Serialize};

use crate::account::Account;
use crate::appliance::ApplianceRecord;
use crate::capture::CaptureRecord;
use crate::error::{Malformation, Result};
use crate::guest::GuestRecord;
use crate::id::{ImageId, LayerId};
use crate::name::{Name, NameTag, Tag};
use crate::sealed::{self, Document};
use crate::source::{DownloadRecord, SignerRecord};

/// The value of the field `schema`.
pub const SCHEMA: &str = "kiln.image.v1";

/// Where an image stands in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// Asked for, nothing done.
    Pending,
    /// Being brought in. An import shows nothing before it is done, so no manifest on disk has this state yet.
    Importing,
    /// Being made from an instance.
    Creating,
    /// Being copied to or from another store.
    Syncing,
    /// Whole and usable.
    Normal,
    /// Usable, but no longer recommended.
    Deprecated,
    /// The import came to an end without an image.
    ImportFailed,
    /// The capture or build came to an end without an image.
    CreateFailed,
    /// Gone.
    Deleted,
}

impl State {
    /// All states, in the order of a life.
    pub const ALL: [Self; 9] = [
        Self::Pending,
        Self::Importing,
        Self::Creating,
        Self::Syncing,
        Self::Normal,
        Self::Deprecated,
        Self::ImportFailed,
        Self::CreateFailed,
        Self::Deleted,
    ];

    /// The word as the manifest has it.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Importing => "importing",
            Self::Creating => "creating",
            Self::Syncing => "syncing",
            Self::Normal => "normal",
            Self::Deprecated => "deprecated",
            Self::ImportFailed => "import-failed",
            Self::CreateFailed => "create-failed",
            Self::Deleted => "deleted",
        }
    }

    /// Whether an image may go from this state to that one.
    #[must_use]
    pub fn leads_to(self, next: Self) -> bool {
        use State::*;
        matches!(
            (self, next),
            (Pending, Importing | Creating | Syncing)
                | (Importing, Normal | ImportFailed)
                | (Creating, Normal | CreateFailed)
                | (Syncing, Normal)
                | (Normal, Syncing | Deprecated | Deleted)
                | (Deprecated, Normal | Deleted)
                | (ImportFailed | CreateFailed, Deleted)
        )
    }
}

/// Who may see an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ImageType {
    /// Its creator, and whom it is shared with.
    Custom,
    /// Everyone.
    Public,
}

impl ImageType {
    /// The word as the record has it.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Custom => "custom",
            Self::Public => "public",
        }
    }
}

/// The image that this one was made from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Origin {
    /// How.
    pub how: OriginKind,
    /// Its id, in the store that it was in.
    pub image: ImageId,
    /// Its owner there.
    pub owner: Account,
    /// When it was published.
    pub created_at: Timestamp,
    /// SHA-256 of its manifest as published: ties the copy to it.
    pub manifest: LayerId,
    /// What it was made from in turn, nearest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub before: Vec<ImageId>,
}

/// How an image was made from another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OriginKind {
    /// A copy: the same disk.
    Copy,
    /// Captured from an instance of it.
    Capture,
    /// Came in a bundle: the same disk.
    Bundle,
}

/// All that is known about an image. Sizes are bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// [`SCHEMA`].
    pub schema: String,
    /// The id.
    pub id: ImageId,
    /// The name. Several images may have it, with different tags.
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
    /// When it was published.
    pub created_at: Timestamp,
    /// Length of the virtual disk.
    pub disk_bytes: u64,
    /// The guest's architecture, when known.
    pub architecture: Option<String>,
    /// The guest's operating system, when known.
    pub os: Option<String>,
    /// How the guest boots, when known.
    pub boot_mode: Option<String>,
    /// Digests of the disk as the guest sees it.
    pub digests: ImageDigests,
    /// The file that the image came from.
    pub source: SourceRecord,
    /// What is known about where that file came from.
    pub provenance: Provenance,
    /// What the checks said about that file.
    pub checks: CheckRecord,
    /// What the rules about guests said of the disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guest: Option<GuestRecord>,
    /// The image that this one was made from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<Origin>,
    /// The files that hold the disk, base first.
    pub layers: Vec<LayerRecord>,
}

/// Digests of the disk as the guest sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageDigests {
    /// The content digest.
    pub content: ContentDigest,
    /// Plain SHA-256 of the flat disk, when it was asked for.
    pub raw: Option<Digest>,
}

/// A file as it was received.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SourceRecord {
    /// Its base name; none for a pipe.
    pub file_name: Option<String>,
    /// Id of its format.
    pub format: String,
    /// Its length.
    pub byte_len: u64,
    /// Its transport digests, SHA-256 first.
    pub digests: Vec<Digest>,
}

/// What is known about where a file came from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Provenance {
    /// The program and its version: `kiln 0.1.0`.
    pub tool: String,
    /// The vendor's checksum.
    pub checksum: Checksum,
    /// The appliance that the disk was part of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub appliance: Option<ApplianceRecord>,
    /// The server that it came from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub download: Option<DownloadRecord>,
    /// Who signed it, or the list of checksums that it is in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signer: Option<SignerRecord>,
    /// How it was captured from a machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capture: Option<CaptureRecord>,
}

/// What a vendor's checksum said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "status", rename_all = "snake_case", deny_unknown_fields)]
pub enum Checksum {
    /// None was given.
    Unverified,
    /// The file has the digest that was given on the command line.
    Given {
        /// It.
        digest: Digest,
    },
    /// The file has the digest that a checksum file lists for it.
    Listed {
        /// It.
        digest: Digest,
        /// Base name of the checksum file.
        file: String,
        /// The line, counted from 1.
        line: u64,
    },
}

/// What the checks said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CheckRecord {
    /// Version of the rules, so that a later version can look again.
    pub rule_set: String,
    /// How far they went: `metadata` or `data`.
    pub scope: String,
    /// Whether the import went on although a finding failed.
    pub forced: bool,
    /// How often each finding was made.
    pub findings: Vec<FindingCount>,
}

/// How often a finding was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FindingCount {
    /// Its id.
    pub id: String,
    /// How bad it is.
    pub severity: Severity,
    /// How often.
    pub count: u64,
}

/// One file of an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LayerRecord {
    /// Its transport digest, which is its name.
    pub digest: LayerId,
    /// Id of its format.
    pub format: String,
    /// How its data is stored: `plain` or `zstd`.
    pub style: String,
    /// Its length.
    pub byte_len: u64,
    /// Digest of the disk that it gives, with the layers below it.
    pub content: ContentDigest,
    /// SHA-256 of its leaf file.
    pub leaves: LayerId,
}

impl Manifest {
    /// `name:tag`, or the name alone when the tag was moved away.
    #[must_use]
    pub fn title(&self) -> String {
        match &self.tag {
            Some(tag) => format!("{}:{tag}", self.name),
            None => self.name.to_string(),
        }
    }

    /// The name with its tag.
    #[must_use]
    pub fn name_tag(&self) -> Option<NameTag> {
        self.tag.clone().map(|tag| NameTag { name: self.name.clone(), tag })
    }

    /// Bytes of all layers.
    #[must_use]
    pub fn stored_bytes(&self) -> u64 {
        self.layers.iter().map(|layer| layer.byte_len).fold(0, u64::saturating_add)
    }

    /// A manifest from its text, proved by its own seal; `path` is for the error.
    ///
    /// # Errors
    /// [`crate::Error::Malformed`], [`crate::Error::Unsupported`] for another schema.
    pub fn from_text(text: &str, path: &Path) -> Result<Self> {
        Self::parse(text, path)
    }

    /// The bytes of the manifest file.
    ///
    /// # Errors
    /// None in practice: the type holds nothing that JSON cannot.
    pub(crate) fn render(&self, path: &Path) -> Result<String> {
        sealed::render(self, path)
    }

    /// Reads a manifest and accepts nothing but the exact bytes of [`Manifest::render`].
    ///
    /// # Errors
    /// [`Error::Malformed`], [`Error::Unsupported`] for another schema.
    pub(crate) fn parse(text: &str, path: &Path) -> Result<Self> {
        sealed::parse(text, path)
    }

    /// Reads the manifest of `id` from its file.
    pub(crate) fn read(path: &Path, id: &ImageId) -> Result<(Self, String)> {
        let (manifest, text): (Self, String) = sealed::read(path)?;
        if manifest.id != *id {
            let found = manifest.id;
            return Err(sealed::malformed::<Self>(path, Malformation::WrongImage { found }));
        }
        Ok((manifest, text))
    }
}

impl Document for Manifest {
    const STRUCTURE: &'static str = "manifest";
    const SCHEMA: &'static str = SCHEMA;
    const SEAL: &'static str = "manifest_sha256";
    const VERSION_CODE: &'static str = "store.manifest.version";
    /// A manifest has a few kilobytes.
    const MAX_LEN: u64 = 4 << 20;
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::error::Error;

    pub(crate) fn sample() -> Manifest {
        let digest = format!("sha256:{}", "0123456789abcdef".repeat(4));
        let content: ContentDigest =
            format!("fsverity-sha256-64k:{}", "fedcba9876543210".repeat(4)).parse().unwrap();
        Manifest {
            schema: SCHEMA.to_owned(),
            id: "img-abcdefgh".parse().unwrap(),
            name: "debian".parse().unwrap(),
            tag: Some(Tag::latest()),
            description: "a \"quoted\" text, é".to_owned(),
            image_type: ImageType::Custom,
            state: State::Normal,
            created_at: "2026-11-23T10:11:12.131415Z".parse().unwrap(),
            disk_bytes: 8 << 30,
            architecture: None,
            os: None,
            boot_mode: None,
            digests: ImageDigests { content, raw: None },
            source: SourceRecord {
                file_name: Some("disk.raw".to_owned()),
                format: "raw".to_owned(),
                byte_len: 8 << 30,
                digests: vec![digest.parse().unwrap()],
            },
            provenance: Provenance {
                tool: "kiln 0.1.0".to_owned(),
                checksum: Checksum::Listed {
                    digest: digest.parse().unwrap(),
                    file: "SHA256SUMS".to_owned(),
                    line: 4,
                },
                appliance: Some(ApplianceRecord { cpus: Some(2), ..ApplianceRecord::default() }),
                download: None,
                signer: None,
                capture: None,
            },
            checks: CheckRecord {
                rule_set: "1".to_owned(),
                scope: "metadata".to_owned(),
                forced: false,
                findings: vec![FindingCount { id: "x.y".to_owned(), severity: Severity::Waste, count: 3 }],
            },
            guest: None,
            origin: None,
            layers: vec![LayerRecord {
                digest: digest.parse().unwrap(),
                format: "qcow2".to_owned(),
                style: "plain".to_owned(),
                byte_len: 1 << 20,
                content,
                leaves: digest.parse().unwrap(),
            }],
        }
    }

    #[test]
    fn manifest_reads_back_as_written() {
        let manifest = sample();
        let text = manifest.render(Path::new("m")).unwrap();
        assert!(
            text.starts_with("{\n  \"schema\": \"kiln.image.v1\",\n  \"id\": \"img-abcdefgh\","),
            "{text}"
        );
        assert_eq!(Manifest::parse(&text, Path::new("m")).unwrap(), manifest);
    }

    #[test]
    fn every_flipped_bit_of_a_manifest_is_seen() {
        let text = sample().render(Path::new("m")).unwrap().into_bytes();
        for bit in 0..text.len() * 8 {
            let mut bytes = text.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            if let Ok(flipped) = String::from_utf8(bytes) {
                assert!(Manifest::parse(&flipped, Path::new("m")).is_err(), "bit {bit}");
            }
        }
    }

    #[test]
    fn another_schema_is_unsupported_and_names_both() {
        let text = sample().render(Path::new("m")).unwrap().replace("kiln.image.v1", "kiln.image.v9");
        let error = Manifest::parse(&text, Path::new("m")).unwrap_err();
        assert_eq!(error.code(), "store.manifest.version");
        assert!(error.to_string().contains("kiln.image.v9"), "{error}");
    }

    #[test]
    fn edited_description_is_told_from_the_seal() {
        let text = sample().render(Path::new("m")).unwrap().replace("quoted", "forged");
        let error = Manifest::parse(&text, Path::new("m")).unwrap_err();
        assert!(
            matches!(error, Error::Malformed { problem: Malformation::SelfDigest { .. }, .. }),
            "{error:?}"
        );
        assert_eq!(error.code(), "store.manifest.damaged");
    }
}
