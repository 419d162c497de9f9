//! Where a file came from: the server, and who vouches for it.

use jiff::Timestamp;
use kiln_disk::digest::Digest;
use serde::{Deserialize, Serialize};

/// A file that was fetched. No credentials, no signed queries: a record is shown to everybody.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DownloadRecord {
    /// Where it was asked for.
    pub url: String,
    /// Where it was found in the end, when the server sent us on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub final_url: Option<String>,
    /// The server's word for this version of the file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub etag: Option<String>,
    /// When the server says that it was changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_modified: Option<String>,
    /// When the download was done.
    pub fetched_at: Timestamp,
}

/// What a signature says of itself, once it is verified.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SignatureFacts {
    /// `openpgp` or `minisign`.
    pub scheme: String,
    /// OpenPGP: the fingerprint of the primary key. minisign: the key's id. In hex.
    pub key: String,
    /// The key's user id, or the signature's trusted comment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Algorithms of key and digest: `rsa, sha512`.
    pub algorithm: String,
    /// When it says that it was made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signed_at: Option<Timestamp>,
}

/// Who vouches for a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SignerRecord {
    /// What is signed: the base name of the list of checksums, or that of the file itself.
    pub signed: String,
    /// The signature.
    pub signature: SignatureFacts,
    /// Digest of the file of keys that was trusted.
    pub keys: Digest,
}
