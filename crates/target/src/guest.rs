//! What is said of a guest at a place: how bad a finding is there, and whether the guest comes up.
//!
//! Words only. The rows of this crate use them, the rules about guests answer with them, images keep the answers.

use serde::{Deserialize, Serialize};

/// What a finding does to the guest's owner. The user's own file may write the words with `-` as well.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Impact {
    /// Nothing: the rule is not asked.
    Off,
    /// Worth knowing.
    Advice,
    /// Not fit to be given to others.
    Hygiene,
    /// It starts, and its owner cannot log in.
    #[serde(alias = "no-login")]
    NoLogin,
    /// It starts without a network.
    #[serde(alias = "no-network")]
    NoNetwork,
    /// It does not start.
    #[serde(alias = "will-not-boot")]
    WillNotBoot,
    /// The place refuses it.
    #[serde(alias = "rejected-at-import")]
    RejectedAtImport,
}

impl Impact {
    /// In words.
    #[must_use]
    pub const fn words(self) -> &'static str {
        match self {
            Self::Off => "not asked",
            Self::Advice => "advice",
            Self::Hygiene => "hygiene",
            Self::NoLogin => "no login",
            Self::NoNetwork => "no network",
            Self::WillNotBoot => "will not boot",
            Self::RejectedAtImport => "rejected at import",
        }
    }

    /// Whether the machine does not come up.
    #[must_use]
    pub const fn stops(self) -> bool {
        matches!(self, Self::WillNotBoot | Self::RejectedAtImport)
    }
}

/// Whether the guest comes up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// It comes up, gets an address, lets its owner in.
    Boots,
    /// It comes up, and something is left to be desired.
    BootsWithWarnings,
    /// It does not come up, or is not even taken.
    WillNotBoot,
    /// A rule that decides could not be answered.
    Unknown,
}

impl Verdict {
    /// In words.
    #[must_use]
    pub const fn words(self) -> &'static str {
        match self {
            Self::Boots => "boots",
            Self::BootsWithWarnings => "boots with warnings",
            Self::WillNotBoot => "will not boot",
            Self::Unknown => "unknown",
        }
    }
}
