//! How much an account may have.

use crate::error::{Refusal, Result};
use crate::index::Index;
use crate::store::Store;

/// Limits of an account. A setting, never a constant of the code: clouds changed theirs more than once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quota {
    /// Images that it may own.
    pub images: u64,
    /// Accounts that one image may be shared with.
    pub shares: u64,
    /// Bytes that the layers of its images may take, each layer counted once.
    pub bytes: u64,
}

impl Default for Quota {
    fn default() -> Self {
        Self { images: 500, shares: 500, bytes: u64::MAX }
    }
}

impl Store {
    /// Whether the account may have one more image with `bytes` more of layers.
    pub(crate) fn check_quota(&self, index: &Index, bytes: u64) -> Result<()> {
        let (images, taken) = index.taken_by(self.account.as_str())?;
        if images >= self.quota.images {
            let allowed = self.quota.images;
            return Err(Refusal::Quota { what: "images", used: images, asked: 1, allowed }.into());
        }
        if taken.saturating_add(bytes) > self.quota.bytes {
            let allowed = self.quota.bytes;
            return Err(Refusal::Quota { what: "bytes", used: taken, asked: bytes, allowed }.into());
        }
        Ok(())
    }
}
