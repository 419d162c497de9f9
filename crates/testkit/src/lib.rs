//! Builders of good and hostile images, faulty disks: for tests only.
