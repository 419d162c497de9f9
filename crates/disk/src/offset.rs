//! Positions: a byte on the virtual disk and a byte in a container file are different types.

use std::fmt;

use serde::{Deserialize, Serialize};

macro_rules! offset {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(u64);

        impl $name {
            /// Byte 0.
            pub const ZERO: Self = Self(0);

            /// Wraps a byte position.
            #[must_use]
            pub const fn new(bytes: u64) -> Self {
                Self(bytes)
            }

            /// The byte position.
            #[must_use]
            pub const fn get(self) -> u64 {
                self.0
            }

            /// The position `bytes` further on, or `None` past 2^64 - 1.
            #[must_use]
            pub const fn checked_add(self, bytes: u64) -> Option<Self> {
                match self.0.checked_add(bytes) {
                    Some(sum) => Some(Self(sum)),
                    None => None,
                }
            }

            /// The position `bytes` further on, held at 2^64 - 1.
            #[must_use]
            pub const fn saturating_add(self, bytes: u64) -> Self {
                Self(self.0.saturating_add(bytes))
            }

            /// Bytes from `earlier` to here, or `None` when `earlier` is later.
            #[must_use]
            pub const fn bytes_since(self, earlier: Self) -> Option<u64> {
                self.0.checked_sub(earlier.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:#x}", self.0)
            }
        }
    };
}

offset! {
    /// A byte on the virtual disk, as the guest counts.
    GuestOffset
}
offset! {
    /// A byte in a container file.
    FileOffset
}
