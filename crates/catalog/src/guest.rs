//! What the rules about guests said of an image's disk, place by place.
//!
//! The manifest keeps what was said at the import, the record what later rules say. The words are those of the rules;
//! nothing here judges a guest.

use kiln_target::Verdict;
use serde::{Deserialize, Serialize};

use crate::query::Image;

/// The place that this host is: machines are launched here.
pub const HERE: &str = "kvm";

/// What was said of a guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GuestRecord {
    /// Version of the rules.
    pub rule_set: String,
    /// The system that was found; none on a disk without one.
    pub system: Option<String>,
    /// The answers, by place.
    pub verdicts: Vec<GuestVerdict>,
}

/// The answer for one place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GuestVerdict {
    /// The place.
    pub target: String,
    /// The answer.
    pub verdict: Verdict,
    /// Why, in one line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub because: Option<String>,
    /// Ids of the rules that found more than advice, with how bad it is there.
    pub findings: Vec<GuestNote>,
}

/// Something that was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GuestNote {
    /// The rule.
    pub id: String,
    /// How bad it is there, in the rules' words.
    pub severity: String,
}

impl GuestRecord {
    /// The answer for a place.
    #[must_use]
    pub fn verdict(&self, target: &str) -> Option<&GuestVerdict> {
        self.verdicts.iter().find(|verdict| verdict.target == target)
    }

    /// Why the guest is known not to start on this host; none when it does, when that cannot be told, and for a disk
    /// on which no system was found, which may hold something that the rules do not know.
    #[must_use]
    pub fn stops_here(&self) -> Option<&GuestVerdict> {
        self.system.as_ref()?;
        self.verdict(HERE).filter(|verdict| verdict.verdict == Verdict::WillNotBoot)
    }

    /// Whether there is a place at which the system that was found is known not to start.
    #[must_use]
    pub fn fails_somewhere(&self) -> bool {
        self.system.is_some() && self.verdicts.iter().any(|verdict| verdict.verdict == Verdict::WillNotBoot)
    }
}

impl Image {
    /// What was said last of its guest.
    #[must_use]
    pub fn guest(&self) -> Option<&GuestRecord> {
        self.record.guest.as_ref().or(self.manifest.guest.as_ref())
    }
}
