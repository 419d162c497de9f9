//! Keys that sign records of images: Ed25519 (RFC 8032), one small text file each.
//!
//! ```text
//! <dir>/NAME.key    kiln private key v1 / ed25519:<64 hex digits of the seed>      mode 0600
//! <dir>/NAME.pub    kiln public key v1 / ed25519:<64 hex digits>                   a key that is trusted
//! ```
//! Whoever has the private key trusts it, until its `.pub` is taken away.

use std::fmt;
use std::fs::{DirBuilder, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use kiln_disk::Existing;
use serde::{Deserialize, Serialize};

use crate::error::{Refusal, Result, io};
use crate::layout::{DIR_MODE, FILE_MODE, names_in, remove_file, write_whole};

const PRIVATE: &str = "kiln private key v1";
const PUBLIC: &str = "kiln public key v1";
const SCHEME: &str = "ed25519:";
/// A key file has a hundred bytes.
const MAX_FILE: u64 = 4096;
const MAX_NAME: usize = 64;

/// One way in which a key is not usable.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyProblem {
    /// A name that could be something else than a file's name.
    #[error("{name:?} is no name of a key")]
    Name {
        /// As given, cut to a readable length.
        name: String,
    },
    /// There is one of that name.
    #[error("there is a key {name:?} already")]
    Exists {
        /// The name.
        name: String,
    },
    /// There is none of that name.
    #[error("there is no key {name:?}")]
    Missing {
        /// The name.
        name: String,
    },
    /// The file is no key file of the expected kind.
    #[error("{} is no file of a {what}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// "private key" or "public key".
        what: &'static str,
    },
    /// Others can read a private key.
    #[error("the private key {} has mode {mode:04o}: others may read it", path.display())]
    Mode {
        /// The file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// The text is no public key.
    #[error("{text:?} is no public key")]
    Text {
        /// As given, cut to a readable length.
        text: String,
    },
}

impl KeyProblem {
    /// The stable code.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Name { .. } => "key.name",
            Self::Exists { .. } => "key.exists",
            Self::Missing { .. } => "key.missing",
            Self::Malformed { .. } => "key.malformed",
            Self::Mode { .. } => "key.mode",
            Self::Text { .. } => "key.text",
        }
    }

    pub(crate) const fn hint(&self) -> &'static str {
        match self {
            Self::Name { .. } => "use letters, digits, dots, dashes and underscores, at most 64",
            Self::Exists { .. } => "choose another name; a key is never overwritten",
            Self::Missing { .. } => "kiln key ls lists the keys; kiln key new NAME makes one",
            Self::Malformed { .. } => "name a file that kiln key new or kiln key show wrote",
            Self::Mode { .. } => "chmod 600 the file, and make a new key if somebody else may have read it",
            Self::Text { .. } => "a public key is ed25519: and 64 hex digits, as kiln key show prints it",
        }
    }
}

impl From<KeyProblem> for crate::error::Error {
    fn from(problem: KeyProblem) -> Self {
        Refusal::Key(problem).into()
    }
}

/// A public key: `ed25519:` and 64 hex digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PublicKey([u8; 32]);

impl PublicKey {
    /// Whether `signature` is this key's for `message`. Weak keys and malleable signatures are none.
    pub(crate) fn verifies(&self, message: &[u8], signature: &[u8; 64]) -> bool {
        VerifyingKey::from_bytes(&self.0)
            .is_ok_and(|key| key.verify_strict(message, &Signature::from_bytes(signature)).is_ok())
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SCHEME}{}", hex(&self.0))
    }
}

impl From<PublicKey> for String {
    fn from(key: PublicKey) -> Self {
        key.to_string()
    }
}

impl TryFrom<String> for PublicKey {
    type Error = KeyProblem;

    fn try_from(text: String) -> Result<Self, KeyProblem> {
        text.parse()
    }
}

impl FromStr for PublicKey {
    type Err = KeyProblem;

    fn from_str(text: &str) -> Result<Self, KeyProblem> {
        let bytes = text.strip_prefix(SCHEME).and_then(unhex::<32>);
        bytes
            .filter(|bytes| VerifyingKey::from_bytes(bytes).is_ok_and(|key| !key.is_weak()))
            .map(Self)
            .ok_or_else(|| KeyProblem::Text { text: text.chars().take(100).collect() })
    }
}

/// A private key. Its bytes are wiped when it goes.
pub struct PrivateKey {
    key: SigningKey,
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("PrivateKey").field(&self.public().to_string()).finish()
    }
}

impl PrivateKey {
    /// The key of these 32 secret bytes.
    #[must_use]
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        Self { key: SigningKey::from_bytes(seed) }
    }

    /// Its public half.
    #[must_use]
    pub fn public(&self) -> PublicKey {
        PublicKey(self.key.verifying_key().to_bytes())
    }

    pub(crate) fn sign(&self, message: &[u8]) -> [u8; 64] {
        self.key.sign(message).to_bytes()
    }

    /// Reads a key file.
    ///
    /// # Errors
    /// [`KeyProblem::Malformed`], [`KeyProblem::Mode`], I/O.
    pub fn read(path: &Path) -> Result<Self> {
        let (text, mode) = read_small(path)?;
        let malformed = KeyProblem::Malformed { path: path.to_owned(), what: "private key" };
        let seed = body(&text, PRIVATE).and_then(unhex::<32>).ok_or(malformed)?;
        if mode & 0o077 != 0 {
            return Err(KeyProblem::Mode { path: path.to_owned(), mode: mode & 0o7777 }.into());
        }
        Ok(Self::from_seed(&seed))
    }
}

/// A key of a [`KeyRing`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownKey {
    /// Its name there.
    pub name: String,
    /// It.
    pub public: PublicKey,
    /// Whether the private key is there.
    pub private: bool,
    /// Whether what it signed is trusted.
    pub trusted: bool,
}

/// A directory of keys.
#[derive(Debug, Clone)]
pub struct KeyRing {
    dir: PathBuf,
}

impl KeyRing {
    /// The keys in this directory, which need not be there yet.
    #[must_use]
    pub const fn at(dir: PathBuf) -> Self {
        Self { dir }
    }

    /// Makes a key of this name, trusted.
    ///
    /// # Errors
    /// [`KeyProblem::Name`], [`KeyProblem::Exists`], I/O.
    pub fn create(&self, name: &str) -> Result<KnownKey> {
        let path = self.path(name, "key")?;
        let public_path = self.path(name, "pub")?;
        if public_path.exists() {
            return Err(KeyProblem::Exists { name: name.to_owned() }.into());
        }
        self.make_dir()?;
        let mut seed = [0_u8; 32];
        random(&mut seed, &self.dir)?;
        let key = PrivateKey::from_seed(&seed);
        let file = OpenOptions::new().write(true).create_new(true).mode(FILE_MODE).open(&path);
        let mut file = match file {
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
                return Err(KeyProblem::Exists { name: name.to_owned() }.into());
            }
            other => other.map_err(|source| io("create", &path, source))?,
        };
        let text = format!("{PRIVATE}\n{SCHEME}{}\n", hex(&seed));
        file.write_all(text.as_bytes())
            .and_then(|()| file.sync_all())
            .map_err(|source| io("write", &path, source))?;
        self.trust(name, key.public())?;
        Ok(KnownKey { name: name.to_owned(), public: key.public(), private: true, trusted: true })
    }

    /// The private key of this name.
    ///
    /// # Errors
    /// [`KeyProblem::Missing`]; as [`PrivateKey::read`].
    pub fn private(&self, name: &str) -> Result<PrivateKey> {
        let path = self.path(name, "key")?;
        if !path.exists() {
            return Err(KeyProblem::Missing { name: name.to_owned() }.into());
        }
        PrivateKey::read(&path)
    }

    /// All keys, by name.
    ///
    /// # Errors
    /// [`KeyProblem::Malformed`], I/O.
    pub fn list(&self) -> Result<Vec<KnownKey>> {
        let mut known: Vec<KnownKey> = Vec::new();
        for file in names_in(&self.dir)? {
            if let Some(name) = file.strip_suffix(".pub") {
                let public = read_public(&self.dir.join(&file))?;
                known.push(KnownKey { name: name.to_owned(), public, private: false, trusted: true });
            }
        }
        for file in names_in(&self.dir)? {
            let Some(name) = file.strip_suffix(".key") else { continue };
            let public = PrivateKey::read(&self.dir.join(&file))?.public();
            match known.iter_mut().find(|key| key.name == name && key.public == public) {
                Some(key) => key.private = true,
                None => {
                    known.push(KnownKey { name: name.to_owned(), public, private: true, trusted: false });
                }
            }
        }
        known.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(known)
    }

    /// Trusts a public key under this name.
    ///
    /// # Errors
    /// [`KeyProblem::Name`], [`KeyProblem::Exists`] when another key has the name, I/O.
    pub fn trust(&self, name: &str, key: PublicKey) -> Result<()> {
        let path = self.path(name, "pub")?;
        self.make_dir()?;
        if path.exists() {
            return if read_public(&path)? == key {
                Ok(())
            } else {
                Err(KeyProblem::Exists { name: name.to_owned() }.into())
            };
        }
        write_whole(&path, &format!("{PUBLIC}\n{key}\n"), Existing::Keep)
    }

    /// Trusts it no longer. A private key of that name stays.
    ///
    /// # Errors
    /// [`KeyProblem::Missing`], I/O.
    pub fn untrust(&self, name: &str) -> Result<()> {
        if remove_file(&self.path(name, "pub")?)? {
            return Ok(());
        }
        Err(KeyProblem::Missing { name: name.to_owned() }.into())
    }

    fn path(&self, name: &str, extension: &str) -> Result<PathBuf, KeyProblem> {
        let plain = |sign: char| sign.is_ascii_alphanumeric() || matches!(sign, '.' | '-' | '_');
        if name.is_empty() || name.len() > MAX_NAME || name.starts_with('.') || !name.chars().all(plain) {
            return Err(KeyProblem::Name { name: name.chars().take(100).collect() });
        }
        Ok(self.dir.join(format!("{name}.{extension}")))
    }

    fn make_dir(&self) -> Result<()> {
        DirBuilder::new()
            .recursive(true)
            .mode(DIR_MODE)
            .create(&self.dir)
            .map_err(|source| io("create the directory", &self.dir, source))
    }
}

/// Reads the file of a public key.
///
/// # Errors
/// [`KeyProblem::Malformed`], I/O.
pub fn read_public(path: &Path) -> Result<PublicKey> {
    let (text, _) = read_small(path)?;
    let malformed = || KeyProblem::Malformed { path: path.to_owned(), what: "public key" };
    let digits = body(&text, PUBLIC).ok_or_else(malformed)?;
    Ok(format!("{SCHEME}{digits}").parse::<PublicKey>().map_err(|_| malformed())?)
}

/// The hex digits on the second line of a key file.
fn body<'a>(text: &'a str, first: &str) -> Option<&'a str> {
    let mut lines = text.lines();
    (lines.next()? == first).then_some(())?;
    let digits = lines.next()?.strip_prefix(SCHEME)?;
    lines.next().is_none().then_some(digits)
}

fn read_small(path: &Path) -> Result<(String, u32)> {
    let file = std::fs::File::open(path).map_err(|source| io("open", path, source))?;
    let mode = file.metadata().map_err(|source| io("stat", path, source))?.mode();
    let mut text = String::new();
    match file.take(MAX_FILE).read_to_string(&mut text) {
        Ok(_) => Ok((text, mode)),
        // Not text: no key file, as the caller will say.
        Err(error) if error.kind() == std::io::ErrorKind::InvalidData => Ok((String::new(), mode)),
        Err(source) => Err(io("read", path, source)),
    }
}

pub(crate) fn random(bytes: &mut [u8], place: &Path) -> Result<()> {
    let mut filled = 0;
    while filled < bytes.len() {
        let rest = bytes.get_mut(filled..).unwrap_or_default();
        filled += rustix::rand::getrandom(rest, rustix::rand::GetRandomFlags::empty())
            .map_err(|errno| io("read random bytes for", place, errno.into()))?;
    }
    Ok(())
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Exactly `N` bytes from lower case hex digits.
pub(crate) fn unhex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let mut bytes = [0; N];
    let pairs = text.as_bytes().chunks_exact(2);
    if text.len() != N * 2 {
        return None;
    }
    for (byte, pair) in bytes.iter_mut().zip(pairs) {
        *byte = digit(*pair.first()?)? << 4 | digit(*pair.get(1)?)?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rfc_8032_test_1_signs_as_published() {
        let seed = unhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60").unwrap();
        let key = PrivateKey::from_seed(&seed);
        assert_eq!(
            key.public().to_string(),
            "ed25519:d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"
        );
        let signature = key.sign(b"");
        assert_eq!(
            hex(&signature),
            "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b"
        );
        assert!(key.public().verifies(b"", &signature));
        assert!(!key.public().verifies(b"x", &signature));
    }

    #[test]
    fn keys_are_made_once_kept_private_and_trusted_until_told_otherwise() {
        let dir = tempfile::tempdir().unwrap();
        let ring = KeyRing::at(dir.path().join("keys"));
        let made = ring.create("release").unwrap();
        let path = dir.path().join("keys/release.key");
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o7777, 0o600);
        assert_eq!(ring.list().unwrap(), [made.clone()]);
        assert_eq!(ring.private("release").unwrap().public(), made.public);
        assert_eq!(ring.create("release").unwrap_err().code(), "key.exists");
        ring.untrust("release").unwrap();
        assert!(!ring.list().unwrap()[0].trusted);
        assert_eq!(ring.untrust("release").unwrap_err().code(), "key.missing");
        for bad in ["", "../x", ".x", "a/b", "a b"] {
            assert_eq!(ring.create(bad).unwrap_err().code(), "key.name", "{bad}");
        }
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        assert_eq!(ring.private("release").unwrap_err().code(), "key.mode");
        std::fs::write(&path, "kiln private key v1\nrot13:ab\n").unwrap();
        assert_eq!(ring.private("release").unwrap_err().code(), "key.malformed");
    }

    #[test]
    fn texts_that_are_no_key_are_refused() {
        let weak = format!("ed25519:{}", "00".repeat(32));
        for bad in ["", "ed25519:", "ed25519:zz", weak.as_str(), "rsa:00"] {
            assert!(bad.parse::<PublicKey>().is_err(), "{bad}");
        }
    }
}
