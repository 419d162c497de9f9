//! Every way in which a signature proves nothing.

use kiln_catalog::Family;

/// Why a signature was not accepted.
#[derive(Debug, thiserror::Error)]
#[error("{what}: {problem}")]
pub struct SignatureError {
    /// What should be signed.
    pub what: String,
    /// What is wrong.
    #[source]
    pub problem: SignatureProblem,
}

/// What is wrong with a signature.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SignatureProblem {
    /// The program that knows OpenPGP is not there.
    #[error("gpgv is not installed")]
    NoGpgv,
    /// gpgv did not do its work.
    #[error("gpgv failed: {0}")]
    Gpgv(String),
    /// No signature was given, and the file has none in it.
    #[error("there is no signature: the file is not clear-signed and none was named")]
    Missing,
    /// A file that is no signature.
    #[error("the signature cannot be read")]
    Unreadable,
    /// A file that holds no key.
    #[error("the key cannot be read")]
    Key,
    /// The signature is of something else.
    #[error("the signature does not fit: the file or the signature was changed")]
    Bad,
    /// The signature has an end, and it is over.
    #[error("the signature by {key} has expired")]
    Expired {
        /// The key.
        key: String,
    },
    /// The key has an end, and it is over.
    #[error("the key {key} has expired")]
    KeyExpired {
        /// The key.
        key: String,
    },
    /// The owner took the key back.
    #[error("the key {key} was revoked")]
    KeyRevoked {
        /// The key.
        key: String,
    },
    /// Made by a key that is not trusted.
    #[error("the signature is by {key}, which is not among the given keys")]
    UnknownKey {
        /// The key.
        key: String,
    },
    /// Made with an algorithm that others can forge.
    #[error("the signature by {key} rests on {algorithm}, which can be forged")]
    Weak {
        /// The key.
        key: String,
        /// The algorithm.
        algorithm: String,
    },
    /// A minisign signature of the old kind needs all of the file in memory.
    #[error("a minisign signature of the old kind over {len} bytes; at most {allowed} are read")]
    Legacy {
        /// Length of the file.
        len: u64,
        /// The limit.
        allowed: u64,
    },
    /// A file of keys or a signature that is too long to be one.
    #[error("{len} bytes are too many for a key or a signature")]
    TooLong {
        /// Its length.
        len: u64,
    },
}

impl SignatureError {
    /// The stable code.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self.problem {
            SignatureProblem::NoGpgv => "signature.no-gpgv",
            SignatureProblem::Gpgv(_) => "signature.gpgv",
            SignatureProblem::Missing => "signature.missing",
            SignatureProblem::Unreadable => "signature.unreadable",
            SignatureProblem::Key => "signature.key",
            SignatureProblem::Bad => "signature.bad",
            SignatureProblem::Expired { .. } => "signature.expired",
            SignatureProblem::KeyExpired { .. } => "signature.key-expired",
            SignatureProblem::KeyRevoked { .. } => "signature.key-revoked",
            SignatureProblem::UnknownKey { .. } => "signature.unknown-key",
            SignatureProblem::Weak { .. } => "signature.weak",
            SignatureProblem::Legacy { .. } => "signature.legacy",
            SignatureProblem::TooLong { .. } => "signature.too-long",
        }
    }

    /// What to do.
    #[must_use]
    pub const fn hint(&self) -> &'static str {
        match self.problem {
            SignatureProblem::NoGpgv => "install it: apt-get install gpgv",
            SignatureProblem::Gpgv(_) => "gpgv --version should print its version",
            SignatureProblem::Missing => "name it with --signature FILE|URL",
            SignatureProblem::Unreadable => {
                "name the vendor's .asc, .gpg, .sign or .minisig file; --keyring is for OpenPGP, --minisign-key for minisign"
            }
            SignatureProblem::Key => "name the vendor's public key or keyring, from the vendor's own site",
            SignatureProblem::Bad => {
                "nothing was imported; fetch both files again from the vendor's own site"
            }
            SignatureProblem::Expired { .. } | SignatureProblem::KeyExpired { .. } => {
                "fetch the vendor's newest signature and keys"
            }
            SignatureProblem::KeyRevoked { .. } => "do not trust it; ask the vendor which key is good",
            SignatureProblem::UnknownKey { .. } => "find out whose key that is before you trust it",
            SignatureProblem::Weak { .. } => "ask the vendor for a signature with SHA-256 or SHA-512",
            SignatureProblem::Legacy { .. } => "sign a list of checksums, or sign with minisign -H",
            SignatureProblem::TooLong { .. } => "check that the files were not mixed up",
        }
    }

    /// Who should look at it.
    #[must_use]
    pub const fn family(&self) -> Family {
        match self.problem {
            SignatureProblem::NoGpgv | SignatureProblem::Gpgv(_) => Family::Io,
            _ => Family::Refused,
        }
    }
}
