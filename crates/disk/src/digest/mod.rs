//! The content digest of a disk.
