//! What a target's rules refuse.

/// One way in which a target's rule says no. `rule` is where the rule is from.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TargetRefusal {
    /// The name of the file ends otherwise.
    #[error("{target} takes files whose names end with {}; {name:?} does not ({rule})", endings.join(", "))]
    Name {
        /// The target.
        target: String,
        /// The name given.
        name: String,
        /// What there is.
        endings: Vec<String>,
        /// Where the rule is from.
        rule: String,
    },
    /// The format is not accepted.
    #[error("{target} does not take {format}; it takes {} ({rule})", accepted.join(", "))]
    Format {
        /// The target.
        target: String,
        /// The format asked for.
        format: String,
        /// Formats accepted, the preferred one first.
        accepted: Vec<String>,
        /// Where the rule is from.
        rule: String,
    },
    /// An option contradicts the target.
    #[error("{target} needs {option}={needed}, not {option}={asked} ({rule})")]
    Option {
        /// The target.
        target: String,
        /// The option's name.
        option: String,
        /// As given.
        asked: String,
        /// As it must be.
        needed: String,
        /// Where the rule is from.
        rule: String,
    },
    /// The disk is too long.
    #[error("the disk would have {bytes} bytes, {target} takes at most {allowed} ({rule})")]
    DiskSize {
        /// The target.
        target: String,
        /// Its length, padding included.
        bytes: u64,
        /// The limit.
        allowed: u64,
        /// Where the rule is from.
        rule: String,
    },
    /// There is too much on the disk.
    #[error("the disk holds {bytes} bytes of data, {target} takes at most {allowed} ({rule})")]
    DataSize {
        /// The target.
        target: String,
        /// Bytes in blocks of 64 KiB that are not all zeros.
        bytes: u64,
        /// The limit.
        allowed: u64,
        /// Where the rule is from.
        rule: String,
    },
    /// The file became too long.
    #[error("the file has {bytes} bytes, {target} takes at most {allowed} ({rule})")]
    FileSize {
        /// The target.
        target: String,
        /// Its length.
        bytes: u64,
        /// The limit.
        allowed: u64,
        /// Where the rule is from.
        rule: String,
    },
    /// A check of the guest.
    #[error("{target} refuses this disk ({check}): {says}; {why} ({rule})")]
    Guest {
        /// The target.
        target: String,
        /// Id of the check.
        check: &'static str,
        /// The code.
        code: &'static str,
        /// What the check found.
        says: &'static str,
        /// What the target makes of it.
        why: String,
        /// Where the rule is from.
        rule: String,
    },
    /// The disk starts in a way that the target has not.
    #[error("the disk starts by {firmware} only, which {target} does not do from this format ({rule})")]
    Firmware {
        /// The target.
        target: String,
        /// How the disk starts.
        firmware: &'static str,
        /// Where the rule is from.
        rule: String,
    },
    /// The row asks for something that this version does not have.
    #[error("the row of {target} {what}")]
    Row {
        /// The target.
        target: String,
        /// What is wrong, as the end of a sentence.
        what: String,
    },
    /// A side file is there already.
    #[error("{path} is already there")]
    SideExists {
        /// It.
        path: String,
    },
}

impl TargetRefusal {
    /// The stable code.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Name { .. } => "target.name",
            Self::Format { .. } => "target.format",
            Self::Option { .. } => "target.option",
            Self::DiskSize { .. } => "target.disk-size",
            Self::DataSize { .. } => "target.data-size",
            Self::FileSize { .. } => "target.file-size",
            Self::Guest { code, .. } => code,
            Self::Firmware { .. } => "target.firmware",
            Self::Row { .. } => "target.row",
            Self::SideExists { .. } => "io.exists",
        }
    }

    /// Whether another command line would do.
    #[must_use]
    pub fn is_usage(&self) -> bool {
        matches!(self, Self::Name { .. } | Self::Format { .. } | Self::Option { .. })
    }

    /// Whether the disk was judged, and not the words or the place.
    #[must_use]
    pub fn is_judgement(&self) -> bool {
        !self.is_usage() && !matches!(self, Self::Row { .. } | Self::SideExists { .. })
    }

    pub(crate) fn hint(&self) -> &'static str {
        match self {
            Self::Name { .. } => "the ending chooses the format; name the file so",
            Self::Format { .. } => "leave -O out for the format that it likes best",
            Self::Option { .. } => "leave the option out",
            Self::DiskSize { .. } => {
                "make the disk smaller first; if the target takes more today, raise max_disk in a targets file"
            }
            Self::DataSize { .. } => {
                "remove what is not needed and discard free space (fstrim) in the guest, then try again"
            }
            Self::FileSize { .. } => "compress with -c, or make the disk smaller",
            Self::Guest { .. } => {
                "kiln targets show NAME tells the rule; a targets file may set its severity to warn or off"
            }
            Self::Firmware { .. } => {
                "choose another format of the target, or install a boot loader for its firmware in the guest"
            }
            Self::Row { .. } => "put the row right in the targets file",
            Self::SideExists { .. } => "choose another directory, or add --force to replace it",
        }
    }
}
