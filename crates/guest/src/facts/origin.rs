//! Where a system was made, as far as it says: the clouds that rent a system with its licence leave their marks.

use kiln_disk::interned::Word;
use serde::{Deserialize, Serialize};

use super::Seen;
use crate::tree::Tree;

/// A mark of a place that rented the system with its licence.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// The place: "aws", "azure", ...
    #[serde(deserialize_with = "kiln_disk::interned::one")]
    pub place: Word,
    /// What it is, in words.
    #[serde(deserialize_with = "kiln_disk::interned::one")]
    pub what: Word,
    /// Where it lies.
    pub seen: Seen,
}

/// What it is in words, a directory, the beginning and the end of a file's name.
type Mark = (&'static str, &'static str, &'static str, &'static str, &'static str);

const RHUI: &str = "the update service of Red Hat that belongs to a rented system";
const SUSE: &str = "the update service of SUSE that belongs to a rented system";
const MARKS: [Mark; 7] = [
    ("aws", RHUI, "/etc/yum.repos.d", "redhat-rhui", ".repo"),
    ("azure", RHUI, "/etc/yum.repos.d", "rh-cloud", ".repo"),
    ("gcp", RHUI, "/etc/yum.repos.d", "rh-cloud-gcp", ".repo"),
    ("alibaba", RHUI, "/etc/yum.repos.d", "rhui-alibaba", ".repo"),
    ("any", RHUI, "/etc/pki/rhui", "", ".crt"),
    ("any", RHUI, "/etc/pki/rhui/product", "", ".crt"),
    ("any", SUSE, "/etc", "regionserverclnt", ".cfg"),
];

/// Looks for such marks.
pub(super) fn read(tree: &Tree) -> Option<Origin> {
    MARKS.iter().find_map(|(place, what, dir, begin, end)| {
        let names = tree.names(dir);
        let name = names.iter().find(|name| name.starts_with(begin) && name.ends_with(end))?;
        Some(Origin { place, what, seen: Seen::file(format!("{dir}/{name}")) })
    })
}
