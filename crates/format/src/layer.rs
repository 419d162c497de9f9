//! How layers are stored: the one format, its styles, and its reader for whoever has layers as files.

use std::fmt;
use std::str::FromStr;

use std::sync::Arc;

use kiln_disk::{ByteSource, Result};
use serde::Serialize;

use crate::image::{Image, OpenContext};
use crate::options::Options;
use crate::table::{Create, Format, by_name};

/// Whether the data of a layer is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LayerStyle {
    /// As it is: fastest to write and to export.
    Plain,
    /// Each 64 KiB cluster by zstd: about a third of the space.
    Zstd,
}

/// What an import does when nobody says otherwise. Decided by measurement: see the README.
pub const DEFAULT_STYLE: LayerStyle = LayerStyle::Plain;

impl Default for LayerStyle {
    fn default() -> Self {
        DEFAULT_STYLE
    }
}

impl LayerStyle {
    /// The word in manifests and on the command line.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Zstd => "zstd",
        }
    }

    /// The writer's options that give this style.
    #[must_use]
    pub fn option_pairs(self) -> Vec<(String, String)> {
        match self {
            Self::Plain => Vec::new(),
            Self::Zstd => [("compress", "on"), ("compression_type", "zstd")]
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .to_vec(),
        }
    }
}

impl fmt::Display for LayerStyle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// A word that is no style.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is neither plain nor zstd")]
pub struct BadStyle(String);

impl FromStr for LayerStyle {
    type Err = BadStyle;

    fn from_str(text: &str) -> Result<Self, BadStyle> {
        match text {
            "plain" => Ok(Self::Plain),
            "zstd" => Ok(Self::Zstd),
            other => Err(BadStyle(other.chars().take(80).collect())),
        }
    }
}

/// The format of layers.
pub const LAYER_FORMAT: &str = "qcow2";

/// The row of the layer format, with its writer.
///
/// # Errors
/// `format.read-only` in a build without it.
pub fn layer_format() -> Result<(&'static Format, Create)> {
    by_name(LAYER_FORMAT).and_then(|format| Some((format, format.create?))).ok_or_else(|| {
        kiln_disk::Error::Unsupported {
            code: "format.read-only",
            feature: format!("writing {LAYER_FORMAT}"),
            hint: "use a build of kiln with that format",
        }
    })
}

/// The options of a writer from pairs.
///
/// # Errors
/// `option.unknown`, `option.value`.
pub fn options_of(create: &Create, pairs: Vec<(String, String)>) -> Result<Options> {
    Options::new(create.options, pairs)
}

/// Opens a layer. The recorded format is used, never a guess, and no layer leads to another file.
///
/// # Errors
/// `store.layer.format` for a format that this version does not know; whatever the format says.
pub fn open_layer(format: &str, source: Arc<dyn ByteSource>) -> Result<Box<dyn Image>> {
    let format = by_name(format).ok_or_else(|| kiln_disk::Error::Unsupported {
        code: "store.layer.format",
        feature: format!("the layer format {format:?}"),
        hint: "use a newer kiln",
    })?;
    (format.open)(source, &OpenContext::new())
}
