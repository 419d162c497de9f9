//! Where the user's targets are, as a pure function: the values are given by whoever may read the environment.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

/// What the user and the environment say.
#[derive(Debug, Clone, Copy, Default)]
pub struct Places<'a> {
    /// `--targets`.
    pub flag: Option<&'a Path>,
    /// `KILN_TARGETS`.
    pub kiln_targets: Option<&'a OsStr>,
    /// `XDG_CONFIG_HOME`.
    pub xdg_config_home: Option<&'a OsStr>,
    /// `HOME`.
    pub home: Option<&'a OsStr>,
}

/// A file of targets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TargetsFile {
    /// Named by the user: must be there.
    Named(PathBuf),
    /// The usual place: read when it is there.
    Usual(PathBuf),
}

/// The file: the flag, else `KILN_TARGETS`, else `kiln/targets.toml` in the XDG configuration directory, which is
/// `~/.config` unless `XDG_CONFIG_HOME` holds an absolute path. Empty values count as unset.
#[must_use]
pub fn locate(places: Places<'_>) -> Option<TargetsFile> {
    let set = |value: Option<&'_ OsStr>| value.filter(|value| !value.is_empty()).map(PathBuf::from);
    let named = places.flag.filter(|path| !path.as_os_str().is_empty()).map(Path::to_owned);
    if let Some(path) = named.or_else(|| set(places.kiln_targets)) {
        return Some(TargetsFile::Named(path));
    }
    let absolute = |path: &PathBuf| path.is_absolute();
    let xdg = set(places.xdg_config_home).filter(absolute);
    let home = set(places.home).filter(absolute).map(|home| home.join(".config"));
    xdg.or(home).map(|dir| TargetsFile::Usual(dir.join("kiln/targets.toml")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(flag: &str, env: &str, xdg: &str, home: &str) -> Option<TargetsFile> {
        locate(Places {
            flag: Some(Path::new(flag)),
            kiln_targets: Some(OsStr::new(env)),
            xdg_config_home: Some(OsStr::new(xdg)),
            home: Some(OsStr::new(home)),
        })
    }

    #[test]
    fn the_nearest_word_wins_and_only_a_named_file_must_be_there() {
        assert_eq!(at("a", "/b", "/c", "/d"), Some(TargetsFile::Named("a".into())));
        assert_eq!(at("", "/b", "/c", "/d"), Some(TargetsFile::Named("/b".into())));
        assert_eq!(at("", "", "/c", "/d"), Some(TargetsFile::Usual("/c/kiln/targets.toml".into())));
        assert_eq!(at("", "", "c", "/d"), Some(TargetsFile::Usual("/d/.config/kiln/targets.toml".into())));
        assert_eq!(at("", "", "", ""), None);
        assert_eq!(locate(Places::default()), None);
    }
}
