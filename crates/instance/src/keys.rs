//! Public keys for ssh, as `authorized_keys` has them.

use crate::error::{Refusal, Result};

/// The most keys of one launch.
const MAX_KEYS: usize = 64;
/// A key of 16384 bits RSA with a long comment.
const MAX_LINE: usize = 4096;

/// Public keys that may log in.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PublicKeys(Vec<String>);

impl PublicKeys {
    /// The keys in a file, one a line; empty lines and comments are passed over. Nothing of the file is in an error:
    /// it may turn out to be the private half.
    ///
    /// # Errors
    /// [`Refusal::Key`].
    pub fn from_text(text: &str) -> Result<Self> {
        let mut keys = Vec::new();
        for (number, line) in text.lines().enumerate() {
            let refuse = |why| Refusal::Key { line: number.saturating_add(1), why };
            let line = line.trim();
            if line.contains("PRIVATE KEY") {
                return Err(refuse("begins a private key").into());
            }
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            if line.len() > MAX_LINE || line.chars().any(char::is_control) {
                return Err(refuse("is no public key").into());
            }
            let mut words = line.split_ascii_whitespace();
            let (kind, body) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
            let known =
                ["ssh-", "ecdsa-", "sk-ssh-", "sk-ecdsa-"].iter().any(|start| kind.starts_with(start));
            let base64 = |char: char| char.is_ascii_alphanumeric() || matches!(char, '+' | '/' | '=');
            // Every key begins with the length of its kind as 32 bits, so with the letters AAAA.
            if !known || !body.starts_with("AAAA") || !body.chars().all(base64) {
                return Err(refuse("is no public key").into());
            }
            keys.push(line.to_owned());
        }
        if keys.is_empty() || keys.len() > MAX_KEYS {
            let why =
                if keys.is_empty() { "is the last, and there was no key" } else { "is one key too many" };
            return Err(Refusal::Key { line: text.lines().count().max(1), why }.into());
        }
        Ok(Self(keys))
    }

    /// The keys of both.
    pub fn extend(&mut self, other: Self) {
        for key in other.0 {
            if !self.0.contains(&key) {
                self.0.push(key);
            }
        }
    }

    /// One key a line.
    #[must_use]
    pub fn lines(&self) -> &[String] {
        &self.0
    }
}
