//! The one form that the store's documents have: fields in a fixed order, two spaces of indentation, a line feed at
//! the end, and as last field the SHA-256 of the document without it. A reader accepts exactly the bytes that a
//! writer of the same facts gives, so every changed bit is seen.

use std::path::Path;

use kiln_disk::digest::{Algorithm, hash_source};
use kiln_disk::{MemorySource, Silent};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::{Error, Malformation, Result, io};

/// A kind of document.
pub(crate) trait Document: Serialize + DeserializeOwned {
    /// What it is called in errors: "manifest".
    const STRUCTURE: &'static str;
    /// The value of its field `schema`.
    const SCHEMA: &'static str;
    /// Name of the field with its digest.
    const SEAL: &'static str;
    /// Code of the error for another schema.
    const VERSION_CODE: &'static str;
    /// No honest document is longer, in bytes.
    const MAX_LEN: u64;
}

/// The bytes of a document's file.
///
/// # Errors
/// None in practice: documents hold nothing that JSON cannot.
pub(crate) fn render<T: Document>(document: &T, path: &Path) -> Result<String> {
    let text = serde_json::to_string_pretty(document).map_err(|error| json::<T>(path, error))?;
    let body = text.strip_suffix("\n}").unwrap_or(&text);
    Ok(format!("{body},\n  \"{}\": \"{}\"\n}}\n", T::SEAL, seal(document, path)?))
}

/// Reads a document and accepts nothing but the exact bytes of [`render`].
///
/// # Errors
/// [`Error::Malformed`], [`Error::Unsupported`] for another schema.
pub(crate) fn parse<T: Document>(text: &str, path: &Path) -> Result<T> {
    let mut value: serde_json::Value = serde_json::from_str(text).map_err(|error| json::<T>(path, error))?;
    let schema = value.get("schema").and_then(serde_json::Value::as_str);
    match schema {
        Some(schema) if schema == T::SCHEMA => {}
        Some(schema) => {
            return Err(Error::Unsupported {
                code: T::VERSION_CODE,
                path: path.to_owned(),
                found: schema.chars().take(80).collect(),
                known: T::SCHEMA.to_owned(),
            });
        }
        None => {
            let missing = serde::de::Error::missing_field("schema");
            return Err(json::<T>(path, missing));
        }
    }
    let stored = value.as_object_mut().and_then(|fields| fields.remove(T::SEAL));
    let document: T = serde_json::from_value(value).map_err(|error| json::<T>(path, error))?;
    let computed = seal(&document, path)?;
    let stored = stored.as_ref().and_then(serde_json::Value::as_str).unwrap_or("none");
    if stored != computed {
        let stored = stored.chars().take(80).collect();
        return Err(malformed::<T>(path, Malformation::SelfDigest { stored, computed }));
    }
    if render(&document, path)? != text {
        return Err(malformed::<T>(path, Malformation::NotCanonical));
    }
    Ok(document)
}

/// Reads a document from its file; also answers its text.
pub(crate) fn read<T: Document>(path: &Path) -> Result<(T, String)> {
    let len = std::fs::metadata(path).map_err(|source| io("stat", path, source))?.len();
    if len > T::MAX_LEN {
        return Err(malformed::<T>(path, Malformation::TooLong { len, allowed: T::MAX_LEN }));
    }
    let bytes = std::fs::read(path).map_err(|source| io("read", path, source))?;
    let text = String::from_utf8(bytes).map_err(|_| malformed::<T>(path, Malformation::NotCanonical))?;
    Ok((parse(&text, path)?, text))
}

/// `sha256:<hex>` of some bytes.
pub(crate) fn sha256(bytes: Vec<u8>) -> Result<String> {
    let digests = hash_source(&MemorySource::new(bytes), &[Algorithm::Sha256], &Silent)?;
    Ok(digests.first().map(ToString::to_string).unwrap_or_default())
}

fn seal<T: Document>(document: &T, path: &Path) -> Result<String> {
    sha256(serde_json::to_vec(document).map_err(|error| json::<T>(path, error))?)
}

fn json<T: Document>(path: &Path, error: serde_json::Error) -> Error {
    malformed::<T>(path, Malformation::Json(error))
}

pub(crate) fn malformed<T: Document>(path: &Path, problem: Malformation) -> Error {
    Error::Malformed { structure: T::STRUCTURE, path: path.to_owned(), problem }
}
