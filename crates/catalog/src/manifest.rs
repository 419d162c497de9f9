//! The manifest: all that is known about an image, in one file, `images/<id>/manifest.json`.
//!
//! The manifest is the truth and the index is made from it. Its bytes are fixed: the fields in the order below,
//! two spaces of indentation, a line feed at the end, and as last field the SHA-256 of the document without it. A
//! reader accepts exactly the bytes that a writer of the same facts gives, so every changed bit is seen.

use std::path::Path;

use jiff::Timestamp;
use kiln_disk::digest::{Algorithm, ContentDigest, Digest, hash_source};
use kiln_disk::{MemorySource, Severity, Silent};
use serde::{Deserialize, Serialize};

use crate::appliance::ApplianceRecord;
use crate::error::{Error, Malformation, Result, io};
use crate::id::{ImageId, LayerId};
use crate::name::{Name, NameTag, Tag};
use crate::source::{DownloadRecord, SignerRecord};

/// The value of the field `schema`.
pub const SCHEMA: &str = "kiln.image.v1";

/// A manifest has a few kilobytes; a file of more than this is not one.
const MAX_LEN: u64 = 4 << 20;

/// Where an image stands in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// Asked for, nothing done.
    Pending,
    /// Being brought in. An import shows nothing before it is done, so no manifest on disk has this state yet.
    Importing,
    /// The import came to an end without an image.
    ImportFailed,
    /// Whole and usable.
    Normal,
}

impl State {
    /// The word as the manifest has it.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Importing => "importing",
            Self::ImportFailed => "import-failed",
            Self::Normal => "normal",
        }
    }
}

/// Who may see an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ImageType {
    /// Its creator, and whom it is shared with.
    Custom,
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

    /// The bytes of the manifest file.
    ///
    /// # Errors
    /// None in practice: the type holds nothing that JSON cannot.
    pub(crate) fn render(&self, path: &Path) -> Result<String> {
        let sealed = Sealed { manifest: self, manifest_sha256: self.seal(path)? };
        let mut text = serde_json::to_string_pretty(&sealed).map_err(|error| json(path, error))?;
        text.push('\n');
        Ok(text)
    }

    /// Reads a manifest and accepts nothing but the exact bytes of [`Manifest::render`].
    ///
    /// # Errors
    /// [`Error::Malformed`], [`Error::Unsupported`] for another schema.
    pub(crate) fn parse(text: &str, path: &Path) -> Result<Self> {
        #[derive(Deserialize)]
        struct Head {
            schema: String,
        }
        let head: Head = serde_json::from_str(text).map_err(|error| json(path, error))?;
        if head.schema != SCHEMA {
            return Err(Error::Unsupported {
                code: "store.manifest.version",
                path: path.to_owned(),
                found: head.schema.chars().take(80).collect(),
                known: SCHEMA.to_owned(),
            });
        }
        let mut value: serde_json::Value = serde_json::from_str(text).map_err(|error| json(path, error))?;
        let stored = value.as_object_mut().and_then(|fields| fields.remove("manifest_sha256"));
        let manifest: Self = serde_json::from_value(value).map_err(|error| json(path, error))?;
        let computed = manifest.seal(path)?;
        let stored = stored.as_ref().and_then(serde_json::Value::as_str).unwrap_or("none");
        if stored != computed {
            let stored = stored.chars().take(80).collect();
            return Err(malformed(path, Malformation::SelfDigest { stored, computed }));
        }
        if manifest.render(path)? != text {
            return Err(malformed(path, Malformation::NotCanonical));
        }
        Ok(manifest)
    }

    /// Reads the manifest of `id` from its file.
    pub(crate) fn read(path: &Path, id: &ImageId) -> Result<(Self, String)> {
        let len = std::fs::metadata(path).map_err(|source| io("stat", path, source))?.len();
        if len > MAX_LEN {
            return Err(malformed(path, Malformation::TooLong { len, allowed: MAX_LEN }));
        }
        let bytes = std::fs::read(path).map_err(|source| io("read", path, source))?;
        let text = String::from_utf8(bytes).map_err(|_| malformed(path, Malformation::NotCanonical))?;
        let manifest = Self::parse(&text, path)?;
        if manifest.id != *id {
            return Err(malformed(path, Malformation::WrongImage { found: manifest.id }));
        }
        Ok((manifest, text))
    }

    fn seal(&self, path: &Path) -> Result<String> {
        let text = serde_json::to_vec(self).map_err(|error| json(path, error))?;
        sha256(text)
    }
}

#[derive(Serialize)]
struct Sealed<'a> {
    #[serde(flatten)]
    manifest: &'a Manifest,
    manifest_sha256: String,
}

/// `sha256:<hex>` of some bytes.
pub(crate) fn sha256(bytes: Vec<u8>) -> Result<String> {
    let digests = hash_source(&MemorySource::new(bytes), &[Algorithm::Sha256], &Silent)?;
    Ok(digests.first().map(ToString::to_string).unwrap_or_default())
}

fn json(path: &Path, error: serde_json::Error) -> Error {
    malformed(path, Malformation::Json(error))
}

fn malformed(path: &Path, problem: Malformation) -> Error {
    Error::Malformed { structure: "manifest", path: path.to_owned(), problem }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

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
            },
            checks: CheckRecord {
                rule_set: "1".to_owned(),
                scope: "metadata".to_owned(),
                forced: false,
                findings: vec![FindingCount { id: "x.y".to_owned(), severity: Severity::Waste, count: 3 }],
            },
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
