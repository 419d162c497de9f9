//! Where the store is, as a pure function: the values are given by whoever may read the environment.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use crate::error::{Refusal, Result};

/// What the user and the environment say.
#[derive(Debug, Clone, Copy, Default)]
pub struct Places<'a> {
    /// `--store`.
    pub flag: Option<&'a Path>,
    /// `KILN_STORE`.
    pub kiln_store: Option<&'a OsStr>,
    /// `XDG_DATA_HOME`.
    pub xdg_data_home: Option<&'a OsStr>,
    /// `HOME`.
    pub home: Option<&'a OsStr>,
}

/// The directory of the store: the flag, else `KILN_STORE`, else `kiln` in the XDG data directory, which is
/// `~/.local/share` unless `XDG_DATA_HOME` holds an absolute path. Empty values count as unset.
///
/// # Errors
/// [`Refusal::NoPlace`].
pub fn locate(places: Places<'_>) -> Result<PathBuf> {
    let set = |value: Option<&'_ OsStr>| value.filter(|value| !value.is_empty()).map(PathBuf::from);
    if let Some(path) = places.flag.filter(|path| !path.as_os_str().is_empty()) {
        return Ok(path.to_owned());
    }
    if let Some(path) = set(places.kiln_store) {
        return Ok(path);
    }
    if let Some(path) = set(places.xdg_data_home).filter(|path| path.is_absolute()) {
        return Ok(path.join("kiln"));
    }
    if let Some(path) = set(places.home).filter(|path| path.is_absolute()) {
        return Ok(path.join(".local/share/kiln"));
    }
    Err(Refusal::NoPlace.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(flag: &str, env: &str, xdg: &str, home: &str) -> Result<String> {
        let places = Places {
            flag: Some(Path::new(flag)),
            kiln_store: Some(OsStr::new(env)),
            xdg_data_home: Some(OsStr::new(xdg)),
            home: Some(OsStr::new(home)),
        };
        locate(places).map(|path| path.display().to_string())
    }

    #[test]
    fn the_nearest_word_wins() {
        assert_eq!(at("a", "/b", "/c", "/d").unwrap(), "a");
        assert_eq!(at("", "/b", "/c", "/d").unwrap(), "/b");
        assert_eq!(at("", "", "/c", "/d").unwrap(), "/c/kiln");
        assert_eq!(at("", "", "", "/d").unwrap(), "/d/.local/share/kiln");
    }

    #[test]
    fn a_relative_xdg_directory_does_not_count() {
        assert_eq!(at("", "", "c", "/d").unwrap(), "/d/.local/share/kiln");
    }

    #[test]
    fn nothing_set_is_an_error_and_not_the_current_directory() {
        assert_eq!(at("", "", "", "").unwrap_err().code(), "store.no-place");
        assert_eq!(locate(Places::default()).unwrap_err().code(), "store.no-place");
    }
}
