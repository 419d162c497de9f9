//! Making the index again from the manifests.

use std::path::PathBuf;

use jiff::Timestamp;

use crate::error::{Error, Result};
use crate::id::ImageId;
use crate::job::sweep_locked;
use crate::store::Store;

/// What a rebuild did.
#[derive(Debug)]
pub struct Rebuilt {
    /// Images that are in the new index.
    pub images: u64,
    /// Where the old index was put, when it was damaged or not ours.
    pub kept_aside: Option<PathBuf>,
    /// Images whose manifest cannot be read, with the reason. They are not in the index.
    pub left_out: Vec<(ImageId, Error)>,
}

impl Store {
    /// Makes the index again from the manifests. A damaged or foreign database is kept aside.
    ///
    /// # Errors
    /// I/O; [`crate::Refusal::Busy`].
    pub fn rebuild(&self) -> Result<Rebuilt> {
        let _lock = self.exclusive()?;
        let sound = match self.index() {
            Ok(index) if index.integrity().is_ok_and(|problems| problems.is_empty()) => {
                // What the dead meant to do is told by the old rows, so it is settled while they are there.
                sweep_locked(self, Some(index))?;
                true
            }
            Err(error @ Error::Index { .. } | error @ Error::Disk(_)) => return Err(error),
            _ => false,
        };
        let (entries, left_out) = self.entries()?;
        let (instances, _) = self.instance_files()?;
        let aside = (!sound && self.layout.index().exists()).then(|| {
            let stamp = Timestamp::now().strftime("%Y%m%dT%H%M%S%f");
            self.layout.root().join(format!("catalog.damaged-{stamp}.sqlite"))
        });
        self.replace_index(&entries, &instances, aside.as_deref())?;
        if !sound {
            sweep_locked(self, None)?;
        }
        Ok(Rebuilt { images: u64::try_from(entries.len()).unwrap_or(u64::MAX), kept_aside: aside, left_out })
    }
}
