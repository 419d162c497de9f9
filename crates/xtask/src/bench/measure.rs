//! Timing of one command: wall time, and the peak memory of it and all it started.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use wait4::Wait4;

use crate::run::RunError;

/// One run of a command.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sample {
    pub(super) wall: Duration,
    /// Peak resident set of the largest process among it and its children, in bytes.
    pub(super) peak: u64,
}

/// Runs the shell line `script` in `dir`; a failure is an error, for a failed command measures nothing.
pub(super) fn sample(dir: &Path, script: &str) -> Result<Sample, RunError> {
    let started = Instant::now();
    let start_error = |source| RunError::Start { command: script.to_owned(), source };
    let child = Command::new("bash")
        .args(["-ec", script])
        .current_dir(dir)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .map_err(start_error)?;
    let used = child.wait4().map_err(start_error)?;
    let wall = started.elapsed();
    if used.status.success() {
        return Ok(Sample { wall, peak: used.rusage.maxrss });
    }
    Err(RunError::Failed {
        command: script.to_owned(),
        status: used.status,
        said: "its words are above".to_owned(),
    })
}

/// What several runs come to.
#[derive(Debug, Clone, Copy)]
pub(super) struct Summary {
    /// The median wall time.
    pub(super) median: Duration,
    pub(super) fastest: Duration,
    pub(super) slowest: Duration,
    /// The highest peak of all runs, in bytes.
    pub(super) peak: u64,
}

/// Sums runs up; `None` when there are none.
pub(super) fn summary(samples: &[Sample]) -> Option<Summary> {
    let mut walls: Vec<Duration> = samples.iter().map(|sample| sample.wall).collect();
    walls.sort();
    Some(Summary {
        median: median(&walls)?,
        fastest: *walls.first()?,
        slowest: *walls.last()?,
        peak: samples.iter().map(|sample| sample.peak).max()?,
    })
}

/// The middle of sorted times, or the mean of the middle two.
fn median(sorted: &[Duration]) -> Option<Duration> {
    let upper = *sorted.get(sorted.len() / 2)?;
    if sorted.len() % 2 == 1 {
        return Some(upper);
    }
    Some((*sorted.get(sorted.len() / 2 - 1)? + upper) / 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn median_of_odd_and_even_counts_is_the_middle() {
        let ms = Duration::from_millis;
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[ms(1), ms(5), ms(90)]), Some(ms(5)));
        assert_eq!(median(&[ms(1), ms(5), ms(7), ms(90)]), Some(ms(6)));
    }

    #[test]
    fn sample_sees_time_and_memory_of_what_the_line_starts() {
        let sample =
            sample(Path::new("/"), "sleep 0.2; head -c 80000000 /dev/zero | tail -c 80000000 | wc -c")
                .expect("it runs");
        assert!(sample.wall >= Duration::from_millis(200), "{sample:?}");
        assert!(sample.peak >= 80_000_000, "tail keeps what it is asked for: {sample:?}");
    }

    #[test]
    fn failing_line_is_no_sample() {
        let error = sample(Path::new("/"), "true; false; true").expect_err("it fails");
        assert!(matches!(error, RunError::Failed { status, .. } if status.code() == Some(1)), "{error:?}");
    }
}
