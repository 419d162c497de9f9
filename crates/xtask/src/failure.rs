//! How a chore fails: with the chain of causes, on standard error.

use std::error::Error;
use std::io::{self, Write};
use std::process::ExitCode;

/// A chore that failed.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The chore ran and its answer is no.
    No(String),
    /// The chore could not be done.
    Could(Box<dyn Error>),
}

/// The outcome of a chore.
pub(crate) type Outcome<T = ()> = Result<T, Failure>;

impl<E: Error + 'static> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::Could(Box::new(error))
    }
}

impl Failure {
    /// Prints the failure; the exit code is 1 for "no" and 3 for "could not".
    pub(crate) fn report(&self) -> ExitCode {
        let mut text = String::new();
        let code = match self {
            Self::No(why) => {
                text.push_str(&format!("error: {why}\n"));
                1
            }
            Self::Could(error) => {
                text.push_str(&format!("error: {error}\n"));
                let mut cause = error.source();
                while let Some(error) = cause {
                    text.push_str(&format!("caused by: {error}\n"));
                    cause = error.source();
                }
                3
            }
        };
        // Nothing is left to tell it to when standard error is closed.
        let _ = io::stderr().write_all(text.as_bytes());
        ExitCode::from(code)
    }
}

/// Prints one line on standard output.
pub(crate) fn say(line: &str) -> Outcome {
    let mut out = io::stdout().lock();
    out.write_all(line.as_bytes())?;
    out.write_all(b"\n")?;
    out.flush()?;
    Ok(())
}
