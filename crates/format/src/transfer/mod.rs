//! The copy engine: any disk into any container, once, in one pass.
//!
//! Formats map, this moves. Chunks of the disk are read, hashed and encoded on all cores; they take their turn in
//! guest order to be placed; their bytes are stored on all cores again. The output is the same file for any number
//! of threads.

mod engine;
mod file;
mod measure;
mod stream;
mod upon;

pub use engine::{Job, Outcome, write_container, write_layer};
pub use file::{FilePlan, Likeness, OutputProblem, read_back, stage_file, stage_layer, write_file};
pub use measure::{MeasurePlan, Measured, measure};
pub use stream::{spool_input, write_stream};
