//! The plan of an import: everything that can be known, and refused, before anything is written.

use std::io::Read;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kiln_catalog::{CheckRecord, FindingCount, IfTaken, Job, NameTag, Store, check_description};
use kiln_disk::digest::{Algorithm, Digest, hash_source};
use kiln_disk::{Budget, ByteSource, FileSource, Findings, Limits, Observer, pipeline};
use kiln_format::transfer::spool_input;
use kiln_format::wrap::{Place, unwrap};
use kiln_format::{
    CheckScope, Choice, DenyAll, Facts, Format, Image, OpenContext, Resolver, Tolerance, check, is_wrapped,
    open_as,
    select,
};

use crate::checksum::{Expect, Expected, base_name, expected};
use crate::error::{Refusal, Result};
use crate::style::LayerStyle;

/// Version of the rules that an import judges by. Grows when a rule does, so that old images can be judged again.
pub const RULE_SET: &str = "1";

/// The largest disk taken by default: 64 TiB.
pub const MAX_DISK_BYTES: u64 = 64 << 40;

/// Holes of a raw file that are hashed unasked, beyond as many bytes as it has data: 1 GiB, half a second of one
/// core.
pub const HASHED_HOLE_BYTES: u64 = 1 << 30;

/// Where the file comes from.
pub enum Input {
    /// A file or a block device.
    File(PathBuf),
    /// A pipe. It is taken into the store's staging area first.
    Stream {
        /// It.
        reader: Box<dyn Read + Send>,
        /// The name to look for in a checksum file, and to record.
        file_name: Option<String>,
    },
}

/// What to do when a check finds damage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnDamage {
    /// Import nothing.
    #[default]
    Refuse,
    /// Import what can be read, and record it.
    Force,
}

/// Which plain digests of the source file to compute.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SourceDigest {
    /// SHA-256 of the file, but not of a raw file that is mostly holes ([`HASHED_HOLE_BYTES`]). SHA-256 skips no
    /// hole and uses one core, so an empty disk of 64 TiB would take ten hours. The content digest is computed in
    /// any case, and for a raw file it is a digest of the file itself.
    #[default]
    Auto,
    /// SHA-256 of whatever comes.
    Always,
}

/// What to import, and how.
pub struct Request {
    /// Where from.
    pub input: Input,
    /// How to read it.
    pub choice: Choice,
    /// Which disk of an appliance; see [`OpenContext::part`].
    pub part: Option<String>,
    /// The image's name.
    pub name: NameTag,
    /// When another image has it.
    pub if_taken: IfTaken,
    /// Free text.
    pub description: String,
    /// What the file's digest must be.
    pub expect: Expect,
    /// The only way to other files: denies by default.
    pub resolver: Arc<dyn Resolver>,
    /// When a check finds damage.
    pub on_damage: OnDamage,
    /// How to store the layer.
    pub style: LayerStyle,
    /// The largest disk to take, in bytes.
    pub max_disk_bytes: u64,
    /// What reading may cost.
    pub limits: Limits,
    /// Threads to use.
    pub threads: usize,
    /// Which digests of the source.
    pub source_digest: SourceDigest,
    /// Also compute the plain SHA-256 of the flat disk.
    pub raw_digest: bool,
    /// The program and its version, for the record: `kiln 0.1.0`.
    pub tool: String,
}

impl Request {
    /// A request with the defaults.
    #[must_use]
    pub fn new(input: Input, name: NameTag) -> Self {
        Self {
            input,
            choice: Choice::Detect,
            part: None,
            name,
            if_taken: IfTaken::Refuse,
            description: String::new(),
            expect: Expect::Nothing,
            resolver: Arc::new(DenyAll),
            on_damage: OnDamage::Refuse,
            style: LayerStyle::default(),
            max_disk_bytes: MAX_DISK_BYTES,
            limits: Limits::STANDARD,
            threads: pipeline::default_threads(),
            source_digest: SourceDigest::Auto,
            raw_digest: false,
            tool: concat!("kiln ", env!("CARGO_PKG_VERSION")).to_owned(),
        }
    }
}

/// An import that was looked at and may be run.
pub struct Plan {
    pub(crate) store: Store,
    /// Made by the plan of a stream, whose bytes are in it.
    pub(crate) job: Option<Job>,
    pub(crate) source: Arc<FileSource>,
    pub(crate) image: Box<dyn Image>,
    pub(crate) budget: Arc<Budget>,
    pub(crate) request: Wishes,
    pub(crate) facts: PlanFacts,
    pub(crate) started: Instant,
}

/// The parts of a request that are needed to run it.
pub(crate) struct Wishes {
    pub(crate) part: Option<String>,
    pub(crate) name: NameTag,
    pub(crate) if_taken: IfTaken,
    pub(crate) description: String,
    pub(crate) style: LayerStyle,
    pub(crate) threads: usize,
    pub(crate) raw_digest: bool,
    pub(crate) hash_source: bool,
    pub(crate) tool: String,
}

/// What a plan knows. Sizes are bytes.
#[derive(Debug, Clone)]
pub struct PlanFacts {
    /// Base name of the file; none for a pipe without one.
    pub file_name: Option<String>,
    /// Length of the file.
    pub byte_len: u64,
    /// Ids of the wrappers around the container, the outermost first.
    pub wrappers: Vec<&'static str>,
    /// Its format.
    pub format: &'static Format,
    /// What its headers say.
    pub container: Facts,
    /// What the check found.
    pub findings: Findings,
    /// Whether a finding that fails was passed over.
    pub forced: bool,
    /// Digests that the file was proved to have, strongest first.
    pub proved: Vec<Expected>,
    /// Digests of the file, SHA-256 first; empty when they are computed later.
    pub digests: Vec<Digest>,
    /// How the layer will be stored.
    pub style: LayerStyle,
    /// Time spent on the checksum and the check.
    pub took: Duration,
}

impl Plan {
    /// What it knows.
    #[must_use]
    pub fn facts(&self) -> &PlanFacts {
        &self.facts
    }
}

/// Looks at what is to be imported: name, checksum, format, damage, size. Through one descriptor, which the import
/// goes on using. With a checksum given, not a byte is interpreted before it is proved.
///
/// # Errors
/// Every refusal of an import. Nothing is written, except that a pipe is taken into staging.
pub fn plan(store: &Store, request: Request, observer: &dyn Observer) -> Result<Plan> {
    let started = Instant::now();
    check_description(&request.description)?;
    if request.if_taken == IfTaken::Refuse {
        store.check_free(&request.name)?;
    }
    let (source, file_name, mut job) = match request.input {
        Input::File(path) => {
            let name = path.file_name().map(|name| name.to_string_lossy().into_owned());
            (FileSource::open(&path)?, name, None)
        }
        Input::Stream { mut reader, file_name } => {
            let job = store.begin()?;
            let source = spool_input(reader.as_mut(), job.dir(), u64::MAX, observer)?;
            (source, file_name.map(|name| base_name(&name).to_owned()), Some(job))
        }
    };
    let source = Arc::new(source);
    let proving = expected(&request.expect, file_name.as_deref())?;
    let digests = prove(&source, &proving, observer)?;
    let mut bytes: Arc<dyn ByteSource> = Arc::<FileSource>::clone(&source);
    let mut wrappers = Vec::new();
    if request.choice != Choice::AsRaw && is_wrapped(bytes.as_ref())? {
        let staging = match job.take() {
            Some(job) => job,
            None => store.begin()?,
        };
        let place =
            Place { dir: staging.dir(), max_len: request.max_disk_bytes, threads: request.threads.max(1) };
        if let Some(inside) = unwrap(&bytes, place, observer)? {
            (bytes, wrappers) = (inside.source, inside.layers);
        }
        job = Some(staging);
    }
    let format = select(bytes.as_ref(), request.choice)?;
    let budget = Arc::new(Budget::new(request.limits));
    let context = OpenContext {
        resolver: Arc::clone(&request.resolver),
        budget: Arc::clone(&budget),
        tolerance: match request.on_damage {
            OnDamage::Refuse => Tolerance::Strict,
            OnDamage::Force => Tolerance::Damaged,
        },
        part: request.part.clone(),
        ..OpenContext::new()
    };
    let image = open_as(format, Arc::clone(&bytes), &context)?;
    if let Some(appliance) = image.appliance() {
        // Damage is passed over when that is forced, the question which disk is not.
        appliance.choose(context.part.as_deref())?;
    }
    let disk_bytes = image.disk_len();
    if disk_bytes == 0 {
        return Err(Refusal::Empty { file: source.label().to_owned() }.into());
    }
    if disk_bytes > request.max_disk_bytes {
        return Err(Refusal::TooLarge { disk_bytes, allowed: request.max_disk_bytes }.into());
    }
    let choice = if request.choice == Choice::AsRaw { Choice::AsRaw } else { Choice::Declared(format) };
    let report = check(bytes, choice, &context, CheckScope::Metadata, observer)?;
    let failing = failing_ids(&report.findings);
    if !failing.is_empty() && request.on_damage == OnDamage::Refuse {
        return Err(Refusal::Findings { file: source.label().to_owned(), ids: failing }.into());
    }
    // What came through a pipe has been read in full already: holes and all.
    let is_mostly_holes = job.is_none() && disk_bytes == source.byte_len() && {
        let holes = source.byte_len().saturating_sub(source.allocated_len()?);
        holes > source.allocated_len()?.saturating_add(HASHED_HOLE_BYTES)
    };
    let hash_source =
        digests.is_empty() && (request.source_digest == SourceDigest::Always || !is_mostly_holes);
    let facts = PlanFacts {
        file_name,
        byte_len: source.byte_len(),
        wrappers,
        format,
        container: image.facts(),
        findings: report.findings,
        forced: !failing.is_empty(),
        proved: proving,
        digests,
        style: request.style,
        took: started.elapsed(),
    };
    let wishes = Wishes {
        part: request.part,
        name: request.name,
        if_taken: request.if_taken,
        description: request.description,
        style: request.style,
        threads: request.threads.max(1),
        raw_digest: request.raw_digest,
        hash_source,
        tool: request.tool,
    };
    Ok(Plan { store: store.clone(), job, source, image, budget, request: wishes, facts, started })
}

/// Computes the digests that were promised, and SHA-256 with them, and compares.
fn prove(source: &FileSource, proving: &[Expected], observer: &dyn Observer) -> Result<Vec<Digest>> {
    if proving.is_empty() {
        return Ok(Vec::new());
    }
    let mut algorithms = vec![Algorithm::Sha256];
    for expected in proving {
        if !algorithms.contains(&expected.digest.algorithm()) {
            algorithms.push(expected.digest.algorithm());
        }
    }
    let digests = hash_source(source, &algorithms, observer)?;
    for expected in proving {
        let found = digests.iter().find(|digest| digest.algorithm() == expected.digest.algorithm());
        match found {
            Some(found) if *found == expected.digest => {}
            found => {
                return Err(Refusal::ChecksumDiffers {
                    file: source.label().to_owned(),
                    expected: expected.digest.clone(),
                    found: found.unwrap_or(&expected.digest).clone(),
                }
                .into());
            }
        }
    }
    Ok(digests)
}

fn failing_ids(findings: &Findings) -> Vec<String> {
    let mut ids: Vec<String> = findings
        .list()
        .iter()
        .filter(|finding| finding.check.severity.fails())
        .map(|finding| finding.check.id.to_owned())
        .collect();
    ids.dedup();
    ids.sort();
    ids.dedup();
    ids
}

/// The manifest's record of a check.
pub(crate) fn check_record(facts: &PlanFacts) -> CheckRecord {
    let mut findings = Vec::new();
    for (id, count) in facts.findings.counts() {
        let severity =
            facts.findings.list().iter().find(|finding| finding.check.id == *id).map(|f| f.check.severity);
        if let Some(severity) = severity {
            findings.push(FindingCount { id: (*id).to_owned(), severity, count: *count });
        }
    }
    CheckRecord {
        rule_set: RULE_SET.to_owned(),
        scope: "metadata".to_owned(),
        forced: facts.forced,
        findings,
    }
}
