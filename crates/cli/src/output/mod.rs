//! What reaches the user: the answer on stdout, everything else on stderr.

mod escape;
mod findings;
mod size;
mod table;

use std::io::{self, IsTerminal, Write};

use serde::Serialize;

use crate::error::{CliError, Result};

pub(crate) use escape::visible;
pub(crate) use findings::{FindingRecord, RangeRecord, findings_lines};
pub(crate) use size::{ShortSize, Size};
pub(crate) use table::{Align, Table};

/// How answers are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Style {
    /// Text for people.
    Text,
    /// One JSON object.
    Json,
}

/// What `--output` takes, where QEMU has a form of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum OutputForm {
    /// For people
    Text,
    /// As --json
    Json,
    /// With the keys of qemu-img
    Qemu,
}

/// How much is said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Verbosity {
    /// Nothing but what was asked for, and errors.
    Quiet,
    /// The answer and its summary.
    Normal,
    /// Also notes on how it was done.
    Verbose,
}

/// The way to stdout and stderr. Answers are collected and written once, so that a command that fails half-way
/// has not printed half an answer.
#[derive(Debug)]
pub(crate) struct Printer {
    pub(crate) style: Style,
    pub(crate) verbosity: Verbosity,
    /// Set when stdout carries an image: the report then goes to stderr.
    stdout_is_data: bool,
    answer: Vec<u8>,
}

impl Printer {
    pub(crate) fn new(style: Style, verbosity: Verbosity) -> Self {
        Self { style, verbosity, stdout_is_data: false, answer: Vec::new() }
    }

    /// Keeps stdout free for an image.
    pub(crate) fn report_on_stderr(&mut self) {
        self.stdout_is_data = true;
    }

    pub(crate) fn is_json(&self) -> bool {
        self.style == Style::Json
    }

    /// A line of an answer that is the purpose of the command; printed even when quiet. Made safe for a terminal.
    pub(crate) fn data(&mut self, line: &str) {
        if self.style == Style::Text {
            self.push(&visible(line));
        }
    }

    /// Text that something else printed, line for line: made safe for a terminal, unchanged for anything else.
    pub(crate) fn lines_of(&mut self, text: &str) {
        let safe = self.safe(text);
        self.answer.extend_from_slice(safe.as_bytes());
    }

    /// The same text, safe for whatever standard output is.
    pub(crate) fn safe(&self, text: &str) -> String {
        if !io::stdout().is_terminal() {
            return text.to_owned();
        }
        let mut safe = String::new();
        for line in text.split_inclusive('\n') {
            let (body, end) = line.strip_suffix('\n').map_or((line, ""), |body| (body, "\n"));
            safe.push_str(&visible(body.trim_end_matches('\r')));
            safe.push_str(end);
        }
        safe
    }

    /// A line of a report on work done; left out when quiet. Made safe for a terminal.
    pub(crate) fn line(&mut self, line: &str) {
        if self.verbosity > Verbosity::Quiet {
            self.data(line);
        }
    }

    /// `name` and `value` in the two columns that all reports share.
    pub(crate) fn field(&mut self, name: &str, value: impl std::fmt::Display) {
        self.line(&format!("{name:<13} {value}"));
    }

    /// As [`Printer::field`], printed even when quiet.
    pub(crate) fn data_field(&mut self, name: &str, value: impl std::fmt::Display) {
        self.data(&format!("{name:<13} {value}"));
    }

    /// The answer as one JSON object, when JSON is asked for.
    pub(crate) fn json(&mut self, record: &impl Serialize) -> Result<()> {
        if self.style == Style::Json {
            self.json_always(record)?;
        }
        Ok(())
    }

    /// Any record as JSON, whatever the style.
    pub(crate) fn json_always(&mut self, record: &impl Serialize) -> Result<()> {
        serde_json::to_writer_pretty(&mut self.answer, record)
            .map_err(|source| CliError::Output { source: source.into() })?;
        self.answer.push(b'\n');
        Ok(())
    }

    fn push(&mut self, line: &str) {
        self.answer.extend_from_slice(line.as_bytes());
        self.answer.push(b'\n');
    }

    /// Hands over what was collected so far to stdout; for answers that may be large.
    pub(crate) fn flush_if_large(&mut self) -> Result<()> {
        if self.answer.len() >= 1 << 16 { self.flush() } else { Ok(()) }
    }

    /// Writes the answer and waits until the system has it.
    pub(crate) fn flush(&mut self) -> Result<()> {
        let answer = std::mem::take(&mut self.answer);
        if answer.is_empty() {
            return Ok(());
        }
        let written = if self.stdout_is_data {
            write_all(&mut io::stderr().lock(), &answer)
        } else {
            write_all(&mut io::stdout().lock(), &answer)
        };
        written.map_err(|source| CliError::Output { source })
    }

    /// Raw bytes of an answer (a completion script, NDJSON).
    pub(crate) fn bytes(&mut self, bytes: &[u8]) {
        self.answer.extend_from_slice(bytes);
    }
}

fn write_all(to: &mut dyn Write, bytes: &[u8]) -> io::Result<()> {
    to.write_all(bytes)?;
    to.flush()
}

/// Writes lines to stderr. Nobody is left to hear that stderr is gone, so failure is passed over.
pub(crate) fn complain(text: &str) {
    let _ = io::stderr().lock().write_all(text.as_bytes());
}
