//! Builders of good and hostile images, faulty disks and models: for tests only, never linked into `kiln`.

pub mod boot;
pub mod fixtures;
mod model;

pub use model::ModelDisk;
