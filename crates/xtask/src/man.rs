//! `cargo xtask man`: man pages and shell completions from the command line's own definition.

use std::fs;
use std::path::{Path, PathBuf};

use clap_complete::Shell;

use crate::failure::{Outcome, say};

/// Write man pages to target/man and completions for bash, zsh, fish and elvish to target/completions.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The directory that gets `man` and `completions`.
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/../../target"))]
    dir: PathBuf,
}

pub(crate) fn run(arguments: &Arguments) -> Outcome {
    let man = arguments.dir.join("man");
    let completions = arguments.dir.join("completions");
    for dir in [&man, &completions] {
        // Pages of commands that are gone do not stay.
        if dir.exists() {
            fs::remove_dir_all(dir)?;
        }
        fs::create_dir_all(dir)?;
    }
    clap_mangen::generate_to(kiln_cli::command(), &man)?;
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish, Shell::Elvish] {
        clap_complete::generate_to(shell, &mut kiln_cli::command(), "kiln", &completions)?;
    }
    let dir = fs::canonicalize(&arguments.dir)?;
    say(&format!("{} man pages and {} completions in {}", count(&man)?, count(&completions)?, dir.display()))
}

fn count(dir: &Path) -> Outcome<usize> {
    Ok(fs::read_dir(dir)?.count())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_has_a_page_that_names_it_and_every_shell_a_script() {
        let scratch = tempfile::tempdir().expect("a scratch directory");
        run(&Arguments { dir: scratch.path().to_owned() }).expect("pages are written");
        let mut command = kiln_cli::command();
        command.build();
        let mut pages = vec!["kiln".to_owned()];
        // Hidden ones are for kiln itself.
        let shown = command.get_subcommands().filter(|sub| !sub.is_hide_set());
        pages.extend(shown.map(|sub| format!("kiln-{}", sub.get_name())));
        for page in pages.iter().filter(|page| *page != "kiln-help") {
            let text =
                fs::read_to_string(scratch.path().join(format!("man/{page}.1"))).expect("the page is there");
            assert!(text.contains(&format!(".TH {page} 1")), "{page}.1 has no title of its own");
            assert!(text.contains(".SH SYNOPSIS"), "{page}.1 has no synopsis");
        }
        assert!(pages.len() > 3, "{pages:?}");
        for script in ["kiln.bash", "_kiln", "kiln.fish", "kiln.elv"] {
            let text =
                fs::read_to_string(scratch.path().join("completions").join(script)).expect("it is there");
            assert!(text.contains("convert"), "{script} does not know convert");
        }
    }
}
