//! Which format to write, and its options, from the words of the command line.

use std::path::Path;

use clap::Args;
use kiln_format::{Create, Format, Options};
use kiln_import::machine_name;

use crate::error::{CliError, Result};
use crate::input::{format_named, is_dash};

/// How to write the output.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct OutputArgs {
    /// Write this format [default: by the ending of DST]
    #[arg(short = 'O', long = "output-format", value_name = "FORMAT")]
    pub(crate) output_format: Option<String>,
    /// Set an option of the output format, as NAME=VALUE; several may be joined with commas
    #[arg(short = 'o', long = "option", value_name = "NAME=VALUE")]
    pub(crate) option: Vec<String>,
    /// Compress: with zstd, unless -o compression_type says otherwise
    #[arg(short = 'c', long)]
    pub(crate) compress: bool,
    /// Replace DST when it is there
    #[arg(long)]
    pub(crate) force: bool,
    /// Do not wait until the device has the data
    #[arg(long)]
    pub(crate) no_sync: bool,
    /// Do not read the output back and compare it
    #[arg(long)]
    pub(crate) no_verify: bool,
    /// Use this many threads [default: all]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    pub(crate) threads: Option<u16>,
    /// Print what would be done and do nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
}

/// A format that can be written, with its options.
pub(crate) struct Target {
    pub(crate) format: &'static Format,
    pub(crate) create: Create,
    pub(crate) options: Options,
    /// The options as given, `-c` included, for reports.
    pub(crate) given: Vec<(String, String)>,
}

impl OutputArgs {
    /// What to write to `dest`.
    pub(crate) fn target(&self, dest: &Path) -> Result<Target> {
        let format = match &self.output_format {
            Some(name) => format_named(name)?,
            None => format_by_ending(dest)?,
        };
        let create = format.create.ok_or_else(|| {
            CliError::cannot(
                "format.read-only",
                format!("{} can be read but not written", format.id),
                format!("formats that can be written: {}", writable().join(", ")),
            )
        })?;
        let mut given = self.pairs()?;
        if self.compress {
            compress(format, &create, &mut given)?;
        }
        self.name_after(dest, &create, &mut given);
        let options = Options::new(create.options, given.clone())
            .map_err(|error| known_options(error, format, &create))?;
        Ok(Target { format, create, options, given })
    }

    /// A machine in a file is called as the file is, where that is a name that a machine can have.
    fn name_after(&self, dest: &Path, create: &Create, given: &mut Vec<(String, String)>) {
        let has_name = create.options.iter().any(|spec| spec.name == NAME);
        if has_name
            && given.iter().all(|(name, _)| name != NAME)
            && let Some(machine) = machine_name(dest)
        {
            given.push((NAME.to_owned(), machine));
        }
    }

    /// The options as given.
    pub(crate) fn pairs(&self) -> Result<Vec<(String, String)>> {
        pairs(&self.option)
    }

    pub(crate) fn threads(&self) -> usize {
        self.threads.map_or_else(kiln_disk::pipeline::default_threads, usize::from)
    }
}

/// The ending decides only where it names a format; there is no guess behind it, because a disk written in the
/// wrong format is found out late.
pub(crate) fn format_by_ending(dest: &Path) -> Result<&'static Format> {
    let ending = dest.extension().map(|ending| ending.to_string_lossy().to_lowercase());
    let found = ending
        .as_deref()
        .and_then(|ending| kiln_format::FORMATS.iter().find(|format| format.extensions.contains(&ending)));
    found.copied().ok_or_else(|| {
        let place = if is_dash(dest) {
            "standard output".to_owned()
        } else {
            format!("{:?}", dest.display().to_string())
        };
        CliError::usage(
            "usage.output-format",
            format!("no output format is given, and {place} does not end with one"),
            format!("say -O FORMAT; formats that can be written: {}", writable().join(", ")),
        )
    })
}

fn writable() -> Vec<&'static str> {
    kiln_format::FORMATS.iter().filter(|format| format.create.is_some()).map(|format| format.id).collect()
}

fn pairs(words: &[String]) -> Result<Vec<(String, String)>> {
    let mut pairs: Vec<(String, String)> = Vec::new();
    for word in words.iter().flat_map(|word| word.split(',')) {
        let Some((name, value)) = word.split_once('=').filter(|(name, _)| !name.is_empty()) else {
            return Err(CliError::usage(
                "option.syntax",
                format!("-o {word:?} is not NAME=VALUE"),
                "for example -o compression_type=zlib",
            ));
        };
        if let Some((_, before)) = pairs.iter().find(|(known, _)| known == name) {
            return Err(CliError::usage(
                "option.twice",
                format!("option {name} is given twice: {before:?} and {value:?}"),
                "leave one of them out",
            ));
        }
        pairs.push((name.to_owned(), value.to_owned()));
    }
    Ok(pairs)
}

/// The option by which a writer names the machine that it describes.
const NAME: &str = "name";

/// The option by which a writer compresses; what can be compressed has it.
const COMPRESS: &str = "compress";

fn compress(format: &'static Format, create: &Create, given: &mut Vec<(String, String)>) -> Result<()> {
    let has = |name: &str| create.options.iter().any(|spec| spec.name == name);
    if !has(COMPRESS) {
        return Err(CliError::usage(
            "option.compress",
            format!("{} cannot be compressed", format.id),
            "leave -c out, or write qcow2",
        ));
    }
    match given.iter().find(|(name, _)| name == COMPRESS) {
        Some((_, value)) if value == "on" => {}
        Some((_, value)) => {
            return Err(CliError::usage(
                "option.twice",
                format!("-c and -o {COMPRESS}={value} contradict each other"),
                "leave one of them out",
            ));
        }
        None => given.push((COMPRESS.to_owned(), "on".to_owned())),
    }
    Ok(())
}

/// Names the options that there are.
fn known_options(error: kiln_disk::Error, format: &Format, create: &Create) -> CliError {
    if error.code() != "option.unknown" {
        return error.into();
    }
    let names: Vec<&str> = create.options.iter().map(|spec| spec.name).collect();
    let hint = if names.is_empty() {
        format!("{} has no options", format.id)
    } else {
        format!("options of {}: {}", format.id, names.join(", "))
    };
    CliError::usage("option.unknown", error.to_string(), hint)
}

/// The part of `convert --help` that lists every writer's options.
pub(crate) fn options_help() -> String {
    let mut help = String::from("Options of the output formats:\n");
    for format in kiln_format::FORMATS {
        let Some(create) = format.create else { continue };
        if create.options.is_empty() {
            help += &format!("  {}: none\n", format.id);
            continue;
        }
        help += &format!("  {}:\n", format.id);
        for spec in create.options {
            let default = if spec.default.is_empty() { "none" } else { spec.default };
            help += &format!("    {:<18} {} [default: {default}]\n", spec.name, spec.help);
        }
    }
    help
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(format: Option<&str>, option: &[&str], compress: bool) -> OutputArgs {
        OutputArgs {
            output_format: format.map(str::to_owned),
            option: option.iter().map(|word| (*word).to_owned()).collect(),
            compress,
            ..OutputArgs::default()
        }
    }

    fn code(args: &OutputArgs, dest: &str) -> String {
        args.target(Path::new(dest)).map(|_| ()).unwrap_err().code().to_owned()
    }

    #[test]
    fn the_ending_names_the_format_and_nothing_is_guessed_without_one() {
        assert_eq!(args(None, &[], false).target(Path::new("a.RAW")).unwrap().format.id, "raw");
        assert_eq!(args(Some("raw"), &[], false).target(Path::new("a.vhd")).unwrap().format.id, "raw");
        for dest in ["a", "a.zip", "-"] {
            assert_eq!(code(&args(None, &[], false), dest), "usage.output-format", "{dest}");
        }
        assert_eq!(code(&args(Some("zip"), &[], false), "a"), "usage.format");
    }

    #[test]
    fn options_are_pairs_known_to_the_format_and_given_once() {
        assert_eq!(code(&args(Some("raw"), &["x"], false), "a"), "option.syntax");
        assert_eq!(code(&args(Some("raw"), &["x=1"], false), "a"), "option.unknown");
        assert_eq!(code(&args(Some("raw"), &["x=1,x=2"], false), "a"), "option.twice");
        assert_eq!(code(&args(Some("raw"), &[], true), "a"), "option.compress");
    }
}
