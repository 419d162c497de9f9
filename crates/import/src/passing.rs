//! A disk that is stored as it comes by, whatever it comes in.

use std::path::Path;
use std::sync::Arc;

use kiln_disk::{Budget, Disk, FileOffset, Findings, Observer, Result};
use kiln_format::wrap::{Ending, Passing, StreamDisk, Wrapped};
use kiln_format::{Identity, Image, padding};

use crate::run::not_raw;

/// The disk on its way.
pub(crate) struct OnItsWay {
    /// What it looked like at its beginning: the file's first bytes, and what they are.
    head: Vec<u8>,
    kind: Kind,
    disk: Form,
}

/// How a content is known again at its end.
#[derive(PartialEq, Eq)]
enum Kind {
    Raw,
    Container(&'static str),
    Other,
}

enum Form {
    /// Read front to back.
    Bytes(StreamDisk),
    /// Read by its tables as they come.
    Tables(Box<dyn Passing>),
}

impl Kind {
    fn of(identity: &Identity) -> Self {
        match identity {
            Identity::Raw { .. } => Self::Raw,
            Identity::Container { format, .. } => Self::Container(format.id),
            _ => Self::Other,
        }
    }
}

impl OnItsWay {
    /// Opens it: a content of `content_len` bytes, or a container. What has to be kept meanwhile goes into `dir`.
    pub(crate) fn open(wrapped: Wrapped, content_len: u64, dir: &Path, budget: &Arc<Budget>) -> Result<Self> {
        let head = wrapped.head().to_owned();
        let kind = Kind::of(&wrapped.identity());
        let disk = match wrapped.passing() {
            Ok(_) => Form::Tables(wrapped.into_passing(dir, budget)?),
            Err(_) => Form::Bytes(wrapped.into_disk(content_len)?),
        };
        Ok(Self { head, kind, disk })
    }

    pub(crate) fn disk(&self) -> &dyn Disk {
        match &self.disk {
            Form::Bytes(disk) => disk,
            Form::Tables(disk) => disk.as_ref(),
        }
    }

    /// Waits for the end, where all checksums are compared, and says what was found. It must still be what its
    /// beginning looked like.
    pub(crate) fn finish(&self, observer: &dyn Observer) -> Result<Findings> {
        match &self.disk {
            Form::Tables(disk) => {
                let (ending, findings) = disk.finish(observer)?;
                self.confirm_kind(&ending)?;
                Ok(findings)
            }
            Form::Bytes(disk) => {
                let ending = disk.finish()?;
                let mut findings = Findings::default();
                if self.kind == Kind::Raw {
                    self.confirm_kind(&ending)?;
                    let end = Some(FileOffset::new(ending.len));
                    padding(ending.len, end).into_iter().for_each(|finding| findings.push(finding));
                }
                Ok(findings)
            }
        }
    }

    /// Another format may have its mark at the end.
    fn confirm_kind(&self, ending: &Ending) -> Result<()> {
        if Kind::of(&ending.identity(&self.head)) == self.kind { Ok(()) } else { Err(not_raw()) }
    }

    /// The container, now that all of the file is known, to be asked about itself.
    pub(crate) fn image(&self) -> Option<&dyn Image> {
        match &self.disk {
            Form::Bytes(_) => None,
            Form::Tables(disk) => disk.image(),
        }
    }

    /// Bytes of a temporary file.
    pub(crate) fn spilled_bytes(&self) -> u64 {
        match &self.disk {
            Form::Bytes(_) => 0,
            Form::Tables(disk) => disk.spilled_bytes(),
        }
    }
}
