//! Errors of the command line, and the one place that maps every error to an exit code.
//!
//! | exit | meaning |
//! |---|---|
//! | 0 | done, or the answer is yes |
//! | 1 | judged, and the answer is no: damaged, differs, refused by a rule |
//! | 2 | the command line itself is wrong |
//! | 3 | could not be done: I/O, environment, unsupported |
//! | 130 | interrupted |
//!
//! Errors go to stderr: as text, or with `--json` as one object on one line, because stdout may be carrying an
//! image (`kiln convert disk.qcow2 -`) and a script that reads stdout then sees an answer or nothing.

use std::error::Error as StdError;
use std::io;

use kiln_catalog::Family;
use kiln_disk::Error as DiskError;
use kiln_import::Refusal;
use serde::Serialize;

use crate::output::visible;

/// Shorthand for results of commands.
pub(crate) type Result<T, E = CliError> = std::result::Result<T, E>;

/// The answer of a command that ran to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    /// Done, or yes.
    Yes,
    /// Judged: no.
    No,
}

/// Why a command did not run to its end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CliError {
    /// From the disk and container libraries.
    #[error("{error}")]
    Disk {
        /// What happened.
        error: DiskError,
        /// The file or image it happened to, where the error does not say.
        about: Option<String>,
    },
    /// From the store.
    #[error("{0}")]
    Catalog(kiln_catalog::Error),
    /// From import and export.
    #[error("refused: {0}")]
    Import(Refusal),
    /// From instances.
    #[error("{0}")]
    Instance(kiln_instance::Error),
    /// From the table of targets.
    #[error("{0}")]
    Targets(kiln_target::Error),
    /// From a server, or about a signature.
    #[error("{0}")]
    Source(kiln_import::Error),
    /// The answer could not be written.
    #[error("cannot write to standard output")]
    Output {
        /// The system's answer.
        source: io::Error,
    },
    /// A capture, or the machine that is captured.
    #[error("{0}")]
    Capture(kiln_snapshot::Error),
    /// The words of the command line contradict each other or themselves.
    #[error("{what}")]
    Usage {
        /// Stable code.
        code: &'static str,
        /// What is wrong.
        what: String,
        /// What to type.
        hint: String,
    },
    /// A command cannot do what was asked in this place.
    #[error("{what}")]
    CannotDo {
        /// Stable code.
        code: &'static str,
        /// The file it is about, where it is about one.
        path: Option<String>,
        /// What is wrong.
        what: String,
        /// What to do.
        hint: String,
    },
}

/// Exit codes.
pub(crate) mod exit {
    pub(crate) const YES: u8 = 0;
    pub(crate) const NO: u8 = 1;
    pub(crate) const USAGE: u8 = 2;
    pub(crate) const CANNOT: u8 = 3;
    pub(crate) const INTERRUPTED: u8 = 130;
}

/// An error as `--json` prints it.
#[derive(Debug, Serialize)]
pub(crate) struct ErrorRecord {
    schema: &'static str,
    code: String,
    message: String,
    causes: Vec<String>,
    hint: Option<String>,
    offset_bytes: Option<u64>,
    path: Option<String>,
    exit: u8,
}

impl From<DiskError> for CliError {
    fn from(error: DiskError) -> Self {
        Self::Disk { error, about: None }
    }
}

impl From<kiln_catalog::Error> for CliError {
    fn from(error: kiln_catalog::Error) -> Self {
        match error {
            kiln_catalog::Error::Disk(error) => error.into(),
            error => Self::Catalog(error),
        }
    }
}

impl From<kiln_snapshot::Error> for CliError {
    fn from(error: kiln_snapshot::Error) -> Self {
        match error {
            kiln_snapshot::Error::Disk(error) => error.into(),
            kiln_snapshot::Error::Catalog(error) => error.into(),
            other => Self::Capture(other),
        }
    }
}

impl From<kiln_import::Error> for CliError {
    fn from(error: kiln_import::Error) -> Self {
        match error {
            kiln_import::Error::Disk(error) => error.into(),
            kiln_import::Error::Catalog(error) => error.into(),
            kiln_import::Error::Refused(refusal) => Self::Import(refusal),
            error @ (kiln_import::Error::Fetch(_) | kiln_import::Error::Signature(_)) => Self::Source(error),
            other => Self::CannotDo {
                code: other.code(),
                path: None,
                what: other.to_string(),
                hint: other.hint().unwrap_or_default(),
            },
        }
    }
}

impl From<kiln_instance::Error> for CliError {
    fn from(error: kiln_instance::Error) -> Self {
        match error {
            kiln_instance::Error::Disk(error) => error.into(),
            kiln_instance::Error::Catalog(error) => error.into(),
            error => Self::Instance(error),
        }
    }
}

/// Says which of several files an error is about.
pub(crate) trait About<T> {
    /// Adds the name unless there is one already.
    fn about(self, name: &str) -> Result<T>;
}

impl<T, E: Into<CliError>> About<T> for std::result::Result<T, E> {
    fn about(self, name: &str) -> Result<T> {
        self.map_err(|error| match error.into() {
            CliError::Disk { error, about: None } => CliError::Disk { error, about: Some(name.to_owned()) },
            other => other,
        })
    }
}

impl CliError {
    pub(crate) fn usage(code: &'static str, what: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::Usage { code, what: what.into(), hint: hint.into() }
    }

    pub(crate) fn cannot(code: &'static str, what: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::CannotDo { code, path: None, what: what.into(), hint: hint.into() }
    }

    /// The stable code.
    pub(crate) fn code(&self) -> &str {
        match self {
            Self::Disk { error, .. } => error.code(),
            Self::Catalog(error) => error.code(),
            Self::Import(refusal) => refusal.code(),
            Self::Instance(error) => error.code(),
            Self::Targets(error) => error.code(),
            Self::Source(error) => error.code(),
            Self::Capture(error) => error.code(),
            Self::Output { source } if source.kind() == io::ErrorKind::BrokenPipe => "output.closed",
            Self::Output { .. } => "output.failed",
            Self::Usage { code, .. } | Self::CannotDo { code, .. } => code,
        }
    }

    /// The exit code: the only place that decides it.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Disk { error, .. } => exit_of_disk(error),
            Self::Catalog(error) => exit_of_catalog(error),
            Self::Import(refusal) => exit_of_import(refusal),
            Self::Instance(error) => exit_of_instance(error),
            Self::Targets(_) => exit::USAGE,
            Self::Source(error) => exit_of_source(error),
            Self::Capture(error) => exit_of_capture(error),
            Self::Usage { .. } => exit::USAGE,
            Self::Output { .. } | Self::CannotDo { .. } => exit::CANNOT,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Disk { error, .. } => error.hint().map(str::to_owned),
            Self::Catalog(error) => error.hint(),
            Self::Import(refusal) => kiln_import::Error::from(refusal.clone()).hint(),
            Self::Instance(error) => error.hint(),
            Self::Targets(error) => Some(error.hint()),
            Self::Source(error) => error.hint(),
            Self::Capture(error) => error.hint(),
            Self::Output { .. } => None,
            Self::Usage { hint, .. } | Self::CannotDo { hint, .. } => Some(hint.clone()),
        }
        .filter(|hint| !hint.is_empty())
    }

    /// The library error below, where there is one.
    fn disk(&self) -> Option<&DiskError> {
        match self {
            Self::Disk { error, .. } => Some(error),
            _ => None,
        }
    }

    /// Whether the reader of our output is gone, so that there is nobody to tell.
    pub(crate) fn reader_is_gone(&self) -> bool {
        matches!(self, Self::Output { source } if source.kind() == io::ErrorKind::BrokenPipe)
    }

    fn causes(&self) -> Vec<String> {
        let mut causes = Vec::new();
        let mut next = match self {
            Self::Disk { error, .. } => error.source(),
            Self::Catalog(error) => error.source(),
            Self::Instance(error) => error.source(),
            Self::Targets(error) => error.source(),
            // The message has it all.
            Self::Source(_) => None,
            Self::Capture(kiln_snapshot::Error::Qemu(error)) => error.source(),
            other => other.source(),
        };
        while let Some(cause) = next {
            causes.push(cause.to_string());
            next = cause.source();
        }
        causes
    }

    /// The file it is about.
    fn path(&self) -> Option<&str> {
        match self {
            Self::Disk { error: DiskError::Io { target, .. }, .. } => Some(target),
            Self::Disk { about: path, .. } | Self::CannotDo { path, .. } => path.as_deref(),
            _ => None,
        }
    }

    /// For JSON.
    pub(crate) fn record(&self) -> ErrorRecord {
        ErrorRecord {
            schema: "kiln.error.v1",
            code: self.code().to_owned(),
            message: self.to_string(),
            causes: self.causes(),
            hint: self.hint(),
            offset_bytes: self.disk().and_then(DiskError::offset).map(kiln_disk::FileOffset::get),
            path: self.path().map(str::to_owned),
            exit: self.exit_code(),
        }
    }

    /// For people: what, where, why, what to type next. Every line is safe for a terminal.
    pub(crate) fn text(&self) -> String {
        let place = match self {
            Self::Disk { error: DiskError::Io { .. } | DiskError::Cancelled, .. } => String::new(),
            Self::Disk { about: Some(about), error } if !error.to_string().contains(about.as_str()) => {
                format!("{}: ", visible(about))
            }
            _ => String::new(),
        };
        let mut text = format!("error: {place}{}\n", visible(&self.to_string()));
        for cause in self.causes() {
            text += &format!("  caused by: {}\n", visible(&cause));
        }
        if let Some(hint) = self.hint() {
            text += &format!("  hint: {}\n", visible(&hint));
        }
        text
    }
}

/// The four families of library errors, and the codes among them that are about something else than the image.
fn exit_of_disk(error: &DiskError) -> u8 {
    match error {
        DiskError::Cancelled => exit::INTERRUPTED,
        // Our own output read back wrong: the machine is at fault, no image was judged.
        DiskError::Malformed { .. } if error.code().starts_with("output.") => exit::CANNOT,
        DiskError::Malformed { .. } => exit::NO,
        DiskError::Refused { code, .. } => match *code {
            "option.unknown" | "option.value" => exit::USAGE,
            // About the file as an object of the system, not about what is in it.
            "source.kind" | "source.changed" | "disk.past-end" | "input.too-long" => exit::CANNOT,
            _ => exit::NO,
        },
        _ => exit::CANNOT,
    }
}

/// What import and export refuse: a file that was judged is a "no", a checksum file that does not serve is not.
fn exit_of_import(refusal: &Refusal) -> u8 {
    match refusal {
        Refusal::NoName { .. } => exit::USAGE,
        Refusal::Target(refusal) if refusal.is_usage() => exit::USAGE,
        Refusal::Target(refusal) if refusal.is_judgement() => exit::NO,
        Refusal::ChecksumDiffers { .. }
        | Refusal::Guest { .. }
        | Refusal::Findings { .. }
        | Refusal::TooLarge { .. }
        | Refusal::Empty { .. }
        | Refusal::Bundle { .. }
        | Refusal::ImageDamaged { .. } => exit::NO,
        _ => exit::CANNOT,
    }
}

/// What is known not to boot, and a wait that came to nothing, are judgements; a machine that does not start is not.
fn exit_of_instance(error: &kiln_instance::Error) -> u8 {
    use kiln_instance::{Error, Failure, Refusal};
    match error {
        Error::Refused(refusal) if refusal.is_usage() => exit::USAGE,
        Error::Refused(Refusal::Unsound { .. } | Refusal::Guest { .. } | Refusal::Architecture { .. })
        | Error::Failed(Failure::TimedOut { .. } | Failure::Ended { .. } | Failure::CloudInit { .. }) => {
            exit::NO
        }
        _ => exit::CANNOT,
    }
}

/// A server that sends us somewhere else or a signature that is not good is a "no"; words that are no URL are the
/// user's, and everything else is the network's.
fn exit_of_source(error: &kiln_import::Error) -> u8 {
    match error.code() {
        "fetch.url" | "fetch.unproved" | "fetch.plain" => exit::USAGE,
        _ if error.family() == Family::Refused => exit::NO,
        _ => exit::CANNOT,
    }
}

/// A disk that is in use or damaged, or a guest that cannot be quiesced, is a "no"; a disk that is not there is the
/// user's slip.
fn exit_of_capture(error: &kiln_snapshot::Error) -> u8 {
    match error.family() {
        Family::Cancelled => exit::INTERRUPTED,
        _ if error.code() == "capture.no-disk" => exit::USAGE,
        Family::Refused | Family::Malformed => exit::NO,
        Family::Io | Family::Unsupported => exit::CANNOT,
    }
}

/// The store's errors: a damaged file of the store is a "no"; a name or a place that does not serve is not.
fn exit_of_catalog(error: &kiln_catalog::Error) -> u8 {
    match error.family() {
        Family::Cancelled => exit::INTERRUPTED,
        Family::Malformed if error.code() == "config.syntax" => exit::USAGE,
        Family::Malformed => exit::NO,
        Family::Refused if error.code().starts_with("name.") => exit::USAGE,
        Family::Refused if matches!(error.code(), "key.name" | "key.text") => exit::USAGE,
        Family::Refused if error.code().starts_with("config.") => exit::USAGE,
        // Judged by a rule of the store, and the answer is no.
        Family::Refused if error.code().starts_with("rights.") || error.code() == "store.quota" => exit::NO,
        Family::Io | Family::Unsupported | Family::Refused => exit::CANNOT,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(code: &'static str) -> CliError {
        DiskError::Refused { code, what: "x".into(), asked: 0, allowed: 0, hint: "" }.into()
    }

    #[test]
    fn every_family_has_its_exit_code() {
        assert_eq!(refused("reference.denied").exit_code(), 1);
        assert_eq!(refused("format.mismatch").exit_code(), 1);
        assert_eq!(refused("budget.memory").exit_code(), 1);
        assert_eq!(refused("option.unknown").exit_code(), 2);
        assert_eq!(refused("source.kind").exit_code(), 3);
        assert_eq!(CliError::from(DiskError::Cancelled).exit_code(), 130);
        let io = DiskError::io("open", "x", io::ErrorKind::NotFound);
        assert_eq!(CliError::from(io).exit_code(), 3);
        let unsupported = DiskError::Unsupported { code: "qcow2.luks", feature: "LUKS".into(), hint: "" };
        assert_eq!(CliError::from(unsupported).exit_code(), 3);
        assert_eq!(CliError::usage("u", "x", "y").exit_code(), 2);
        assert_eq!(CliError::Output { source: io::ErrorKind::BrokenPipe.into() }.exit_code(), 3);
    }

    #[test]
    fn text_walks_the_chain_once_and_escapes_what_an_image_could_say() {
        let error = CliError::from(DiskError::io("open", "a\x1b[2Jb", io::Error::other("no\nway")));
        assert_eq!(error.text(), "error: cannot open a\\u{1b}[2Jb\n  caused by: no\\u{a}way\n");
        let error = CliError::usage("usage.x", "bad words", "type better words");
        assert_eq!(error.text(), "error: bad words\n  hint: type better words\n");
    }

    #[test]
    fn json_record_has_the_documented_keys_in_order() {
        let error = CliError::from(DiskError::io("open", "disk.raw", io::ErrorKind::NotFound));
        assert_eq!(
            serde_json::to_string(&error.record()).unwrap(),
            concat!(
                r#"{"schema":"kiln.error.v1","code":"io.not-found","message":"cannot open disk.raw","#,
                r#""causes":["entity not found"],"hint":null,"offset_bytes":null,"path":"disk.raw","exit":3}"#
            )
        );
    }
}
