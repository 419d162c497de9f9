//! Signatures over what vendors publish: OpenPGP by way of gpgv, and minisign.
//!
//! A signature is over a list of checksums or over the image file itself. Only what is signed is read of a list, and
//! the signature is verified before a byte of it is interpreted.

mod armor;
mod minisign;
mod openpgp;
mod problem;

use std::fs::File;
use std::path::{Path, PathBuf};

use kiln_catalog::{SignatureFacts, SignerRecord};
use kiln_disk::digest::{Algorithm, hash_source};
use kiln_disk::{ByteSource, FileOffset, FileSource, MemorySource, Silent};

pub use problem::{SignatureError, SignatureProblem};

use crate::checksum::base_name;
use crate::error::Result;
use crate::fetch::{FetchOptions, Url, fetch_small, shown_url};

/// Where a small file is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// On this machine.
    File(PathBuf),
    /// On a server.
    Url(String),
}

impl Place {
    /// A word of the command line as a place.
    #[must_use]
    pub fn of(word: &Path) -> Self {
        match word.to_str() {
            Some(text) if Url::is_meant(text) => Self::Url(text.to_owned()),
            _ => Self::File(word.to_owned()),
        }
    }

    /// Its base name.
    #[must_use]
    pub fn name(&self) -> String {
        match self {
            Self::File(path) => base_name(&path.display().to_string()).to_owned(),
            Self::Url(url) => base_name(&shown_url(url)).to_owned(),
        }
    }

    pub(crate) fn read(&self, options: &FetchOptions, max_len: u64) -> Result<Vec<u8>> {
        match self {
            Self::File(path) => read_file(path, max_len),
            Self::Url(url) => Ok(fetch_small(&Url::parse(url)?, options, max_len)?),
        }
    }
}

/// Whose signatures count.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trust {
    /// The OpenPGP keys in this file, armoured or not.
    Keyring(PathBuf),
    /// This minisign key: itself, or the file that it is in.
    Minisign(String),
}

/// A signature that must be good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignatureWish {
    /// Where it is; none when it is in the signed file.
    pub signature: Option<Place>,
    /// Whose it must be.
    pub trust: Trust,
}

/// A key or a signature has a few kilobytes; Debian's whole keyring of developers has some megabytes.
const MAX_SMALL: u64 = 32 << 20;

/// A signature with what it takes to verify it, all read.
pub(crate) struct Verifier {
    signature: Option<Vec<u8>>,
    keys: Vec<u8>,
    openpgp: bool,
}

impl Verifier {
    pub(crate) fn read(wish: &SignatureWish, options: &FetchOptions) -> Result<Self> {
        let signature = match &wish.signature {
            Some(place) => Some(place.read(options, MAX_SMALL)?),
            None => None,
        };
        let (keys, openpgp) = match &wish.trust {
            Trust::Keyring(path) => (read_file(path, MAX_SMALL)?, true),
            Trust::Minisign(word) if Path::new(word).exists() => {
                (read_file(Path::new(word), MAX_SMALL)?, false)
            }
            Trust::Minisign(word) => (word.clone().into_bytes(), false),
        };
        Ok(Self { signature, keys, openpgp })
    }

    /// Verifies a list: what of it is signed, and by whom. `dir` is a private directory.
    pub(crate) fn list(&self, what: &str, list: Vec<u8>, dir: &Path) -> Result<(Vec<u8>, SignerRecord)> {
        let named = |problem| SignatureError { what: what.to_owned(), problem };
        let (signed, facts) = match (&self.signature, self.openpgp) {
            (signature, true) if signature.is_some() || armor::is_clear_signed(&list) => {
                openpgp::Job { dir, keys: &self.keys, signature: signature.as_deref() }
                    .list(list)
                    .map_err(named)?
            }
            (Some(signature), false) => {
                let facts = minisign::bytes(&self.keys, signature, &list).map_err(named)?;
                (list, facts)
            }
            _ => return Err(named(SignatureProblem::Missing).into()),
        };
        Ok((signed, self.record(what, facts)?))
    }

    /// Verifies a signature over a whole file.
    pub(crate) fn file(&self, what: &str, source: &FileSource, dir: &Path) -> Result<SignerRecord> {
        let named = |problem| SignatureError { what: what.to_owned(), problem };
        let Some(signature) = &self.signature else { return Err(named(SignatureProblem::Missing).into()) };
        let facts = if self.openpgp {
            openpgp::Job { dir, keys: &self.keys, signature: Some(signature) }.file(source.file())
        } else {
            minisign::file(&self.keys, signature, source)
        };
        self.record(what, facts.map_err(named)?)
    }

    fn record(&self, what: &str, signature: SignatureFacts) -> Result<SignerRecord> {
        let source = MemorySource::new(self.keys.clone());
        let mut digests = hash_source(&source, &[Algorithm::Sha256], &Silent)?;
        // One was asked for.
        let keys = digests.pop().ok_or(kiln_disk::Error::Cancelled)?;
        Ok(SignerRecord { signed: what.to_owned(), signature, keys })
    }
}

fn read_file(path: &Path, max_len: u64) -> Result<Vec<u8>> {
    let source = FileSource::open(path)?;
    let len = source.byte_len();
    if len > max_len {
        let what = path.display().to_string();
        return Err(SignatureError { what, problem: SignatureProblem::TooLong { len } }.into());
    }
    let mut bytes = vec![0; usize::try_from(len).unwrap_or(0)];
    source.read_bytes(FileOffset::ZERO, &mut bytes)?;
    Ok(bytes)
}

/// A new file in a private directory.
fn put(dir: &Path, name: &str, bytes: &[u8]) -> std::io::Result<(File, PathBuf)> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let path = std::path::absolute(dir.join(name))?;
    let mut file = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&path)?;
    file.write_all(bytes)?;
    Ok((file, path))
}
