//! External disk image to catalog image: identify, verify, screen, store.
