//! The steps of a publication and a removal, by name: where tests let them fail or die.

use crate::error::Result;

/// A step that is about to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// Bring a staged layer to the device.
    SyncLayer,
    /// Read a staged layer back.
    ReadBack,
    /// Write down what is about to be published or removed.
    Intent,
    /// Give a layer its name.
    LinkLayer,
    /// Give a leaf list its name.
    LinkLeaves,
    /// Give the manifest its place.
    Manifest,
    /// Write a record: of the image that loses its tag, of one that changes, of an instance.
    Record,
    /// Change the index.
    Commit,
    /// Everything is done, the staging directory is still there.
    Acknowledge,
    /// Remove a manifest.
    RemoveManifest,
    /// Remove a layer that nobody needs.
    RemoveLayer,
}

#[cfg(test)]
pub(crate) type Hook = std::sync::Arc<dyn Fn(Step) -> Result<()> + Send + Sync>;

/// Passes every step in a build for users; in tests, asks the hook.
#[derive(Clone, Default)]
pub(crate) struct Steps {
    #[cfg(test)]
    pub(crate) hook: Option<Hook>,
}

impl Steps {
    #[cfg_attr(
        not(test),
        allow(clippy::unused_self, clippy::unnecessary_wraps, reason = "the seam is for tests")
    )]
    pub(crate) fn before(&self, step: Step) -> Result<()> {
        #[cfg(test)]
        if let Some(hook) = &self.hook {
            return hook(step);
        }
        let _ = step;
        Ok(())
    }
}

impl std::fmt::Debug for Steps {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Steps")
    }
}
