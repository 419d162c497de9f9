//! What a disk is: offsets, sources, extents, writers, digests, durable files.
