//! The plan of an import: everything that can be known, and refused, before anything is written.

use std::io::Read;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kiln_catalog::{CheckRecord, FindingCount, IfTaken, Job, NameTag, Store, check_description};
use kiln_disk::digest::{Algorithm, Digest, hash_source};
use kiln_disk::{Budget, ByteSource, FileSource, Findings, Limits, Observer, pipeline};
use kiln_format::transfer::spool_input;
use kiln_format::wrap::{Place, Wrapped, unwrap};
use kiln_format::{
    CheckScope, Choice, DenyAll, Facts, Format, Identity, Image, OpenContext, Resolver, Tolerance, check,
    is_wrapped, open_as, raw, select,
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
    pub(crate) content: Content,
    pub(crate) rules: Rules,
    pub(crate) budget: Arc<Budget>,
    pub(crate) request: Wishes,
    pub(crate) facts: PlanFacts,
    pub(crate) started: Instant,
}

/// Where the bytes of the disk come from.
pub(crate) enum Content {
    /// An image that can be read at any place.
    Image(Box<dyn Image>),
    /// A raw disk in wrappers, whose length they tell: decoded as it is stored, without a copy.
    Stream {
        /// The wrappers, still on.
        wrapped: Wrapped,
        /// The length that they tell, in bytes.
        disk_len: u64,
    },
}

/// What an image is judged by.
pub(crate) struct Rules {
    choice: Choice,
    part: Option<String>,
    resolver: Arc<dyn Resolver>,
    pub(crate) on_damage: OnDamage,
    pub(crate) max_disk_bytes: u64,
}

/// An image that passed.
pub(crate) struct Judged {
    pub(crate) image: Box<dyn Image>,
    pub(crate) format: &'static Format,
    pub(crate) findings: Findings,
    pub(crate) forced: bool,
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
            let job = store.begin_job("import", &format!("a pipe to {}", request.name), Vec::new(), None)?;
            let source = spool_input(reader.as_mut(), job.dir(), u64::MAX, observer)?;
            (source, file_name.map(|name| base_name(&name).to_owned()), Some(job))
        }
    };
    let source = Arc::new(source);
    let proving = expected(&request.expect, file_name.as_deref())?;
    let digests = prove(&source, &proving, observer)?;
    let rules = Rules {
        choice: request.choice,
        part: request.part.clone(),
        resolver: request.resolver,
        on_damage: request.on_damage,
        max_disk_bytes: request.max_disk_bytes,
    };
    let budget = Arc::new(Budget::new(request.limits));
    let threads = request.threads.max(1);
    let bytes: Arc<dyn ByteSource> = Arc::<FileSource>::clone(&source);
    let mut facts = PlanFacts {
        file_name,
        byte_len: source.byte_len(),
        wrappers: Vec::new(),
        format: &raw::FORMAT,
        container: Facts::raw(0),
        findings: Findings::default(),
        forced: false,
        proved: proving,
        digests,
        style: request.style,
        took: Duration::ZERO,
    };
    let has_wrappers = rules.choice != Choice::AsRaw && is_wrapped(bytes.as_ref())?;
    // What came through a pipe has been read in full already, and so has what is in wrappers: holes and all.
    let is_dense = job.is_some() || has_wrappers;
    let content = match stream(&bytes, &rules, threads)? {
        Some((wrapped, disk_len)) => {
            facts.wrappers = wrapped.layers();
            facts.container = Facts::raw(disk_len);
            Content::Stream { wrapped, disk_len }
        }
        None => {
            if has_wrappers && job.is_none() {
                let from = facts.file_name.as_deref().unwrap_or("a file");
                let what = format!("{from} to {}", request.name);
                job = Some(store.begin_job("import", &what, Vec::new(), None)?);
            }
            let dir = job.as_ref().map_or(store.path(), Job::dir);
            let place = Place { dir, max_len: rules.max_disk_bytes, threads };
            let (judged, wrappers) = judge_inside(&bytes, &rules, place, &budget, observer)?;
            facts.wrappers = wrappers;
            facts.format = judged.format;
            facts.container = judged.image.facts();
            facts.findings = judged.findings;
            facts.forced = judged.forced;
            Content::Image(judged.image)
        }
    };
    let is_mostly_holes = !is_dense && facts.container.disk_bytes == source.byte_len() && {
        let holes = source.byte_len().saturating_sub(source.allocated_len()?);
        holes > source.allocated_len()?.saturating_add(HASHED_HOLE_BYTES)
    };
    let hash_source =
        facts.digests.is_empty() && (request.source_digest == SourceDigest::Always || !is_mostly_holes);
    facts.took = started.elapsed();
    let wishes = Wishes {
        part: request.part,
        name: request.name,
        if_taken: request.if_taken,
        description: request.description,
        style: request.style,
        threads,
        raw_digest: request.raw_digest,
        hash_source,
        tool: request.tool,
    };
    Ok(Plan { store: store.clone(), job, source, content, rules, budget, request: wishes, facts, started })
}

/// A raw disk in wrappers whose length they tell, when that is what the file is.
fn stream(bytes: &Arc<dyn ByteSource>, rules: &Rules, threads: usize) -> Result<Option<(Wrapped, u64)>> {
    let may_be_raw = match rules.choice {
        Choice::Detect => true,
        Choice::Declared(format) => format == &raw::FORMAT,
        Choice::AsRaw => false,
    };
    if !may_be_raw {
        return Ok(None);
    }
    let Some(wrapped) = Wrapped::open(bytes, threads)? else { return Ok(None) };
    if !matches!(wrapped.identity(), Identity::Raw { .. }) {
        return Ok(None);
    }
    let disk_len = wrapped.claimed_len()?.filter(|len| *len > 0 && *len <= rules.max_disk_bytes);
    Ok(disk_len.map(|disk_len| (wrapped, disk_len)))
}

/// Takes the wrappers off, if there are any, and judges what is inside.
pub(crate) fn judge_inside(
    bytes: &Arc<dyn ByteSource>,
    rules: &Rules,
    place: Place<'_>,
    budget: &Arc<Budget>,
    observer: &dyn Observer,
) -> Result<(Judged, Vec<&'static str>)> {
    let inside = if rules.choice == Choice::AsRaw { None } else { unwrap(bytes, place, observer)? };
    match inside {
        Some(inside) => Ok((judge(inside.source, rules, budget, observer)?, inside.layers)),
        None => Ok((judge(Arc::clone(bytes), rules, budget, observer)?, Vec::new())),
    }
}

/// Opens an image and holds it against the rules.
fn judge(
    bytes: Arc<dyn ByteSource>,
    rules: &Rules,
    budget: &Arc<Budget>,
    observer: &dyn Observer,
) -> Result<Judged> {
    let format = select(bytes.as_ref(), rules.choice)?;
    let context = OpenContext {
        resolver: Arc::clone(&rules.resolver),
        budget: Arc::clone(budget),
        tolerance: match rules.on_damage {
            OnDamage::Refuse => Tolerance::Strict,
            OnDamage::Force => Tolerance::Damaged,
        },
        part: rules.part.clone(),
        ..OpenContext::new()
    };
    let image = open_as(format, Arc::clone(&bytes), &context)?;
    if let Some(appliance) = image.appliance() {
        // Damage is passed over when that is forced, the question which disk is not.
        appliance.choose(context.part.as_deref())?;
    }
    let label = bytes.label().to_owned();
    let disk_bytes = image.disk_len();
    if disk_bytes == 0 {
        return Err(Refusal::Empty { file: label }.into());
    }
    if disk_bytes > rules.max_disk_bytes {
        return Err(Refusal::TooLarge { disk_bytes, allowed: rules.max_disk_bytes }.into());
    }
    let choice = if rules.choice == Choice::AsRaw { Choice::AsRaw } else { Choice::Declared(format) };
    let report = check(bytes, choice, &context, CheckScope::Metadata, observer)?;
    let forced = pass(&report.findings, rules, &label)?;
    Ok(Judged { image, format, findings: report.findings, forced })
}

/// Whether findings that fail are passed over; an error when they may not be.
pub(crate) fn pass(findings: &Findings, rules: &Rules, label: &str) -> Result<bool> {
    let failing = failing_ids(findings);
    if !failing.is_empty() && rules.on_damage == OnDamage::Refuse {
        return Err(Refusal::Findings { file: label.to_owned(), ids: failing }.into());
    }
    Ok(!failing.is_empty())
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
