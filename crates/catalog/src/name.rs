//! Names of images: `NAME[:TAG]`.
//!
//! A name never becomes a path, a shell word or a SQL text; the rules are narrow anyway, because names end up in
//! scripts, file names of exports and the consoles of other systems. 60 characters is what the strictest of the
//! clouds that take images allow.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Refusal, Result};

/// The most characters that a name or a tag may have.
pub const MAX_LEN: usize = 60;

/// The most characters of a description.
pub const MAX_DESCRIPTION: usize = 256;

/// The tag meant when none is given.
pub const LATEST: &str = "latest";

/// Words that would be read as the algorithm of a digest.
const RESERVED: [&str; 4] = ["sha256", "sha512", "md5", "fsverity-sha256-64k"];

/// One way in which a name or tag breaks the rules.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NameProblem {
    /// Nothing there.
    #[error("it is empty")]
    Empty,
    /// Too long.
    #[error("it has {len} characters, at most {MAX_LEN} are allowed")]
    TooLong {
        /// Characters given.
        len: usize,
    },
    /// Starts with something that looks like an option, a hidden file or a separator.
    #[error("it starts with {found:?}")]
    BadStart {
        /// The first character.
        found: char,
    },
    /// Holds a character outside the set.
    #[error("it holds {found:?} at character {position}")]
    BadCharacter {
        /// The character.
        found: char,
        /// Counted from 1.
        position: usize,
    },
    /// Ends with a separator.
    #[error("it ends with {found:?}")]
    BadEnd {
        /// The last character.
        found: char,
    },
    /// Could be taken for an id.
    #[error("names that start with \"img-\" are ids")]
    LooksLikeId,
    /// Could be taken for a digest.
    #[error("{word:?} would be read as the start of a digest")]
    LooksLikeDigest {
        /// The reserved word.
        word: &'static str,
    },
}

impl NameProblem {
    /// The stable code.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Empty => "name.empty",
            Self::TooLong { .. } => "name.too-long",
            Self::BadStart { .. } | Self::BadCharacter { .. } | Self::BadEnd { .. } => "name.character",
            Self::LooksLikeId | Self::LooksLikeDigest { .. } => "name.reserved",
        }
    }

    pub(crate) fn hint(&self) -> &'static str {
        match self {
            Self::LooksLikeId | Self::LooksLikeDigest { .. } => "choose another name",
            _ => {
                "NAME[:TAG], each 1 to 60 ASCII letters, digits, '.', '_' and '-', with a letter or digit first and last"
            }
        }
    }
}

/// The name of an image: 1 to 60 ASCII letters, digits, `.`, `_`, `-`; a letter or digit first and last; neither
/// an id nor the word before a digest. Case counts.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Name(String);

/// The tag of an image: as [`Name`], without its reserved words.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Tag(String);

impl Name {
    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Tag {
    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// `latest`.
    #[must_use]
    pub fn latest() -> Self {
        Self(LATEST.to_owned())
    }
}

impl FromStr for Name {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let judged = judge(text).and_then(|()| {
            if text.starts_with("img-") {
                return Err(NameProblem::LooksLikeId);
            }
            match RESERVED.iter().copied().find(|word| *word == text) {
                Some(word) => Err(NameProblem::LooksLikeDigest { word }),
                None => Ok(()),
            }
        });
        judged.map(|()| Self(text.to_owned())).map_err(|problem| refuse("name", text, problem))
    }
}

impl FromStr for Tag {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        judge(text).map(|()| Self(text.to_owned())).map_err(|problem| refuse("tag", text, problem))
    }
}

macro_rules! as_text {
    ($type:ident) => {
        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
        impl TryFrom<String> for $type {
            type Error = Error;
            fn try_from(text: String) -> Result<Self> {
                text.parse()
            }
        }
        impl From<$type> for String {
            fn from(value: $type) -> Self {
                value.0
            }
        }
    };
}
as_text!(Name);
as_text!(Tag);

fn judge(text: &str) -> Result<(), NameProblem> {
    let Some(first) = text.chars().next() else { return Err(NameProblem::Empty) };
    if !first.is_ascii_alphanumeric() {
        return Err(NameProblem::BadStart { found: first });
    }
    for (index, found) in text.chars().enumerate() {
        if !(found.is_ascii_alphanumeric() || matches!(found, '.' | '_' | '-')) {
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
}

fn refuse(what: &'static str, given: &str, problem: NameProblem) -> Error {
    Refusal::Name { what, given: given.chars().take(80).collect(), problem }.into()
}

/// A name with its tag.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NameTag {
    /// Before the colon.
    pub name: Name,
    /// Behind it; `latest` when there was none.
    pub tag: Tag,
}

impl FromStr for NameTag {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text.split_once(':') {
            None => Ok(Self { name: text.parse()?, tag: Tag::latest() }),
            Some((name, tag)) => Ok(Self { name: name.parse()?, tag: tag.parse()? }),
        }
    }
}

impl fmt::Display for NameTag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.name, self.tag)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem_of(text: &str) -> (&'static str, NameProblem) {
        match text.parse::<NameTag>() {
            Err(Error::Refused(Refusal::Name { what, problem, .. })) => (what, problem),
            other => panic!("{text:?} gave {other:?}"),
        }
    }

    #[test]
    fn name_without_tag_means_latest() {
        assert_eq!("debian".parse::<NameTag>().unwrap().to_string(), "debian:latest");
        assert_eq!("debian:12.1".parse::<NameTag>().unwrap().to_string(), "debian:12.1");
        assert_eq!("A_b.c-9:1".parse::<NameTag>().unwrap().to_string(), "A_b.c-9:1");
    }

    #[test]
    fn sixty_characters_pass_and_sixty_one_do_not() {
        let longest = "a".repeat(60);
        assert_eq!(format!("{longest}:{longest}").parse::<NameTag>().unwrap().name.as_str(), longest);
        let longer = "a".repeat(61);
        assert_eq!(problem_of(&longer), ("name", NameProblem::TooLong { len: 61 }));
        assert_eq!(problem_of(&format!("a:{longer}")), ("tag", NameProblem::TooLong { len: 61 }));
    }

    #[test]
    fn hostile_names_are_refused_with_the_character_and_its_place() {
        use NameProblem::{BadCharacter, BadEnd, BadStart, Empty, LooksLikeDigest, LooksLikeId};
        let table: &[(&str, &str, NameProblem)] = &[
            ("", "name", Empty),
            (":tag", "name", Empty),
            ("name:", "tag", Empty),
            ("..", "name", BadStart { found: '.' }),
            (".hidden", "name", BadStart { found: '.' }),
            ("-rf", "name", BadStart { found: '-' }),
            ("--help", "name", BadStart { found: '-' }),
            ("/etc/passwd", "name", BadStart { found: '/' }),
            ("a/../b", "name", BadCharacter { found: '/', position: 2 }),
            ("a\\b", "name", BadCharacter { found: '\\', position: 2 }),
            ("a b", "name", BadCharacter { found: ' ', position: 2 }),
            ("a\nb", "name", BadCharacter { found: '\n', position: 2 }),
            ("a\0", "name", BadCharacter { found: '\0', position: 2 }),
            ("a\u{1b}[31m", "name", BadCharacter { found: '\u{1b}', position: 2 }),
            ("a\u{202e}b", "name", BadCharacter { found: '\u{202e}', position: 2 }),
            ("аdmin", "name", BadStart { found: 'а' }),
            ("déb", "name", BadCharacter { found: 'é', position: 2 }),
            ("$(id)", "name", BadStart { found: '$' }),
            ("a;b", "name", BadCharacter { found: ';', position: 2 }),
            ("a'b", "name", BadCharacter { found: '\'', position: 2 }),
            ("a\"b", "name", BadCharacter { found: '"', position: 2 }),
            ("a%2fb", "name", BadCharacter { found: '%', position: 2 }),
            ("a*", "name", BadCharacter { found: '*', position: 2 }),
            ("a:b:c", "tag", BadCharacter { found: ':', position: 2 }),
            ("a:../b", "tag", BadStart { found: '.' }),
            ("name.", "name", BadEnd { found: '.' }),
            ("name-", "name", BadEnd { found: '-' }),
            ("img-abcdefgh", "name", LooksLikeId),
            ("img-x:y", "name", LooksLikeId),
            ("sha256:abc", "name", LooksLikeDigest { word: "sha256" }),
            ("fsverity-sha256-64k:0", "name", LooksLikeDigest { word: "fsverity-sha256-64k" }),
        ];
        for (given, what, problem) in table {
            assert_eq!(problem_of(given), (*what, problem.clone()), "{given:?}");
        }
    }

    #[test]
    fn a_four_kib_name_is_refused_and_its_message_stays_short() {
        let error = "x".repeat(4096).parse::<Name>().unwrap_err();
        assert_eq!(error.code(), "name.too-long");
        assert!(error.to_string().len() < 200, "{error}");
    }

    #[test]
    fn control_characters_are_escaped_in_the_message() {
        let error = "a\u{1b}[31m".parse::<Name>().unwrap_err();
        assert!(!error.to_string().contains('\u{1b}'));
    }
}
