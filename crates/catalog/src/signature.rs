//! Signatures of images: `images/<id>/signatures.json`, beside the manifest.
//!
//! What is signed is [`CONTEXT`] and then the JSON of those facts of the manifest that never change: id, date, disk,
//! digests, source, provenance, checks and layers. Names, tags, descriptions and states are labels that move, and
//! moving one leaves a signature good.

use std::path::{Path, PathBuf};

use jiff::Timestamp;
use kiln_disk::Existing;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Malformation, Result, io};
use crate::id::ImageId;
use crate::key::{PrivateKey, PublicKey, hex, unhex};
use crate::layout::write_whole;
use crate::manifest::{CheckRecord, ImageDigests, LayerRecord, Manifest, Provenance, SourceRecord};
use crate::store::Store;

/// The value of `schema` in `signatures.json`.
pub const SCHEMA: &str = "kiln.signatures.v1";

/// Keeps what is signed here apart from everything else that the key may sign.
pub(crate) const CONTEXT: &[u8] = b"kiln image record v1\0";

/// A file of more than this is not one.
const MAX_LEN: u64 = 1 << 20;

/// A signature of an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SignatureRecord {
    /// Whose it is.
    pub key: PublicKey,
    /// When it says that it was made.
    pub signed_at: Timestamp,
    /// 128 hex digits.
    pub signature: String,
}

/// A signature that was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signed {
    /// It.
    pub record: SignatureRecord,
    /// Whether it is the key's, for this image.
    pub valid: bool,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    schema: String,
    signatures: Vec<SignatureRecord>,
}

/// The facts that are signed, in this order.
#[derive(Serialize)]
struct Statement<'a> {
    schema: &'static str,
    signed_at: &'a Timestamp,
    id: &'a ImageId,
    created_at: &'a Timestamp,
    disk_bytes: u64,
    digests: &'a ImageDigests,
    source: &'a SourceRecord,
    provenance: &'a Provenance,
    checks: &'a CheckRecord,
    layers: &'a [LayerRecord],
}

/// The bytes that a signature of this time is made of.
fn message(image: &Manifest, signed_at: &Timestamp) -> Vec<u8> {
    let statement = Statement {
        schema: "kiln.statement.v1",
        signed_at,
        id: &image.id,
        created_at: &image.created_at,
        disk_bytes: image.disk_bytes,
        digests: &image.digests,
        source: &image.source,
        provenance: &image.provenance,
        checks: &image.checks,
        layers: &image.layers,
    };
    let mut bytes = CONTEXT.to_vec();
    // The types hold nothing that JSON cannot.
    bytes.extend(serde_json::to_vec(&statement).unwrap_or_default());
    bytes
}

fn sign(image: &Manifest, key: &PrivateKey) -> SignatureRecord {
    let signed_at = Timestamp::now();
    let signature = hex(&key.sign(&message(image, &signed_at)));
    SignatureRecord { key: key.public(), signed_at, signature }
}

/// Whether a signature is its key's, for this image.
fn is_valid(image: &Manifest, record: &SignatureRecord) -> bool {
    let message = message(image, &record.signed_at);
    unhex::<64>(&record.signature).is_some_and(|signature| record.key.verifies(&message, &signature))
}

/// The file in the directory of an image.
fn path_in(dir: &Path) -> PathBuf {
    dir.join("signatures.json")
}

/// Writes the first signature of an image that is being published.
pub(crate) fn write_first(dir: &Path, image: &Manifest, key: &PrivateKey) -> Result<()> {
    write(&path_in(dir), vec![sign(image, key)], Existing::Keep)
}

fn write(path: &Path, signatures: Vec<SignatureRecord>, existing: Existing) -> Result<()> {
    let file = File { schema: SCHEMA.to_owned(), signatures };
    let text = serde_json::to_string_pretty(&file).unwrap_or_default();
    write_whole(path, &format!("{text}\n"), existing)
}

fn read(path: &Path) -> Result<Vec<SignatureRecord>> {
    let malformed = |problem| Error::Malformed { structure: "signatures", path: path.to_owned(), problem };
    let len = match std::fs::metadata(path) {
        Ok(metadata) => metadata.len(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(io("stat", path, source)),
    };
    if len > MAX_LEN {
        return Err(malformed(Malformation::TooLong { len, allowed: MAX_LEN }));
    }
    let bytes = std::fs::read(path).map_err(|source| io("read", path, source))?;
    let file: File = serde_json::from_slice(&bytes).map_err(|error| malformed(Malformation::Json(error)))?;
    if file.schema != SCHEMA {
        return Err(Error::Unsupported {
            code: "store.signatures.version",
            path: path.to_owned(),
            found: file.schema.chars().take(80).collect(),
            known: SCHEMA.to_owned(),
        });
    }
    Ok(file.signatures)
}

impl Store {
    /// Signs an image that is in the store. A key signs an image once; signing again renews its signature.
    ///
    /// # Errors
    /// [`crate::Refusal::NotFound`] when the image went meanwhile; a damaged file of signatures; I/O.
    pub fn sign(&self, image: &Manifest, key: &PrivateKey) -> Result<SignatureRecord> {
        let _lock = self.exclusive()?;
        let (manifest, _) = Manifest::read(&self.layout.manifest(&image.id), &image.id)?;
        let record = sign(&manifest, key);
        let path = path_in(&self.layout.image(&image.id));
        let mut signatures = read(&path)?;
        signatures.retain(|other| other.key != record.key);
        signatures.push(record.clone());
        write(&path, signatures, Existing::Replace)?;
        Ok(record)
    }

    /// The signatures of an image, each held against its manifest.
    ///
    /// # Errors
    /// A damaged file of signatures; I/O.
    pub fn signatures(&self, image: &Manifest) -> Result<Vec<Signed>> {
        let records = read(&path_in(&self.layout.image(&image.id)))?;
        Ok(records.into_iter().map(|record| Signed { valid: is_valid(image, &record), record }).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::tests::sample;

    #[test]
    fn a_signature_covers_the_facts_and_not_the_labels() {
        let key = PrivateKey::from_seed(&[7; 32]);
        let image = sample();
        let record = sign(&image, &key);
        assert!(is_valid(&image, &record));
        let mut renamed = image.clone();
        renamed.tag = None;
        renamed.description = "other".to_owned();
        assert!(is_valid(&renamed, &record));
        let mut other = image.clone();
        other.disk_bytes += 512;
        assert!(!is_valid(&other, &record));
        let mut other = image.clone();
        other.provenance.tool = "kiln 9".to_owned();
        assert!(!is_valid(&other, &record));
        let mut later = record.clone();
        later.signed_at = "2030-01-01T00:00:00Z".parse().unwrap();
        assert!(!is_valid(&image, &later));
        let mut swapped = record;
        swapped.key = PrivateKey::from_seed(&[8; 32]).public();
        assert!(!is_valid(&image, &swapped));
    }
}
