//! Memory that a structure holds, charged to the budget and given back with it.

use std::sync::Arc;

use kiln_disk::{Budget, Cost, Result};

/// An amount of [`Cost::Memory`]; dropping it releases it.
pub(super) struct Charged {
    budget: Arc<Budget>,
    bytes: u64,
}

impl Charged {
    pub(super) fn new(budget: &Arc<Budget>) -> Self {
        Self { budget: Arc::clone(budget), bytes: 0 }
    }

    /// # Errors
    /// [`kiln_disk::Error::Refused`] (`budget.memory`); nothing more is held then.
    pub(super) fn add(&mut self, bytes: u64) -> Result<()> {
        self.budget.charge(Cost::Memory, bytes)?;
        self.bytes = self.bytes.saturating_add(bytes);
        Ok(())
    }

    /// Holds `bytes` in all, if it does not hold more already.
    ///
    /// # Errors
    /// As [`Charged::add`].
    pub(super) fn grow_to(&mut self, bytes: u64) -> Result<()> {
        self.add(bytes.saturating_sub(self.bytes))
    }
}

impl Drop for Charged {
    fn drop(&mut self) {
        self.budget.release(self.bytes);
    }
}
