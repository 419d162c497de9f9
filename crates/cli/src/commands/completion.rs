//! `kiln completion`: words for the shell.

use clap_complete::Shell;

use crate::error::{Answer, Result};
use crate::session::Session;

/// Print a completion script for a shell
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  kiln completion bash > /etc/bash_completion.d/kiln
  kiln completion zsh > \"${fpath[1]}/_kiln\"")]
pub(crate) struct Args {
    /// Write for this shell
    shell: Shell,
}

pub(crate) fn run(args: &Args, session: &mut Session) -> Result<Answer> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut crate::command(), "kiln", &mut script);
    session.printer.bytes(&script);
    Ok(Answer::Yes)
}
