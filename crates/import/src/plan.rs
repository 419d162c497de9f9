//! The plan of an import: everything that can be known, and refused, before anything is written.

use std::io::Read;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use kiln_catalog::{
    CheckRecord, FindingCount, IfTaken, Job, NameTag, PrivateKey, Resume, SignerRecord, Store,
    check_description,
};
use kiln_disk::digest::{Algorithm, Digest, hash_source};
use kiln_disk::{Budget, ByteSource, Error as DiskError, FileSource, Findings, Limits, Observer, pipeline};
use kiln_format::wrap::{Place, Wrapped, unwrap};
use kiln_format::{
    CheckScope, Choice, DenyAll, Facts, Format, Image, OpenContext, Resolver, Scratch, Tolerance, check,
    is_wrapped, open_as, raw, select, whole_sectors,
};

use crate::arrival::{Arrival, Decodable, Passage, Way, by_tables, decodable};
use crate::checksum::{Expect, Expected, base_name};
use crate::error::{Error, Refusal, Result};
use crate::evidence::Evidence;
use crate::fetch::{FetchError, FetchOptions, FetchProblem, Url, shown_url};
use crate::guest::{Guest, GuestPolicy};
use crate::signature::SignatureWish;
use crate::tap::Tap;
use kiln_format::layer::LayerStyle;
use kiln_guest::Judgement;

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
    /// A pipe.
    Stream {
        /// It. Should answer `Interrupted` now and then while nothing comes, so that a wish to stop is heard.
        reader: Box<dyn Read + Send>,
        /// The name to look for in a checksum file, and to record.
        file_name: Option<String>,
        /// Its length in bytes, when somebody knows it.
        byte_len: Option<u64>,
    },
    /// A file on a http or https server.
    Url {
        /// Where.
        url: String,
        /// The name to look for in a checksum file, and to record, when it is not the URL's.
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
    /// A signature that must be good: over the list in `expect`, or over the file when there is no list.
    pub signature: Option<SignatureWish>,
    /// Take a file from a https server although nothing proves it.
    pub unproved: bool,
    /// How to talk to servers.
    pub fetch: FetchOptions,
    /// Keep what comes from a pipe in a file first, even if it could be decoded as it comes.
    pub spool: bool,
    /// Signs the image's record.
    pub signer: Option<PrivateKey>,
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
    /// Where its guest must start.
    pub guest: GuestPolicy,
    /// The program and its version, for the record: `kiln 0.1.0`.
    pub tool: String,
    /// How another process can go on when this one dies; none when it cannot.
    pub resume: Option<Resume>,
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
            signature: None,
            unproved: false,
            fetch: FetchOptions::default(),
            spool: false,
            signer: None,
            resolver: Arc::new(DenyAll),
            on_damage: OnDamage::Refuse,
            style: LayerStyle::default(),
            max_disk_bytes: MAX_DISK_BYTES,
            limits: Limits::STANDARD,
            threads: pipeline::default_threads(),
            source_digest: SourceDigest::Auto,
            raw_digest: false,
            guest: GuestPolicy::default(),
            tool: concat!("kiln ", env!("CARGO_PKG_VERSION")).to_owned(),
            resume: None,
        }
    }

    /// What is being imported, for people who look at running work.
    fn title(&self) -> String {
        let from = match &self.input {
            Input::File(path) => path.display().to_string(),
            Input::Stream { file_name, .. } => file_name.clone().unwrap_or_else(|| "a pipe".to_owned()),
            Input::Url { url, .. } => shown_url(url),
        };
        format!("{from} to {}", self.name)
    }
}

/// An import that was looked at and may be run.
pub struct Plan {
    /// What other processes see of it, and where it keeps what it makes.
    pub(crate) job: Job,
    /// The file, where it can be read at any place.
    pub(crate) source: Option<Arc<FileSource>>,
    /// The file on its way, or the download that it came by.
    pub(crate) arrival: Option<Arrival>,
    pub(crate) signer: Option<SignerRecord>,
    pub(crate) key: Option<PrivateKey>,
    pub(crate) content: Content,
    /// What is known of the guest already.
    pub(crate) guest: Option<Guest>,
    pub(crate) rules: Rules,
    pub(crate) budget: Arc<Budget>,
    pub(crate) request: Wishes,
    pub(crate) facts: PlanFacts,
    pub(crate) started: Instant,
}

/// Where the bytes of the disk come from.
pub(crate) enum Content {
    /// An image that can be read at any place.
    Image(Arc<dyn Image>),
    /// A disk that is decoded as it is stored, without a copy.
    Stream {
        /// The wrappers, still on.
        wrapped: Wrapped,
        /// The length of the disk that they tell, in bytes; its last sector may be incomplete.
        disk_len: u64,
    },
}

/// What an image is judged by.
pub(crate) struct Rules {
    pub(crate) choice: Choice,
    pub(crate) part: Option<String>,
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
    pub(crate) guest: GuestPolicy,
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
    /// Digests that the file was proved to have, strongest first. Of a file that is decoded as it comes: that it will
    /// be proved to have before the image is shown.
    pub proved: Vec<Expected>,
    /// How the bytes go into the store.
    pub passage: Passage,
    /// Digests of the file, SHA-256 first; empty when they are computed later.
    pub digests: Vec<Digest>,
    /// Where the guest will start, of the places that were named. Of a disk that is decoded as it is stored, this is
    /// known when it is stored.
    pub guest: Vec<Judgement>,
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

/// Looks at what is to be imported: name, checksum, format, damage, size, and the guest where places are named. Of a file on this machine through one
/// descriptor, which the import goes on using; with a checksum given, not a byte of it is interpreted before it is
/// proved. What comes from a pipe or a server is proved on its way, and at the end before anything is published.
///
/// # Errors
/// Every refusal of an import. Nothing is written but in staging.
pub fn plan(store: &Store, request: Request, observer: &dyn Observer) -> Result<Plan> {
    let started = Instant::now();
    check_description(&request.description)?;
    if request.if_taken == IfTaken::Refuse {
        store.check_free(&request.name)?;
    }
    let job = store.begin_job("import", &request.title(), Vec::new(), request.resume.clone())?;
    let watched = job.watched(observer);
    let observer: &dyn Observer = &watched;
    let rules = Rules {
        choice: request.choice,
        part: request.part.clone(),
        resolver: Arc::clone(&request.resolver),
        on_damage: request.on_damage,
        max_disk_bytes: request.max_disk_bytes,
    };
    let (expect, wish, fetch) = (&request.expect, request.signature.as_ref(), &request.fetch);
    let gather = |name: Option<&str>| Evidence::gather(store, expect, wish, name, fetch);
    let threads = request.threads.max(1);
    let mut draft = Drafting {
        rules,
        budget: Arc::new(Budget::new(request.limits)),
        threads,
        observer,
        job,
        facts: PlanFacts {
            file_name: None,
            byte_len: 0,
            wrappers: Vec::new(),
            format: &raw::FORMAT,
            container: Facts::raw(0),
            findings: Findings::default(),
            forced: false,
            proved: Vec::new(),
            passage: Passage { one_pass: true, ..Passage::default() },
            digests: Vec::new(),
            guest: Vec::new(),
            style: request.style,
            took: Duration::ZERO,
        },
    };
    let mut evidence;
    let mut arrival = None;
    let (source, content) = match request.input {
        Input::File(path) => {
            draft.facts.file_name = path.file_name().map(|name| name.to_string_lossy().into_owned());
            let source = Arc::new(FileSource::open(&path)?);
            evidence = gather(draft.facts.file_name.as_deref())?;
            draft.facts.proved = std::mem::take(&mut evidence.expected);
            draft.facts.digests = prove(&source, &draft.facts.proved, observer)?;
            let content = draft.file(&source, &mut evidence)?;
            (Some(source), content)
        }
        Input::Stream { reader, file_name, byte_len } => {
            draft.facts.file_name = file_name.map(|name| base_name(&name).to_owned());
            evidence = gather(draft.facts.file_name.as_deref())?;
            let mut coming = Arrival::pipe(reader, byte_len, &evidence)?;
            let taken = draft.arriving(&mut coming, &mut evidence, request.spool)?;
            arrival = Some(coming);
            taken
        }
        Input::Url { url, file_name } => {
            let url = Url::parse(&url)?;
            draft.facts.file_name =
                file_name.map(|name| base_name(&name).to_owned()).or_else(|| url.file_name());
            evidence = gather(draft.facts.file_name.as_deref())?;
            may_fetch(&url, &evidence, request.unproved)?;
            let max = draft.rules.max_disk_bytes;
            let mut coming = Arrival::download(store, &url, &request.fetch, &evidence, max)?;
            let taken = draft.arriving(&mut coming, &mut evidence, request.spool)?;
            arrival = Some(coming);
            taken
        }
    };
    let Drafting { rules, budget, job, mut facts, .. } = draft;
    let is_mostly_holes = match &source {
        // What came from elsewhere has been read in full already, and so has what is in wrappers: holes and all.
        Some(source) if arrival.is_none() && facts.wrappers.is_empty() => {
            let holes = source.byte_len().saturating_sub(source.allocated_len()?);
            facts.container.disk_bytes == whole_sectors(source.byte_len())
                && holes > source.allocated_len()?.saturating_add(HASHED_HOLE_BYTES)
        }
        _ => false,
    };
    let hash_source = arrival.is_none()
        && facts.digests.is_empty()
        && (request.source_digest == SourceDigest::Always || !is_mostly_holes);
    // A guest that is refused should be refused before its disk is copied, where that can be.
    let guest = match &content {
        Content::Image(image) if !request.guest.places.is_empty() => {
            let guest = request.guest.admit(Arc::<dyn Image>::clone(image))?;
            facts.guest.clone_from(&guest.judgements);
            Some(guest)
        }
        Content::Image(_) | Content::Stream { .. } => None,
    };
    facts.took = started.elapsed();
    let wishes = Wishes {
        part: request.part,
        name: request.name,
        if_taken: request.if_taken,
        description: request.description,
        style: request.style,
        threads,
        raw_digest: request.raw_digest,
        guest: request.guest,
        hash_source,
        tool: request.tool,
    };
    Ok(Plan {
        job,
        source,
        arrival,
        signer: evidence.signer,
        key: request.signer,
        content,
        guest,
        rules,
        budget,
        request: wishes,
        facts,
        started,
    })
}

/// Whether a file may be fetched with this much to prove it.
fn may_fetch(url: &Url, evidence: &Evidence, unproved: bool) -> Result<()> {
    let problem = match (evidence.proves(), url.is_https(), unproved) {
        (true, ..) | (false, true, true) => return Ok(()),
        (false, true, false) => FetchProblem::Unproved,
        (false, false, _) => FetchProblem::Plain,
    };
    Err(FetchError { url: url.shown(), problem }.into())
}

/// A plan in the making.
struct Drafting<'a> {
    rules: Rules,
    budget: Arc<Budget>,
    threads: usize,
    observer: &'a dyn Observer,
    job: Job,
    facts: PlanFacts,
}

impl Drafting<'_> {
    /// A file that can be read at any place.
    fn file(&mut self, source: &Arc<FileSource>, evidence: &mut Evidence) -> Result<Content> {
        let bytes: Arc<dyn ByteSource> = Arc::<FileSource>::clone(source);
        self.facts.byte_len = bytes.byte_len();
        let has_wrappers = self.rules.choice != Choice::AsRaw && is_wrapped(bytes.as_ref())?;
        let what = self.facts.file_name.as_deref().unwrap_or("the file");
        evidence.verify_file(what, source, &self.job)?;
        let mut why = None;
        if has_wrappers && let Some(wrapped) = Wrapped::open(&bytes, self.threads)? {
            match decodable(wrapped, &self.rules)? {
                Ok(Decodable { wrapped, facts }) => return Ok(self.stream(wrapped, facts)),
                Err(reason) => why = Some(reason),
            }
        }
        let place = Place { dir: self.job.dir(), max_len: self.rules.max_disk_bytes, threads: self.threads };
        let (judged, inside) = judge_inside(&bytes, &self.rules, place, &self.budget, self.observer)?;
        self.facts.judged(&judged, &inside, why);
        Ok(Content::Image(Arc::from(judged.image)))
    }

    fn stream(&mut self, wrapped: Wrapped, facts: Facts) -> Content {
        let disk_len = facts.disk_bytes;
        let facts = Facts { disk_bytes: whole_sectors(disk_len), ..facts };
        self.facts.wrappers = wrapped.layers();
        self.facts.format = kiln_format::by_name(facts.format).unwrap_or(&raw::FORMAT);
        self.facts.container = facts;
        Content::Stream { wrapped, disk_len }
    }

    /// A file that comes once.
    fn arriving(
        &mut self,
        coming: &mut Arrival,
        evidence: &mut Evidence,
        spool: bool,
    ) -> Result<(Option<Arc<FileSource>>, Content)> {
        let tap = coming.tap.clone();
        let taken = tap.watched(self.observer, || self.take(coming, evidence, spool));
        if taken.is_err() {
            tap.stop();
        }
        taken.map_err(|error| {
            let error = coming.error(error);
            coming.give_up(&error);
            error
        })
    }

    fn take(
        &mut self,
        coming: &Arrival,
        evidence: &mut Evidence,
        spool: bool,
    ) -> Result<(Option<Arc<FileSource>>, Content)> {
        let why = match coming.way(&self.rules, evidence, self.threads) {
            Ok(Way::Decode(decodable)) if !spool => {
                let Decodable { wrapped, facts } = *decodable;
                coming.tap.forget();
                self.facts.proved = std::mem::take(&mut evidence.expected);
                return Ok((None, self.stream(wrapped, facts)));
            }
            Ok(Way::Decode(_)) => "it was asked for (--spool)".to_owned(),
            Ok(Way::Keep(why)) => why,
            Err(error) => {
                // A file that is not the promised one is that, whatever its bytes look like.
                if !evidence.expected.is_empty() && !matches!(error, Error::Disk(DiskError::Cancelled)) {
                    coming.tap.drain(self.observer)?;
                    compare(&coming.label, &coming.tap, &evidence.expected)?;
                }
                return Err(error);
            }
        };
        let landed = coming.land(&self.job, self.observer)?;
        self.facts.passage.one_pass = false;
        self.facts.passage.reason = Some(why);
        self.facts.passage.scratch_bytes = landed.spooled;
        self.facts.proved = std::mem::take(&mut evidence.expected);
        compare(&coming.label, &coming.tap, &self.facts.proved)?;
        self.facts.digests = landed.digests;
        let content = self.file(&landed.source, evidence)?;
        Ok((Some(landed.source), content))
    }
}

/// Compares the digests of a file that went by with those that it must have.
pub(crate) fn compare(label: &str, tap: &Tap, proving: &[Expected]) -> Result<()> {
    let (_, digests) = tap.digests().ok_or(DiskError::Cancelled)?;
    hold_against(label, &digests, proving)
}

impl PlanFacts {
    /// Takes note of an image that can be read at any place.
    pub(crate) fn judged(&mut self, judged: &Judged, inside: &Inside, why: Option<String>) {
        self.wrappers.clone_from(&inside.wrappers);
        self.format = judged.format;
        self.container = judged.image.facts();
        self.findings = judged.findings.clone();
        self.forced = judged.forced;
        if let Some(bytes) = inside.scratch_bytes {
            let reason = why.unwrap_or_else(|| by_tables(judged.format));
            self.passage.spooled(bytes, reason);
        }
        if inside.packed_bytes > 0 {
            self.passage.spooled(inside.packed_bytes, "the disk in it is compressed by itself");
        }
    }
}

/// What was around an image.
pub(crate) struct Inside {
    pub(crate) wrappers: Vec<&'static str>,
    /// Length of the temporary file that it was unpacked into.
    pub(crate) scratch_bytes: Option<u64>,
    /// Bytes of a part of it that was compressed by itself.
    pub(crate) packed_bytes: u64,
}

/// Takes the wrappers off, if there are any, and judges what is inside.
pub(crate) fn judge_inside(
    bytes: &Arc<dyn ByteSource>,
    rules: &Rules,
    place: Place<'_>,
    budget: &Arc<Budget>,
    observer: &dyn Observer,
) -> Result<(Judged, Inside)> {
    let inside = if rules.choice == Choice::AsRaw { None } else { unwrap(bytes, place, observer)? };
    match inside {
        Some(inside) => {
            let scratch_bytes = Some(inside.source.byte_len());
            let (judged, packed_bytes) = judge(inside.source, rules, place, budget, observer)?;
            Ok((judged, Inside { wrappers: inside.layers, scratch_bytes, packed_bytes }))
        }
        None => {
            let (judged, packed_bytes) = judge(Arc::clone(bytes), rules, place, budget, observer)?;
            Ok((judged, Inside { wrappers: Vec::new(), scratch_bytes: None, packed_bytes }))
        }
    }
}

/// Opens an image and holds it against the rules; answers also how many bytes of it had to be unpacked for that.
fn judge(
    bytes: Arc<dyn ByteSource>,
    rules: &Rules,
    place: Place<'_>,
    budget: &Arc<Budget>,
    observer: &dyn Observer,
) -> Result<(Judged, u64)> {
    let format = select(bytes.as_ref(), rules.choice)?;
    let stop = Arc::new(AtomicBool::new(false));
    let scratch = Arc::new(Scratch::new(place.dir.to_owned(), place.max_len, place.threads, stop));
    let context = OpenContext {
        resolver: Arc::clone(&rules.resolver),
        budget: Arc::clone(budget),
        tolerance: match rules.on_damage {
            OnDamage::Refuse => Tolerance::Strict,
            OnDamage::Force => Tolerance::Damaged,
        },
        part: rules.part.clone(),
        scratch: Some(Arc::clone(&scratch)),
        ..OpenContext::new()
    };
    let image = scratch.watched(observer, || open_as(format, Arc::clone(&bytes), &context))?;
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
    Ok((Judged { image, format, findings: report.findings, forced }, scratch.bytes()))
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
    hold_against(source.label(), &digests, proving)?;
    Ok(digests)
}

/// Compares digests with those that a file must have.
fn hold_against(label: &str, digests: &[Digest], proving: &[Expected]) -> Result<()> {
    for expected in proving {
        let found = digests.iter().find(|digest| digest.algorithm() == expected.digest.algorithm());
        match found {
            Some(found) if *found == expected.digest => {}
            found => {
                return Err(Refusal::ChecksumDiffers {
                    file: label.to_owned(),
                    expected: expected.digest.clone(),
                    found: found.unwrap_or(&expected.digest).clone(),
                }
                .into());
            }
        }
    }
    Ok(())
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
