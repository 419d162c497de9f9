//! What can be wrong with a file of targets.

/// Shorthand for results of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a file of targets is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// It is no TOML.
    #[error("{file} is not TOML")]
    Syntax {
        /// The file.
        file: String,
        /// Where and why.
        source: toml::de::Error,
    },
    /// A row says what no row can say.
    #[error("{file}: the target {target:?} is wrong")]
    Row {
        /// The file.
        file: String,
        /// The row.
        target: String,
        /// Where and why.
        source: toml::de::Error,
    },
    /// A row is based on one that there is not.
    #[error("{file}: the target {target:?} is based on {base:?}, which is no target")]
    Base {
        /// The file.
        file: String,
        /// The row.
        target: String,
        /// What it names.
        base: String,
    },
    /// Two rows have one name.
    #[error("{file}: the targets {first:?} and {second:?} are both called {name:?}")]
    Name {
        /// The file.
        file: String,
        /// The name.
        name: String,
        /// A row.
        first: String,
        /// The other.
        second: String,
    },
    /// A row lacks something that it cannot do without.
    #[error("{file}: the target {target:?} {what}")]
    Incomplete {
        /// The file.
        file: String,
        /// The row.
        target: String,
        /// What is wrong, as the end of a sentence.
        what: String,
    },
    /// A file is too long to be one of targets.
    #[error("{file} has {len} bytes, at most {allowed} make sense")]
    TooLong {
        /// The file.
        file: String,
        /// Its length.
        len: u64,
        /// The limit.
        allowed: u64,
    },
    /// No target is called so.
    #[error("no target is called {name:?}")]
    Unknown {
        /// What was asked for.
        name: String,
        /// What there is.
        known: Vec<String>,
    },
}

impl Error {
    /// The stable code.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Syntax { .. } => "targets.syntax",
            Self::Row { .. } => "targets.row",
            Self::Base { .. } => "targets.base",
            Self::Name { .. } => "targets.name",
            Self::Incomplete { .. } => "targets.incomplete",
            Self::TooLong { .. } => "targets.too-long",
            Self::Unknown { .. } => "target.unknown",
        }
    }

    /// What to do next.
    #[must_use]
    pub fn hint(&self) -> String {
        match self {
            Self::Unknown { known, .. } => format!("there are: {}", known.join(", ")),
            Self::Base { .. } => "kiln targets lists the targets that a row may be based on".to_owned(),
            Self::TooLong { .. } => "name a file of targets".to_owned(),
            _ => "kiln targets show NAME --json prints a row with every word it may have".to_owned(),
        }
    }
}
