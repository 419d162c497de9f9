//! The Markdown table of the README.

use std::time::Duration;

use super::measure::Summary;
use super::rows::{Row, Target};

/// A row and what was measured for it.
pub(super) struct Measured {
    pub(super) row: Row,
    /// Absent when only the peers were run.
    pub(super) ours: Option<Summary>,
    /// The peer's line that was fastest in the trial, and its figures.
    pub(super) peer: Option<(String, Summary)>,
}

impl Measured {
    /// Our time by the peer's.
    fn ratio(&self) -> Option<f64> {
        let (_, peer) = self.peer.as_ref()?;
        Some(self.ours?.median.as_secs_f64() / peer.median.as_secs_f64())
    }

    /// Is the figure reached? `None` when it was not measured.
    pub(super) fn reached(&self) -> Option<bool> {
        Some(match self.row.target {
            Target::Ratio(target) => self.ratio()? <= target,
            Target::Milliseconds(target) => self.ours?.median.as_secs_f64() * 1000.0 <= target,
        })
    }
}

/// The rows as Markdown: times are medians.
pub(super) fn render(rows: &[Measured]) -> String {
    let mut text =
        String::from("| job | kiln | peer | ratio | to reach | |\n|---|---:|---:|---:|---:|---|\n");
    for measured in rows {
        let ours = measured.ours.map_or("–".to_owned(), |summary| time(summary.median));
        let peer = measured.peer.as_ref().map_or("–".to_owned(), |(_, summary)| time(summary.median));
        let ratio = measured.ratio().map_or("–".to_owned(), |ratio| format!("{ratio:.2}"));
        let target = match measured.row.target {
            Target::Ratio(target) => format!("≤ {target}"),
            Target::Milliseconds(target) => format!("≤ {target} ms"),
        };
        let verdict = match measured.reached() {
            Some(true) => "reached",
            Some(false) => "**missed**",
            None => "not measured",
        };
        text.push_str(&format!(
            "| {} | {ours} | {peer} | {ratio} | {target} | {verdict} |\n",
            measured.row.job
        ));
    }
    text
}

/// The spread and the lines behind the table, for who wants to judge it.
pub(super) fn details(measured: &Measured) -> String {
    let mut text = format!("{}\n", measured.row.job);
    let mut side = |line: &str, summary: &Summary| {
        text.push_str(&format!(
            "  {line}\n    median {}, {} to {}, peak {} MiB\n",
            time(summary.median),
            time(summary.fastest),
            time(summary.slowest),
            summary.peak >> 20
        ));
    };
    if let Some(ours) = &measured.ours {
        side(&measured.row.kiln, ours);
    }
    if let Some((line, peer)) = &measured.peer {
        side(line, peer);
    }
    text
}

/// The highest peak of ours, in bytes, among imports of packed files or all else.
pub(super) fn peak(rows: &[Measured], packed: bool) -> Option<u64> {
    let chosen = rows.iter().filter(|measured| measured.row.job.starts_with("import of disk.") == packed);
    chosen.filter_map(|measured| Some(measured.ours?.peak)).max()
}

fn time(duration: Duration) -> String {
    if duration < Duration::from_millis(100) {
        return format!("{:.1} ms", duration.as_secs_f64() * 1000.0);
    }
    format!("{:.2} s", duration.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn summary(ms: u64) -> Summary {
        let median = Duration::from_millis(ms);
        Summary { median, fastest: median, slowest: median, peak: 1 << 20 }
    }

    fn measured(ours: Option<u64>, peer: Option<u64>, target: Target) -> Measured {
        Measured {
            row: Row { job: "job".into(), kiln: "kiln".into(), peers: vec![], target },
            ours: ours.map(summary),
            peer: peer.map(|ms| ("peer".to_owned(), summary(ms))),
        }
    }

    #[test]
    fn figure_at_the_target_is_reached_and_above_it_is_missed() {
        assert_eq!(measured(Some(900), Some(1000), Target::Ratio(0.9)).reached(), Some(true));
        assert_eq!(measured(Some(901), Some(1000), Target::Ratio(0.9)).reached(), Some(false));
        assert_eq!(measured(Some(30), None, Target::Milliseconds(30.0)).reached(), Some(true));
        assert_eq!(measured(Some(31), None, Target::Milliseconds(30.0)).reached(), Some(false));
        assert_eq!(measured(None, Some(1000), Target::Ratio(0.9)).reached(), None);
    }

    #[test]
    fn table_shows_times_ratio_target_and_verdict() {
        let rows = [
            measured(Some(500), Some(2000), Target::Ratio(0.5)),
            measured(Some(45), None, Target::Milliseconds(30.0)),
            measured(None, Some(2000), Target::Ratio(0.5)),
        ];
        assert_eq!(
            render(&rows).lines().skip(2).collect::<Vec<_>>(),
            [
                "| job | 0.50 s | 2.00 s | 0.25 | ≤ 0.5 | reached |",
                "| job | 45.0 ms | – | – | ≤ 30 ms | **missed** |",
                "| job | – | 2.00 s | – | ≤ 0.5 | not measured |",
            ]
        );
    }
}
