//! Disk image containers: probe, open, map, check, write, convert.
