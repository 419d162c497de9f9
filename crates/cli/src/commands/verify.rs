//! `kiln verify`: is it intact?

mod deep;
mod expect;
mod image;
mod report;

use std::path::{Path, PathBuf};

use kiln_disk::digest::{
    Algorithm, ContentDigest, Digest, DiskDigests, HashJob, LeafFile, LeafSink, LeafWriter, damaged_blocks,
    differing_ranges, hash_disk, hash_source,
};
use kiln_disk::{Durability, Existing, ExtentKind, FileSource, GuestRange, Limits, StagedFile};
use kiln_format::partitions::Layout;
use kiln_format::{CheckScope, Image, OpenContext, Tolerance};

pub(crate) use self::expect::sha256_of;
use self::expect::{Expected, Verdict};
pub(crate) use self::report::print_ranges;
use self::report::{Against, Report};
use crate::error::{About, Answer, CliError, Result};
use crate::input::{Input, SourceArgs};
use crate::judge::Judgement;
use crate::output::RangeRecord;
use crate::progress::Reporter;
use crate::session::Session;
use crate::subject::Subject;

/// Say whether a disk image is intact, and print its digests
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Three digests are told apart. The content digest names the disk that a guest sees, whatever file
holds it (fsverity digest --hash-alg=sha256 --block-size=65536 disk.raw gives the same). The file
digest is the plain SHA-256 of the file as it is. The raw digest, on request, is the plain SHA-256
of the flat disk, equal to sha256sum disk.raw.

Examples:
  kiln verify disk.qcow2
  kiln verify debian.qcow2 --checksums SHA512SUMS
  kiln verify disk.vhd --against disk.raw
  kiln verify --raw-digest disk.qcow2
  kiln verify --deep disk.vmdk                       # everything is read, everything is decoded
  kiln verify disk.raw --save-leaves disk.leaves     # later: --leaves names the damaged blocks")]
pub(crate) struct Args {
    /// Verify this file or image
    #[arg(value_name = "FILE|IMAGE")]
    subject: PathBuf,
    #[command(flatten)]
    source: SourceArgs,
    /// Read and decode all of it, list everything that is lost, and name the partitions concerned
    #[arg(long)]
    deep: bool,
    /// Compare with the disk in this file or image, whatever its format
    #[arg(long, value_name = "OTHER")]
    against: Option<PathBuf>,
    /// Require this SHA-256 of the file as it is
    #[arg(long, value_name = "HEX")]
    sha256: Option<String>,
    /// Require the checksum that this file lists for it (as sha256sum, sha512sum, md5sum write)
    #[arg(long, value_name = "FILE|URL")]
    checksums: Option<PathBuf>,
    /// Trust the servers' certificates in this PEM file, and no others [default: Mozilla's list]
    #[arg(long, value_name = "FILE", requires = "checksums")]
    ca_file: Option<PathBuf>,
    /// Require this content digest
    #[arg(long, value_name = "DIGEST")]
    content_digest: Option<ContentDigest>,
    /// Print the SHA-256 of the flat disk as well
    #[arg(long)]
    raw_digest: bool,
    /// Of an image of the store, read only part N of M of its disk
    #[arg(long, value_name = "N/M", value_parser = crate::size::parse_part, conflicts_with = "raw_digest")]
    subset: Option<kiln_disk::digest::Part>,
    /// Leave out the digest of the file as it is, unless it is compared
    #[arg(long)]
    content_only: bool,
    /// Compare 64 KiB blocks with this list and name those that differ
    #[arg(long, value_name = "FILE")]
    leaves: Option<PathBuf>,
    /// Write the list of 64 KiB block digests to this new file
    #[arg(long, value_name = "FILE")]
    save_leaves: Option<PathBuf>,
    /// Require that the image is signed by a trusted key (kiln key, kiln sign)
    #[arg(long)]
    require_signature: bool,
    /// Use this many threads [default: all]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    threads: Option<u16>,
}

pub(crate) fn run(args: &Args, session: &mut Session) -> Result<Answer> {
    let expected = Expected::of(args)?;
    let other = match &args.against {
        Some(word) => Some(open_other(word, args, session)?),
        None => None,
    };
    let report = match Subject::resolve(&args.subject, session)? {
        Subject::Image(image) => image::verify(args, &image, &expected, other.as_ref(), session)?,
        Subject::File(_) if args.require_signature => {
            return Err(CliError::usage(
                "usage.not-for-files",
                "--require-signature is about an image of the store, and this is a file",
                "import it with --sign KEY, or verify the vendor's signature: kiln import --signature",
            ));
        }
        file @ Subject::File(_) => {
            let (mut input, _) = file.open(&args.source, session)?;
            if args.deep {
                deep::verify(args, &mut input, &expected, other.as_ref(), &session.reporter)?
            } else {
                verify_file(args, &mut input, &expected, other.as_ref(), &session.reporter)?
            }
        }
    };
    session.reporter.clear();
    let answer = if report.intact() { Answer::Yes } else { Answer::No };
    report.print(&mut session.printer)?;
    Ok(answer)
}

/// The other side of a comparison, open.
struct Other {
    input: Input,
    image: Box<dyn Image>,
}

fn open_other(word: &Path, args: &Args, session: &Session) -> Result<Other> {
    let own = SourceArgs { allow_backing: args.source.allow_backing.clone(), ..SourceArgs::default() };
    let (mut input, own) = Subject::resolve(word, session)?.open(&own, session)?;
    input.unwrap(&own, None, &session.reporter).about(&input.label)?;
    let image = input.image(&own, &input.context(&own, Tolerance::Strict, Limits::STANDARD)?)?;
    Ok(Other { input, image })
}

fn verify_file(
    args: &Args,
    input: &mut Input,
    expected: &Expected,
    other: Option<&Other>,
    reporter: &Reporter,
) -> Result<Report> {
    let transport = transport_digests(args, input, expected, reporter)?;
    let opened = input.unwrap(&args.source, None, reporter);
    let context = input.context(&args.source, Tolerance::Damaged, Limits::STANDARD)?;
    let mut judgement = match opened {
        Ok(()) => Judgement::of(input, &args.source, &context, CheckScope::Metadata, reporter)?,
        Err(error) => Judgement::of_error(error).about(&input.label)?,
    };
    let digests = if judgement.fails() {
        None
    } else {
        match hash_file(args, input, reporter)? {
            Ok(digests) => Some(digests),
            Err(error) => {
                judgement.absorb(error).about(&input.label)?;
                let whole = Judgement::of(input, &args.source, &context, CheckScope::Data, reporter)?;
                judgement = whole.or_keep(judgement);
                None
            }
        }
    };
    finish(args, input, expected, other, Found { judgement, digests, transport, unreadable: None }, reporter)
}

/// What was found out about a file, before it is compared with anything.
struct Found {
    judgement: Judgement,
    digests: Option<DiskDigests>,
    transport: Vec<Digest>,
    /// Parts that cannot be read; only a deep look knows them.
    unreadable: Option<Vec<GuestRange>>,
}

/// Compares what was found with what was expected, and with the other disk.
fn finish(
    args: &Args,
    input: &Input,
    expected: &Expected,
    other: Option<&Other>,
    found: Found,
    reporter: &Reporter,
) -> Result<Report> {
    let Found { judgement, digests, transport, unreadable } = found;
    let context = input.context(&args.source, Tolerance::Damaged, Limits::STANDARD)?;
    input.file.confirm_unchanged()?;
    let mut verdicts = expected.judge(&transport, digests.as_ref());
    let mut damaged = Vec::new();
    if let Some(leaves) = &expected.leaves {
        let same = digests.as_ref().is_some_and(|digests| digests.content == leaves.content());
        verdicts.push(Verdict {
            what: "content",
            given_by: leaves_name(args),
            expected: leaves.content().to_string(),
            found: digests.as_ref().map(|digests| digests.content.to_string()),
        });
        if !same {
            damaged = damage(args, input, leaves, &context, reporter)?;
        }
    }
    let against = match other {
        Some(other) => {
            let mine = || {
                input.image(&args.source, &input.context(&args.source, Tolerance::Strict, Limits::STANDARD)?)
            };
            Some(compare(args, digests.as_ref().map(|digests| digests.content), mine, other, reporter)?)
        }
        None => None,
    };
    Ok(Report {
        path: input.label.clone(),
        image: None,
        file_bytes: kiln_disk::ByteSource::byte_len(input.file.as_ref()),
        disk_bytes: judgement.facts.as_ref().map(|facts| facts.disk_bytes),
        judgement,
        unreadable,
        content: digests.as_ref().map(|digests| digests.content),
        data_bytes: digests.as_ref().map(|digests| digests.data_bytes),
        raw: digests.and_then(|digests| digests.raw),
        transport,
        verdicts,
        damaged,
        against,
        signatures: Vec::new(),
        require_signature: false,
    })
}

fn leaves_name(args: &Args) -> String {
    format!("--leaves {}", args.leaves.as_deref().unwrap_or(Path::new("")).display())
}

/// Algorithms for the file as it is: SHA-256, and what else is compared.
fn transport_algorithms(args: &Args, expected: &Expected) -> Vec<Algorithm> {
    let mut algorithms = expected.transport_algorithms();
    if !args.content_only && !algorithms.contains(&Algorithm::Sha256) {
        algorithms.insert(0, Algorithm::Sha256);
    }
    algorithms
}

/// Digests of the file as it is.
fn transport_digests(
    args: &Args,
    input: &Input,
    expected: &Expected,
    reporter: &Reporter,
) -> Result<Vec<Digest>> {
    let algorithms = transport_algorithms(args, expected);
    if algorithms.is_empty() {
        return Ok(Vec::new());
    }
    hash_source(input.file.as_ref(), &algorithms, reporter).about(&input.label)
}

/// The digests of the disk; the inner result is what the library said of the file.
fn hash_file(
    args: &Args,
    input: &Input,
    reporter: &Reporter,
) -> Result<std::result::Result<DiskDigests, kiln_disk::Error>> {
    let context = input.context(&args.source, Tolerance::Strict, Limits::STANDARD)?;
    let image = match kiln_format::open(input.source(), args.source.choice()?, &context) {
        Ok(image) => image,
        Err(error) => return Ok(Err(error)),
    };
    let Some(path) = &args.save_leaves else {
        return Ok(hash_disk(image.as_ref(), job(args, None), reporter));
    };
    let staged = StagedFile::beside(path)?;
    let out = staged
        .file()
        .try_clone()
        .map_err(|source| CliError::from(kiln_disk::Error::io("open", path.display().to_string(), source)))?;
    let mut writer = LeafWriter::new(std::io::BufWriter::new(out), image.disk_len())?;
    match hash_disk(image.as_ref(), job(args, Some(&mut writer)), reporter) {
        Ok(digests) => {
            writer.finish(&digests.content)?;
            staged.commit(Existing::Keep, Durability::Synced)?;
            Ok(Ok(digests))
        }
        Err(error) => Ok(Err(error)),
    }
}

fn job<'a>(args: &Args, leaves: Option<&'a mut dyn LeafSink>) -> HashJob<'a> {
    let threads = args.threads.map_or_else(kiln_disk::pipeline::default_threads, usize::from);
    HashJob { threads, leaves, raw: args.raw_digest }
}

/// The blocks that differ from the list. A file that cannot even be opened has no blocks to name: all of it is bad.
fn damage(
    args: &Args,
    input: &Input,
    leaves: &LeafFile,
    context: &OpenContext,
    reporter: &Reporter,
) -> Result<Vec<RangeRecord>> {
    match kiln_format::open(input.source(), args.source.choice()?, context) {
        Ok(image) => {
            let ranges = damaged_blocks(image.as_ref(), leaves, reporter).about(&input.label)?;
            let layout = if ranges.is_empty() { None } else { Some(Layout::read(image.as_ref())?) };
            Ok(ranges.into_iter().map(|range| placed(image.as_ref(), range, layout.as_ref())).collect())
        }
        Err(kiln_disk::Error::Io { operation, target, at, source }) => {
            Err(kiln_disk::Error::Io { operation, target, at, source }.into())
        }
        Err(_) => Ok(vec![GuestRange { start: kiln_disk::GuestOffset::ZERO, len: leaves.disk_len() }.into()]),
    }
}

/// A range with its place in the file and on the disk.
fn placed(image: &dyn Image, range: GuestRange, layout: Option<&Layout>) -> RangeRecord {
    let extent = image.extent_at(range.start, std::num::NonZeroU64::MIN);
    let offset_bytes = match extent.map(|extent| extent.kind) {
        Ok(ExtentKind::Data { file: 0, at }) => Some(at.get()),
        _ => None,
    };
    RangeRecord { offset_bytes, ..RangeRecord::placed(range, layout) }
}

/// Compares the disk with the other one; `mine` opens it again, only where the digests differ.
fn compare(
    args: &Args,
    content: Option<ContentDigest>,
    mine: impl FnOnce() -> Result<Box<dyn Image>>,
    other: &Other,
    reporter: &Reporter,
) -> Result<Against> {
    let Other { input, image } = other;
    let found =
        hash_disk(image.as_ref(), HashJob { raw: false, ..job(args, None) }, reporter).about(&input.label)?;
    let mut against = Against {
        path: input.label.clone(),
        format: image.format().id,
        disk_bytes: image.disk_len(),
        content: found.content,
        same: content == Some(found.content),
        differing: Vec::new(),
    };
    if !against.same && content.is_some() {
        let mine = mine()?;
        let layout = Layout::read(mine.as_ref())?;
        let ranges = differing_ranges(mine.as_ref(), image.as_ref(), reporter)?;
        against.differing =
            ranges.into_iter().map(|range| RangeRecord::placed(range, Some(&layout))).collect();
    }
    input.file.confirm_unchanged()?;
    Ok(against)
}

/// Reads a list of block digests.
fn read_leaves(path: &Path) -> Result<LeafFile> {
    let source = FileSource::open(path)?;
    LeafFile::read(&source).about(&path.display().to_string())
}
