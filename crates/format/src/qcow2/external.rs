//! The two other files that a qcow2 image can name: a backing file and an external data file.

use std::sync::Arc;

use kiln_disk::{ByteSource, Error, FileOffset, Result};

use crate::image::{Image, OpenContext, Tolerance};
use crate::resolver::{DenyAll, ExternalRef, ExternalRole, Resolver};
use crate::table::by_name;

/// Another file of the image.
pub(super) enum External<T> {
    /// None is named.
    None,
    /// The resolver gave it.
    Open(T),
    /// The resolver did not give it; whatever needs it is refused.
    Denied { reference: ExternalRef, resolver: Arc<dyn Resolver> },
}

impl<T> External<T> {
    /// The file, or `None` where none is named.
    ///
    /// # Errors
    /// What the resolver says, `reference.denied` by default.
    pub(super) fn get(&self) -> Result<Option<&T>> {
        match self {
            Self::None => Ok(None),
            Self::Open(file) => Ok(Some(file)),
            Self::Denied { reference, resolver } => {
                resolver.resolve(reference)?;
                // It was denied once; a change of mind comes too late for this image.
                DenyAll.resolve(reference)?;
                Ok(None)
            }
        }
    }

    fn denied(reference: ExternalRef, context: &OpenContext, error: Error) -> Result<Self> {
        match context.tolerance {
            Tolerance::Strict => Err(error),
            Tolerance::Damaged => Ok(Self::Denied { reference, resolver: Arc::clone(&context.resolver) }),
        }
    }
}

/// Opens the backing file.
///
/// # Errors
/// Under [`Tolerance::Strict`] what the resolver says; always [`Error::Refused`] (`budget.depth`,
/// `reference.format-missing`), [`Error::Unsupported`] (`reference.format-unknown`) and what its format says.
pub(super) fn open_backing(
    reference: Option<ExternalRef>,
    context: &OpenContext,
) -> Result<External<Box<dyn Image>>> {
    let Some(reference) = reference else { return Ok(External::None) };
    let deeper = context.deeper()?;
    let resolved = match context.resolver.resolve(&reference) {
        Ok(resolved) => resolved,
        Err(error) => return External::denied(reference, context, error),
    };
    let format = match (resolved.format, &reference.format) {
        (Some(format), _) => format,
        (None, Some(name)) => by_name(name).ok_or_else(|| Error::Unsupported {
            code: "reference.format-unknown",
            feature: format!("{} of format {name:?}", reference.role.words()),
            hint: "say the format of the file together with its place",
        })?,
        (None, None) => {
            return Err(Error::Refused {
                code: "reference.format-missing",
                what: format!("the image does not say which format its {} has", reference.role.words()),
                asked: 0,
                allowed: 0,
                hint: "say the format of the file together with its place: guessing it is how host files leak",
            });
        }
    };
    (format.open)(resolved.source, &deeper).map(External::Open)
}

/// Finds the external data file. Its format is raw by definition.
///
/// # Errors
/// Under [`Tolerance::Strict`] what the resolver says; always [`Error::Refused`] (`budget.depth`,
/// `reference.format-missing` for another format than raw).
pub(super) fn open_data_file(
    reference: Option<ExternalRef>,
    context: &OpenContext,
) -> Result<External<Arc<dyn ByteSource>>> {
    let Some(reference) = reference else { return Ok(External::None) };
    context.deeper()?;
    let resolved = match context.resolver.resolve(&reference) {
        Ok(resolved) => resolved,
        Err(error) => return External::denied(reference, context, error),
    };
    match resolved.format {
        Some(format) if format.id != "raw" => Err(Error::Unsupported {
            code: "reference.format-unknown",
            feature: format!("external data file of format {}", format.id),
            hint: "the data file of a qcow2 image is raw",
        }),
        _ => Ok(External::Open(resolved.source)),
    }
}

/// The reference to the data file. An image may leave its name out; the resolver then decides on the empty name.
pub(super) fn data_file_reference(name: Option<&str>) -> ExternalRef {
    ExternalRef {
        role: ExternalRole::DataFile,
        name: name.unwrap_or("").to_owned(),
        format: Some("raw".to_owned()),
        at: FileOffset::new(INCOMPATIBLE_FEATURES_AT),
    }
}

/// Byte of the header that says, by its bit 2, that there is a data file.
const INCOMPATIBLE_FEATURES_AT: u64 = 72;
