//! Options of a format's writer, as `-o name=value` gives them.

use std::collections::BTreeMap;

use kiln_disk::{Error, Result};

/// One option that a writer takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OptionSpec {
    /// Its name, as qemu-img spells it where qemu-img has it.
    pub name: &'static str,
    /// The value when it is not given.
    pub default: &'static str,
    /// What it does, and its values.
    pub help: &'static str,
}

/// The options of one writer: given values over defaults; every name is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    specs: &'static [OptionSpec],
    given: BTreeMap<String, String>,
}

impl Options {
    /// Takes the given pairs.
    ///
    /// # Errors
    /// [`Error::Refused`] (`option.unknown`) for a name that is not in `specs`.
    pub fn new(
        specs: &'static [OptionSpec],
        given: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self> {
        let given: BTreeMap<_, _> = given.into_iter().collect();
        match given.keys().find(|name| specs.iter().all(|spec| spec.name != name.as_str())) {
            None => Ok(Self { specs, given }),
            Some(unknown) => Err(Error::Refused {
                code: "option.unknown",
                what: format!("no option {unknown:?} for this format"),
                asked: 0,
                allowed: 0,
                hint: "kiln convert --help lists the options of each format",
            }),
        }
    }

    /// All defaults.
    #[must_use]
    pub fn defaults(specs: &'static [OptionSpec]) -> Self {
        Self { specs, given: BTreeMap::new() }
    }

    /// The value of `name`; empty for a name without a row.
    #[must_use]
    pub fn get(&self, name: &str) -> &str {
        self.given.get(name).map_or_else(
            || self.specs.iter().find(|spec| spec.name == name).map_or("", |spec| spec.default),
            String::as_str,
        )
    }

    /// Whether a value was given for `name`, be it the default.
    #[must_use]
    pub fn is_given(&self, name: &str) -> bool {
        self.given.contains_key(name)
    }

    /// The value of `name` as a size in bytes: digits with an optional k, M, G or T (1024-based).
    ///
    /// # Errors
    /// [`Error::Refused`] (`option.value`).
    pub fn size(&self, name: &str) -> Result<u64> {
        let value = self.get(name);
        let digits = value.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let shift = match value.get(digits.len()..).unwrap_or("") {
            "" | "B" => 0,
            "k" | "K" | "KiB" => 10,
            "M" | "MiB" => 20,
            "G" | "GiB" => 30,
            "T" | "TiB" => 40,
            _ => return Err(self.bad_value(name)),
        };
        digits
            .parse::<u64>()
            .ok()
            .and_then(|number| number.checked_mul(1_u64.checked_shl(shift)?))
            .ok_or_else(|| self.bad_value(name))
    }

    /// The error for a value of `name` that cannot be used.
    #[must_use]
    pub fn bad_value(&self, name: &str) -> Error {
        Error::Refused {
            code: "option.value",
            what: format!("option {name}={:?}", self.get(name)),
            asked: 0,
            allowed: 0,
            hint: self.specs.iter().find(|spec| spec.name == name).map_or("", |spec| spec.help),
        }
    }
}
