//! Settings: a file, the environment and the command line, in this order of increasing strength.
//!
//! A pure function of what whoever may read files and the environment hands in. Every value knows where it comes
//! from; a word that is not a setting is an error and not passed over, as it is most likely a slip.

use std::fmt;
use std::path::{Path, PathBuf};

use crate::account::Account;
use crate::error::{Error, Malformation, Refusal, Result};
use crate::quota::Quota;

/// Where a value comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum From {
    /// Nobody said anything.
    Default,
    /// The settings file.
    File(PathBuf),
    /// A variable of the environment.
    Environment(&'static str),
    /// An option of the command line.
    Flag(&'static str),
}

impl fmt::Display for From {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Environment(name) => write!(f, "${name}"),
            Self::Flag(name) => write!(f, "{name}"),
        }
    }
}

/// What a value may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Path,
    Account,
    Count,
    Size,
    Price,
    /// One of a few words.
    Word(&'static [&'static str]),
}

/// One setting that there is.
#[derive(Debug)]
pub struct Key {
    /// Its name in the file: `quota.images`.
    pub name: &'static str,
    /// Its variable.
    pub variable: &'static str,
    /// Its option, where there is one.
    pub flag: Option<&'static str>,
    /// What it is when nobody says anything; empty where that depends on the place.
    pub default: &'static str,
    /// What it does.
    pub help: &'static str,
    kind: Kind,
}

/// All settings.
#[rustfmt::skip]
pub const KEYS: [Key; 8] = [
    Key { name: "store", variable: "KILN_STORE", flag: Some("--store"), default: "", kind: Kind::Path,
          help: "directory of the image store" },
    Key { name: "account", variable: "KILN_ACCOUNT", flag: Some("--account"), default: "", kind: Kind::Account,
          help: "on whose behalf commands act" },
    Key { name: "quota.images", variable: "KILN_QUOTA_IMAGES", flag: None, default: "500", kind: Kind::Count,
          help: "images that an account may own" },
    Key { name: "quota.shares", variable: "KILN_QUOTA_SHARES", flag: None, default: "500", kind: Kind::Count,
          help: "accounts that one image may be shared with" },
    Key { name: "quota.bytes", variable: "KILN_QUOTA_BYTES", flag: None, default: "none", kind: Kind::Size,
          help: "bytes that the layers of an account's images may take" },
    Key { name: "price", variable: "KILN_PRICE", flag: Some("--price"), default: "none", kind: Kind::Price,
          help: "price of a GiB for a month, in kiln usage" },
    Key { name: "scrub.rate", variable: "KILN_SCRUB_RATE", flag: Some("--rate"), default: "none", kind: Kind::Size,
          help: "bytes a second that a scrub reads" },
    Key { name: "accelerator", variable: "KILN_ACCELERATOR", flag: None, default: "auto",
          kind: Kind::Word(&["auto", "kvm", "tcg"]),
          help: "what runs machines: KVM when a probe guest boots with it, KVM, or QEMU's translator" },
];

/// A setting with its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// Its name.
    pub key: &'static str,
    /// Its value as it was given.
    pub value: String,
    /// Where that comes from.
    pub from: From,
}

/// All settings with their values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    list: Vec<Setting>,
}

/// The place of the settings file: `$XDG_CONFIG_HOME/kiln/config.toml`, else `~/.config/kiln/config.toml`.
#[must_use]
pub fn default_file(xdg_config_home: Option<&Path>, home: Option<&Path>) -> Option<PathBuf> {
    let absolute = |path: Option<&Path>| path.filter(|path| path.is_absolute()).map(Path::to_owned);
    absolute(xdg_config_home)
        .or_else(|| absolute(home).map(|home| home.join(".config")))
        .map(|dir| dir.join("kiln/config.toml"))
}

impl Settings {
    /// Puts everything together. `file` is the settings file with its text, `variable` looks into the environment,
    /// `flags` are options of the command line by the name of the setting.
    ///
    /// # Errors
    /// `config.syntax` for a file that is no TOML; [`Refusal::Setting`] for a key that is none and a value that
    /// cannot be used.
    pub fn gather(
        file: Option<(&Path, &str)>,
        variable: &dyn Fn(&str) -> Option<String>,
        flags: &[(&str, String)],
    ) -> Result<Self> {
        let mut list: Vec<Setting> = KEYS
            .iter()
            .map(|key| Setting { key: key.name, value: key.default.to_owned(), from: From::Default })
            .collect();
        if let Some((path, text)) = file {
            let table: toml::Table = text.parse().map_err(|error: toml::de::Error| Error::Malformed {
                structure: "settings",
                path: path.to_owned(),
                problem: Malformation::Toml(error.to_string().trim_end().to_owned()),
            })?;
            for (name, value) in flat("", &table) {
                let from = From::File(path.to_owned());
                let Some(setting) = list.iter_mut().find(|setting| setting.key == name) else {
                    let near: Vec<&str> = KEYS.iter().map(|key| key.name).collect();
                    let problem = format!("there is no such setting; there are {}", near.join(", "));
                    return Err(Refusal::Setting { key: name, origin: from.to_string(), problem }.into());
                };
                setting.value = value;
                setting.from = from;
            }
        }
        for (setting, key) in list.iter_mut().zip(&KEYS) {
            if let Some(value) = variable(key.variable).filter(|value| !value.is_empty()) {
                *setting = Setting { key: key.name, value, from: From::Environment(key.variable) };
            }
            if let Some((_, value)) = flags.iter().find(|(name, _)| *name == key.name) {
                let from = From::Flag(key.flag.unwrap_or("the command line"));
                *setting = Setting { key: key.name, value: value.clone(), from };
            }
            judge(key, setting)?;
        }
        Ok(Self { list })
    }

    /// All of them, in the order of [`KEYS`].
    #[must_use]
    pub fn list(&self) -> &[Setting] {
        &self.list
    }

    fn value(&self, key: &str) -> Option<&str> {
        let setting = self.list.iter().find(|setting| setting.key == key)?;
        Some(setting.value.as_str()).filter(|value| !value.is_empty() && *value != "none")
    }

    /// The directory of the store, when somebody named one.
    #[must_use]
    pub fn store(&self) -> Option<PathBuf> {
        self.value("store").map(PathBuf::from)
    }

    /// The account, when somebody named one.
    #[must_use]
    pub fn account(&self) -> Option<Account> {
        self.value("account").and_then(|text| text.parse().ok())
    }

    /// The limits.
    #[must_use]
    pub fn quota(&self) -> Quota {
        let default = Quota::default();
        let count = |key| self.value(key).and_then(|text| text.parse().ok());
        Quota {
            images: count("quota.images").unwrap_or(default.images),
            shares: count("quota.shares").unwrap_or(default.shares),
            bytes: self.value("quota.bytes").and_then(size).unwrap_or(default.bytes),
        }
    }

    /// The price of a GiB for a month.
    #[must_use]
    pub fn price(&self) -> Option<f64> {
        self.value("price").and_then(|text| text.parse().ok())
    }

    /// What runs machines: `kvm`, `tcg`, or nothing to find out.
    #[must_use]
    pub fn accelerator(&self) -> Option<&str> {
        self.value("accelerator").filter(|word| *word != "auto")
    }

    /// Bytes a second that a scrub reads.
    #[must_use]
    pub fn scrub_rate(&self) -> Option<u64> {
        self.value("scrub.rate").and_then(size)
    }
}

/// The values of a table with dots between the names.
fn flat(prefix: &str, table: &toml::Table) -> Vec<(String, String)> {
    let mut pairs = Vec::new();
    for (name, value) in table {
        let name = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
        match value {
            toml::Value::Table(inner) => pairs.extend(flat(&name, inner)),
            toml::Value::String(text) => pairs.push((name, text.clone())),
            other => pairs.push((name, other.to_string())),
        }
    }
    pairs
}

fn judge(key: &Key, setting: &Setting) -> Result<()> {
    let value = setting.value.as_str();
    if setting.from == From::Default {
        return Ok(());
    }
    let problem = match key.kind {
        Kind::Path if value.is_empty() => Some("it is empty".to_owned()),
        Kind::Path => None,
        Kind::Account => value.parse::<Account>().err().map(|error| error.to_string()),
        Kind::Count if value.parse::<u64>().is_err() => Some(format!("{value:?} is no number")),
        Kind::Size if value != "none" && size(value).is_none() => {
            Some(format!("{value:?} is no size; 50G is 50 GiB"))
        }
        Kind::Price
            if value != "none"
                && !value.parse().is_ok_and(|price: f64| price >= 0.0 && price.is_finite()) =>
        {
            Some(format!("{value:?} is no price"))
        }
        Kind::Word(words) if !words.contains(&value) => {
            Some(format!("{value:?} is none of {}", words.join(", ")))
        }
        _ => None,
    };
    match problem {
        None => Ok(()),
        Some(problem) => {
            let (key, origin) = (key.name.to_owned(), setting.from.to_string());
            Err(Refusal::Setting { key, origin, problem }.into())
        }
    }
}

/// A number of bytes with an optional K, M, G or T, which are powers of 1024.
fn size(text: &str) -> Option<u64> {
    let digits = text.trim_end_matches(|sign: char| sign.is_ascii_alphabetic());
    let shift = match text.get(digits.len()..)? {
        "" | "B" => 0,
        "k" | "K" | "KiB" => 10,
        "M" | "MiB" => 20,
        "G" | "GiB" => 30,
        "T" | "TiB" => 40,
        _ => return None,
    };
    digits.parse::<u64>().ok()?.checked_mul(1 << shift)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gather(file: &str, variables: &[(&str, &str)], flags: &[(&str, &str)]) -> Result<Settings> {
        let variable =
            |name: &str| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
        let flags: Vec<_> = flags.iter().map(|(key, value)| (*key, (*value).to_owned())).collect();
        Settings::gather(Some((Path::new("/c.toml"), file)), &variable, &flags)
    }

    #[test]
    fn the_command_line_is_stronger_than_the_environment_and_that_than_the_file() {
        let file = "account = 'ann'\nstore = '/s'\n[quota]\nimages = 3\nbytes = '2G'\n";
        let settings =
            gather(file, &[("KILN_ACCOUNT", "ben"), ("KILN_STORE", "/e")], &[("store", "/f")]).unwrap();
        let from = |key: &str| {
            let setting = settings.list().iter().find(|setting| setting.key == key).unwrap();
            format!("{} {}", setting.value, setting.from)
        };
        assert_eq!(from("store"), "/f --store");
        assert_eq!(from("account"), "ben $KILN_ACCOUNT");
        assert_eq!(from("quota.images"), "3 /c.toml");
        assert_eq!(from("quota.shares"), "500 default");
        let quota = Quota { images: 3, shares: 500, bytes: 2 << 30 };
        assert_eq!(settings.quota(), quota);
        assert_eq!(settings.account().unwrap().as_str(), "ben");
        assert_eq!((settings.price(), settings.scrub_rate()), (None, None));
    }

    #[test]
    fn slips_are_told_with_their_place() {
        for (file, code) in [
            ("acount = 'x'", "config.value"),
            ("account = '../x'", "config.value"),
            ("quota.images = 'many'", "config.value"),
            ("quota.bytes = '2Z'", "config.value"),
            ("price = -1", "config.value"),
            ("price = inf", "config.value"),
            ("accelerator = 'magic'", "config.value"),
            ("account = ", "config.syntax"),
        ] {
            let error = gather(file, &[], &[]).unwrap_err();
            assert_eq!(error.code(), code, "{file}");
            assert!(error.to_string().contains("/c.toml"), "{error}");
        }
    }

    #[test]
    fn the_file_is_in_the_config_directory() {
        let at = |xdg: &str, home: &str| default_file(Some(Path::new(xdg)), Some(Path::new(home)));
        assert_eq!(at("/x", "/h").unwrap(), Path::new("/x/kiln/config.toml"));
        assert_eq!(at("x", "/h").unwrap(), Path::new("/h/.config/kiln/config.toml"));
        assert_eq!(at("", ""), None);
    }
}
