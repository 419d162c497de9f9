//! Running other programs: loud when they fail.

use std::ffi::OsStr;
use std::fmt;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};

/// A program that could not be run or did not succeed.
#[derive(Debug)]
pub(crate) enum RunError {
    /// It could not be started.
    Start {
        /// The command line.
        command: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// It ended with a failure.
    Failed {
        /// The command line.
        command: String,
        /// How it ended.
        status: ExitStatus,
        /// The end of what it said.
        said: String,
    },
}

impl fmt::Display for RunError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Start { command, .. } => {
                write!(f, "cannot run `{command}` (`make setup` installs the tools)")
            }
            Self::Failed { command, status, said } => write!(f, "`{command}` failed: {status}\n{said}"),
        }
    }
}

impl std::error::Error for RunError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Start { source, .. } => Some(source),
            Self::Failed { .. } => None,
        }
    }
}

/// Runs `program` in `dir` and returns what it wrote to standard output.
pub(crate) fn run<A: AsRef<OsStr>>(dir: &Path, program: &str, arguments: &[A]) -> Result<Vec<u8>, RunError> {
    let mut command = Command::new(program);
    command.args(arguments).current_dir(dir).stdin(Stdio::null());
    let words: Vec<_> = arguments.iter().map(|word| word.as_ref().to_string_lossy()).collect();
    let line = format!("{program} {}", words.join(" "));
    let output = command.output().map_err(|source| RunError::Start { command: line.clone(), source })?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    let said =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    Err(RunError::Failed { command: line, status: output.status, said })
}
