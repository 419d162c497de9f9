//! What a container says about itself, in one shape for all formats.

use serde::Serialize;

use crate::resolver::ExternalRef;

/// Facts read from a container's headers. Sizes are bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Facts {
    /// Id of the format's row in the table.
    pub format: &'static str,
    /// The kind within the format: "v3", "dynamic".
    pub variant: String,
    /// Length of the virtual disk.
    pub disk_bytes: u64,
    /// Length of the container file.
    pub file_bytes: u64,
    /// Unit of allocation (cluster, block), where there is one.
    pub unit_bytes: Option<u64>,
    /// Compression that data may be in: "zlib", "zstd".
    pub compression: Option<&'static str>,
    /// Other files that the container names. None is opened for this listing.
    pub references: Vec<ExternalRef>,
    /// Internal snapshots, oldest first as stored.
    pub snapshots: Vec<SnapshotFacts>,
    /// What else the headers say, in the order of the specification, under its field names.
    pub details: Vec<Detail>,
}

impl Facts {
    /// Of a raw disk of `disk_bytes`, which has no headers to say more.
    #[must_use]
    pub fn raw(disk_bytes: u64) -> Self {
        Self {
            format: crate::raw::FORMAT.id,
            variant: "flat".to_owned(),
            disk_bytes,
            file_bytes: disk_bytes,
            unit_bytes: None,
            compression: None,
            references: Vec::new(),
            snapshots: Vec::new(),
            details: Vec::new(),
        }
    }
}

/// One internal snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SnapshotFacts {
    /// The id string.
    pub id: String,
    /// The name.
    pub name: String,
    /// Length of the disk at that time.
    pub disk_bytes: u64,
    /// Seconds since 1970 at which it was taken.
    pub taken_at: u64,
    /// Bytes of saved machine state.
    pub vm_state_bytes: u64,
}

/// A named fact.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Detail {
    /// snake_case field name of the specification.
    pub name: &'static str,
    /// Its value.
    pub value: DetailValue,
}

/// The value of a [`Detail`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum DetailValue {
    /// A flag.
    Flag(bool),
    /// A number; bytes when it is a size.
    Number(u64),
    /// Words; control characters are still in it, whoever prints escapes them.
    Text(String),
    /// Several words.
    List(Vec<String>),
}

impl Detail {
    /// A fact made of words.
    pub fn text(name: &'static str, value: impl Into<String>) -> Self {
        Self { name, value: DetailValue::Text(value.into()) }
    }

    /// A number.
    #[must_use]
    pub fn number(name: &'static str, value: u64) -> Self {
        Self { name, value: DetailValue::Number(value) }
    }

    /// A flag.
    #[must_use]
    pub fn flag(name: &'static str, value: bool) -> Self {
        Self { name, value: DetailValue::Flag(value) }
    }

    /// A list of words.
    #[must_use]
    pub fn list(name: &'static str, value: Vec<String>) -> Self {
        Self { name, value: DetailValue::List(value) }
    }
}
