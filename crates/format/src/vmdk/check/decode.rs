//! Decoding every compressed grain, on all processors, in the order of the file.

use kiln_disk::{Error, GuestOffset, Observer, Result, go_on, pipeline};

use super::{Report, row_of, specs};
use crate::encoded::Window;
use crate::vmdk::header::SECTOR;
use crate::vmdk::image::Part;
use crate::vmdk::problem::VmdkProblem;
use crate::vmdk::sparse::Sparse;
use crate::wire::in_memory;

/// Grains that are handed to the threads at once.
const BATCH: usize = 256;

/// What became of a grain: its length in the file, or why it is none.
type Outcome = Result<u64, Error>;

/// Grains on their way to the threads.
pub(super) struct Decode<'a> {
    part: &'a Part,
    sparse: &'a Sparse,
    /// Whether to decode, or only to see where grains end.
    decodes: bool,
    observer: &'a dyn Observer,
    batch: Vec<(u64, u64)>,
    /// First byte behind the last grain so far.
    end: Option<u64>,
}

impl<'a> Decode<'a> {
    pub(super) fn new(part: &'a Part, sparse: &'a Sparse, decodes: bool, observer: &'a dyn Observer) -> Self {
        Self { part, sparse, decodes, observer, batch: Vec::new(), end: None }
    }

    /// Takes the grain at `at`, which lies behind all those before it.
    pub(super) fn take(&mut self, grain: u64, at: u64, report: &mut Report) -> Result<()> {
        self.batch.push((grain, at));
        if self.batch.len() >= BATCH { self.flush(report) } else { Ok(()) }
    }

    /// Decodes what is left; answers where the last grain ends.
    pub(super) fn finish(mut self, report: &mut Report) -> Result<Option<u64>> {
        self.flush(report)?;
        Ok(self.end)
    }

    fn flush(&mut self, report: &mut Report) -> Result<()> {
        go_on(self.observer)?;
        self.sparse.budget.check_time()?;
        let (sparse, decodes) = (self.sparse, self.decodes);
        let share = self.batch.len().div_ceil(pipeline::default_threads().max(1)).max(1);
        let answers = std::thread::scope(|scope| {
            let started: Vec<_> = self
                .batch
                .chunks(share)
                .map(|jobs| scope.spawn(move || decode_all(sparse, decodes, jobs)))
                .collect();
            started.into_iter().map(std::thread::ScopedJoinHandle::join).collect::<Vec<_>>()
        });
        let batch = std::mem::take(&mut self.batch);
        for (jobs, answer) in batch.chunks(share).zip(answers) {
            let outcomes = answer.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            for ((grain, at), outcome) in jobs.iter().zip(outcomes) {
                self.judge(*grain, *at, outcome, report)?;
            }
        }
        Ok(())
    }

    fn judge(&mut self, grain: u64, at: u64, outcome: Outcome, report: &mut Report) -> Result<()> {
        let sparse = self.sparse;
        let start = self.part.start.saturating_add(grain.saturating_mul(sparse.grain_len()));
        let guest = (GuestOffset::new(start), sparse.used_len(grain));
        if let Some(end) = self.end.filter(|end| at < *end) {
            let detail = || {
                format!("grain {grain} at {at:#x} starts before the grain in front of it ends, at {end:#x}")
            };
            report.push(&specs::GRAIN_ALIASED, &detail, |finding| {
                finding.at(sparse.entry_at(grain)).guest(guest.0, guest.1)
            });
        }
        match outcome {
            Ok(len) => self.end = Some(at.saturating_add(len).next_multiple_of(SECTOR)),
            Err(error) => {
                let Some(problem) = error.problem::<VmdkProblem>() else { return Err(error) };
                report.push(row_of(problem), &|| problem.to_string(), |finding| {
                    let finding = finding.guest(guest.0, guest.1);
                    error.offset().map_or(finding.clone(), |at| finding.at(at))
                });
                // Where it ends is not known: at least behind its first sector.
                self.end = Some(at.saturating_add(SECTOR));
            }
        }
        Ok(())
    }
}

fn decode_all(sparse: &Sparse, decodes: bool, jobs: &[(u64, u64)]) -> Vec<Outcome> {
    let mut out = vec![0; in_memory(sparse.grain_len())];
    let mut window = Window::default();
    let mut one = |grain, at| {
        if decodes {
            sparse.decode(grain, at, &mut out, u64::MAX, &mut window)?;
        }
        // Without markers only the decoder knows, and it does not tell: a sector is certain.
        let known = sparse.compressed_len(grain, at, 0, &mut window)?;
        Ok(if sparse.has_markers() { known } else { 1 })
    };
    jobs.iter().map(|(grain, at)| one(*grain, *at)).collect()
}
