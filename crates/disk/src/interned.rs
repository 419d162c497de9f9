//! Words that are constants of the program where they are written, read back from text.
//!
//! A report holds words of the program's own as `&'static str`. When one comes back from another process, each word
//! is kept once, for as long as this process lives; what may be kept is bounded by the length of the reports that are
//! read.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Deserializer};

/// A word that lives as long as the program. By this name serde derives readers of a report for any lifetime; a field
/// whose type is written out it would borrow from the text.
pub type Word = &'static str;

static KNOWN: Mutex<BTreeSet<Word>> = Mutex::new(BTreeSet::new());

fn interned(word: &str) -> Word {
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(same) = known.get(word) {
        return same;
    }
    let kept: Word = Box::leak(Box::from(word));
    known.insert(kept);
    kept
}

/// One word, for `#[serde(deserialize_with)]`.
///
/// # Errors
/// Those of the deserializer.
pub fn one<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Word, D::Error> {
    String::deserialize(deserializer).map(|word| interned(&word))
}

/// A word or none.
///
/// # Errors
/// Those of the deserializer.
pub fn maybe<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Word>, D::Error> {
    Option::<String>::deserialize(deserializer).map(|word| word.map(|word| interned(&word)))
}

/// Any number of words.
///
/// # Errors
/// Those of the deserializer.
pub fn list<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Word>, D::Error> {
    Vec::<String>::deserialize(deserializer).map(|words| words.iter().map(|word| interned(word)).collect())
}

#[cfg(test)]
mod tests {
    use super::interned;

    #[test]
    fn a_word_is_kept_once() {
        let (one, other) = (interned(&String::from("kept")), interned(&String::from("kept")));
        assert_eq!((one, one.as_ptr()), ("kept", other.as_ptr()));
    }
}
