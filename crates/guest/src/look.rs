//! One question about the disks of a machine, and its answer: in this process, or in one that may do nothing but
//! answer.

use std::path::PathBuf;
use std::sync::Arc;

use kiln_disk::{Budget, Disk, Limits, Result};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::facts::{Depth, GuestReport, examine};
use crate::rules::{Judgement, Options, Place, judge, place};
use crate::worker;

/// What is asked.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Question {
    /// How much is looked at.
    pub depth: Depth,
    /// What it may cost.
    pub limits: Limits,
    /// The judgements that are wanted.
    pub asked: Vec<Asked>,
}

/// Judgements that are wanted.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Asked {
    /// The places.
    #[serde(serialize_with = "ids", deserialize_with = "by_id")]
    pub places: Vec<&'static Place>,
    /// What the one who asks knows better.
    pub options: Options,
}

/// What was found.
#[derive(Clone, Serialize, Deserialize)]
pub struct Look {
    /// The facts.
    pub report: GuestReport,
    /// For each [`Question::asked`], the judgement of each of its places, in their order.
    pub judgements: Vec<Vec<Judgement>>,
    /// Why nothing is known: the worker ended without an answer. The report is empty then.
    pub unanswered: Option<String>,
}

/// Who reads the disks of a stranger.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Reader {
    /// This process.
    #[default]
    Here,
    /// A process of this program, which is started with [`worker::ARGUMENT`] and must then call [`worker::run`]. It
    /// can open no file and no connection and start no program; its end is no end of ours.
    Worker(PathBuf),
}

impl Reader {
    /// Looks at the disks of one machine and judges its guest; the first disk is the one that it starts from.
    ///
    /// A worker that ends before it has answered, or that does not end, is a judgement [`Verdict::Unknown`] with the
    /// reason, and one of the problems of a report that is empty otherwise.
    ///
    /// # Errors
    /// I/O of the disks; a limit; a worker that cannot be started. What is wrong with the guest is in the report.
    ///
    /// [`Verdict::Unknown`]: crate::rules::Verdict::Unknown
    pub fn look(&self, disks: &[Arc<dyn Disk>], question: &Question) -> Result<Look> {
        match self {
            Self::Here => look(disks, question),
            Self::Worker(program) => worker::look(program, disks, question),
        }
    }
}

/// Answers in this process.
pub(crate) fn look(disks: &[Arc<dyn Disk>], question: &Question) -> Result<Look> {
    let budget = Arc::new(Budget::new(question.limits));
    let examination = examine(disks, &budget, question.depth)?;
    let judged =
        |asked: &Asked| asked.places.iter().map(|place| judge(&examination, place, &asked.options)).collect();
    let judgements = question.asked.iter().map(judged).collect();
    Ok(Look { report: examination.report, judgements, unanswered: None })
}

fn ids<S: Serializer>(places: &[&'static Place], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(places.iter().map(|place| place.id))
}

fn by_id<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<&'static Place>, D::Error> {
    let known = |id: &String| place(id).ok_or_else(|| serde::de::Error::custom(format!("no place {id:?}")));
    Vec::<String>::deserialize(deserializer)?.iter().map(known).collect()
}
