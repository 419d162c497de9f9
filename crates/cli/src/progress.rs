//! Progress on stderr: bars for people on a terminal, one JSON object a line for machines, nothing otherwise.
//!
//! The libraries only know [`Observer`]; this is the one implementation that draws, and the one that carries a
//! request to stop (a signal) back into them.

use std::io::IsTerminal;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use kiln_disk::{Event, Observer};
use serde::Serialize;

use crate::output::{complain, visible};

/// How progress is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub(crate) enum ProgressMode {
    /// Bars when stderr is a terminal
    #[default]
    Auto,
    /// Nothing
    None,
    /// One JSON object a line, on stderr
    Json,
}

/// Jobs shorter than this show no bar: a flash of a bar tells nobody anything.
const FIRST_DRAW: Duration = Duration::from_millis(250);
/// Least time between two JSON lines of one phase.
const JSON_EVERY: Duration = Duration::from_millis(200);

/// Draws a job and carries the wish to stop it.
pub(crate) struct Reporter {
    mode: ProgressMode,
    notes: bool,
    cancelled: Arc<AtomicBool>,
    phase: Mutex<Option<Phase>>,
}

struct Phase {
    name: String,
    total: u64,
    done: u64,
    started: Instant,
    told: Instant,
    bar: Option<ProgressBar>,
}

impl Reporter {
    /// `notes`: whether what the libraries note is told to people.
    pub(crate) fn new(mode: ProgressMode, notes: bool, cancelled: Arc<AtomicBool>) -> Self {
        let mode = match mode {
            ProgressMode::Auto if !std::io::stderr().is_terminal() => ProgressMode::None,
            mode => mode,
        };
        Self { mode, notes, cancelled, phase: Mutex::new(None) }
    }

    /// The wish to stop, for work that reports to nobody.
    pub(crate) fn stop(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.cancelled)
    }

    /// Takes the bar off the screen, so that what is printed next stands on its own line.
    pub(crate) fn clear(&self) {
        if let Some(phase) = self.phase.lock().unwrap_or_else(PoisonError::into_inner).take() {
            finish_bar(phase.bar.as_ref());
        }
    }

    fn start(&self, name: &str, total: u64) {
        let now = Instant::now();
        if self.mode == ProgressMode::Json {
            tell(&Record { phase: Some(name), total_bytes: Some(total), ..Record::new("started") });
        }
        let phase = Phase { name: name.to_owned(), total, done: 0, started: now, told: now, bar: None };
        let before = self.phase.lock().unwrap_or_else(PoisonError::into_inner).replace(phase);
        finish_bar(before.and_then(|phase| phase.bar).as_ref());
    }

    fn advance(&self, bytes: u64) {
        let mut guard = self.phase.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(phase) = guard.as_mut() else { return };
        phase.done = phase.done.saturating_add(bytes);
        match self.mode {
            ProgressMode::None => {}
            ProgressMode::Json if phase.told.elapsed() < JSON_EVERY => {}
            ProgressMode::Json => {
                phase.told = Instant::now();
                tell(&phase.record("advanced"));
            }
            ProgressMode::Auto => {
                if phase.bar.is_none() && phase.started.elapsed() >= FIRST_DRAW {
                    phase.bar = Some(bar(&phase.name, phase.total, phase.started));
                }
                if let Some(bar) = &phase.bar {
                    bar.set_position(phase.done);
                }
            }
        }
    }

    fn finish(&self) {
        let Some(phase) = self.phase.lock().unwrap_or_else(PoisonError::into_inner).take() else { return };
        finish_bar(phase.bar.as_ref());
        if self.mode == ProgressMode::Json {
            tell(&phase.record("finished"));
        }
    }

    fn note(&self, text: &str) {
        if self.mode == ProgressMode::Json {
            tell(&Record { text: Some(text), ..Record::new("note") });
        } else if self.notes {
            let line = format!("note: {}\n", visible(text));
            match self.phase.lock().unwrap_or_else(PoisonError::into_inner).as_ref() {
                Some(Phase { bar: Some(bar), .. }) => bar.suspend(|| complain(&line)),
                _ => complain(&line),
            }
        }
    }
}

impl Observer for Reporter {
    fn event(&self, event: Event<'_>) {
        match event {
            Event::Started { phase, total } => self.start(phase, total),
            Event::Advanced { bytes } => self.advance(bytes),
            Event::Finished => self.finish(),
            Event::Note { text } => self.note(text),
            _ => {}
        }
    }

    fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed)
    }
}

/// A line of `--progress json`.
#[derive(Serialize)]
struct Record<'a> {
    schema: &'static str,
    event: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    phase: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    done_bytes: Option<u64>,
    /// 0 when unknown.
    #[serde(skip_serializing_if = "Option::is_none")]
    total_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<&'a str>,
}

impl Record<'_> {
    fn new(event: &'static str) -> Self {
        Self {
            schema: "kiln.progress.v1",
            event,
            phase: None,
            done_bytes: None,
            total_bytes: None,
            text: None,
        }
    }
}

impl Phase {
    fn record(&self, event: &'static str) -> Record<'_> {
        Record {
            phase: Some(&self.name),
            done_bytes: Some(self.done),
            total_bytes: Some(self.total),
            ..Record::new(event)
        }
    }
}

fn tell(record: &Record<'_>) {
    if let Ok(line) = serde_json::to_string(record) {
        complain(&format!("{line}\n"));
    }
}

fn finish_bar(bar: Option<&ProgressBar>) {
    if let Some(bar) = bar {
        bar.finish_and_clear();
    }
}

fn bar(name: &str, total: u64, started: Instant) -> ProgressBar {
    let (bar, template) = if total > 0 {
        (
            ProgressBar::new(total),
            "{prefix:<9} {wide_bar} {binary_bytes} of {binary_total_bytes}  {binary_bytes_per_sec}  {eta}",
        )
    } else {
        (ProgressBar::no_length(), "{prefix:<9} {spinner} {binary_bytes}  {binary_bytes_per_sec}")
    };
    bar.set_draw_target(ProgressDrawTarget::stderr_with_hz(10));
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar.set_prefix(visible(name).into_owned());
    bar.with_elapsed(started.elapsed())
}
