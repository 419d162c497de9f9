//! Accounts: on whose behalf a command acts.
//!
//! A store belongs to one user of the operating system, who can read and change every file of it; accounts order
//! what that user's commands do, and travel with images to other stores. They are no wall against that user.

use std::fmt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Refusal, Result};
use crate::name::{MAX_LEN, NameProblem};

/// The name of an account: 1 to 60 ASCII letters, digits, `.`, `_`, `-` and `@`, with a letter, digit or `_` first
/// and a letter or digit last. Case counts.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Account(String);

impl Account {
    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The account of a user of the operating system: its name in `passwd`, a text as `/etc/passwd` has it, or
    /// `uid-N` for a user who has no name there, or none that an account may have.
    #[must_use]
    pub fn of_user(uid: u32, passwd: &str) -> Self {
        let name = passwd.lines().find_map(|line| {
            let mut fields = line.split(':');
            let (name, _, number) = (fields.next()?, fields.next()?, fields.next()?);
            (number.parse() == Ok(uid)).then(|| name.parse().ok()).flatten()
        });
        name.unwrap_or_else(|| Self(format!("uid-{uid}")))
    }

    /// The account of whoever owns a file.
    pub(crate) fn of_owner(path: &Path) -> Self {
        let uid = std::fs::metadata(path).map_or(0, |metadata| metadata.uid());
        Self::of_user(uid, &std::fs::read_to_string("/etc/passwd").unwrap_or_default())
    }
}

impl FromStr for Account {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let judged = (|| {
            let first = text.chars().next().ok_or(NameProblem::Empty)?;
            if !(first.is_ascii_alphanumeric() || first == '_') {
                return Err(NameProblem::BadStart { found: first });
            }
            for (index, found) in text.chars().enumerate() {
                if !(found.is_ascii_alphanumeric() || matches!(found, '.' | '_' | '-' | '@')) {
                    return Err(NameProblem::BadCharacter { found, position: index.saturating_add(1) });
                }
            }
            if text.len() > MAX_LEN {
                return Err(NameProblem::TooLong { len: text.len() });
            }
            match text.chars().next_back() {
                Some(last) if !last.is_ascii_alphanumeric() => Err(NameProblem::BadEnd { found: last }),
                _ => Ok(()),
            }
        })();
        judged.map(|()| Self(text.to_owned())).map_err(|problem| {
            Refusal::Name { what: "account", given: text.chars().take(80).collect(), problem }.into()
        })
    }
}

impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for Account {
    type Error = Error;
    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<Account> for String {
    fn from(account: Account) -> Self {
        account.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_of_the_system_are_accounts() {
        let passwd = "root:x:0:0:root:/root:/bin/sh\n_apt:x:42:65534::/:/x\nno body:x:7:7::/:/x\nshort:x\n";
        for (uid, account) in [(0, "root"), (42, "_apt"), (7, "uid-7"), (1000, "uid-1000")] {
            assert_eq!(Account::of_user(uid, passwd).as_str(), account);
        }
    }

    #[test]
    fn hostile_accounts_are_refused() {
        for text in ["", "-rf", "a b", "a\nb", "a/b", "..", "a:b", "a\u{202e}b", "ä", "a.", &"x".repeat(61)]
        {
            assert!(text.parse::<Account>().unwrap_err().code().starts_with("name."), "{text:?}");
        }
        assert_eq!("ops@example.org".parse::<Account>().unwrap().as_str(), "ops@example.org");
    }
}
