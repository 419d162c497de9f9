//! Ordered parallel work.
