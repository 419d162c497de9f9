//! Verifying an image of the store: its manifest, the bytes of its layers, every block of its disk.

use kiln_disk::Limits;
use kiln_disk::digest::{HashJob, hash_disk};
use kiln_format::Tolerance;

use super::super::key;
use super::expect::{Expected, Verdict};
use super::report::Report;
use super::{Args, Other, compare};
use crate::error::{CliError, Result};
use crate::input::SourceArgs;
use crate::judge::Judgement;
use crate::output::RangeRecord;
use crate::session::Session;
use crate::subject::{StoredImage, Subject};

pub(super) fn verify(
    args: &Args,
    stored: &StoredImage,
    expected: &Expected,
    other: Option<&Other>,
    session: &Session,
) -> Result<Report> {
    refuse_words_about_files(args)?;
    let manifest = &stored.manifest;
    stored.permit(kiln_catalog::Action::Verify)?;
    let found = match args.subset {
        Some(part) => kiln_import::verify_part(&stored.store, manifest, part, &session.reporter)?,
        None => kiln_import::verify_image(&stored.store, manifest, &session.reporter)?,
    };
    if args.subset.is_none() || !found.intact() {
        // A store that cannot be written to is verified all the same.
        let _ = stored.store.note_verified(&manifest.id, found.intact());
    }
    let mut judgement = Judgement::from_findings(&found.findings);
    let subject = Subject::Image(Box::new(stored.clone()));
    let open = || {
        let (input, own) = subject.open(&SourceArgs::default(), session)?;
        input.image(&own, &input.context(&own, Tolerance::Strict, Limits::STANDARD)?)
    };
    let mut layout = None;
    let mut unreadable = None;
    if args.deep || !found.damaged.is_empty() {
        layout = open().ok().and_then(|image| kiln_format::partitions::Layout::read(image.as_ref()).ok());
    }
    if args.deep {
        let (input, own) = subject.open(&SourceArgs::default(), session)?;
        let context = input.context(&own, Tolerance::Damaged, Limits::STANDARD)?;
        let job = kiln_format::deep::DeepJob::default();
        let file = input.file.as_ref();
        let report = if manifest.layers.len() > 1 {
            kiln_format::deep::verify_image(open()?.as_ref(), job, &session.reporter)?
        } else {
            kiln_format::deep::verify(file, input.source(), own.choice()?, &context, job, &session.reporter)?
        };
        unreadable = Some(report.unreadable);
        judgement = Judgement::of_report(report.check);
        judgement.add(&found.findings);
    }
    let raw = if args.raw_digest && found.content.is_some() {
        let job = HashJob { raw: true, ..HashJob::default() };
        hash_disk(open()?.as_ref(), job, &session.reporter)?.raw
    } else {
        None
    };
    let mut verdicts = expected.judge_content(found.content);
    if let (Some(recorded), Some(raw)) = (&manifest.digests.raw, &raw) {
        verdicts.push(Verdict {
            what: "raw",
            given_by: "the image's record".to_owned(),
            expected: recorded.to_string(),
            found: Some(raw.to_string()),
        });
    }
    let against = match other {
        Some(other) => Some(compare(args, found.content, open, other, &session.reporter)?),
        None => None,
    };
    Ok(Report {
        path: manifest.title(),
        image: Some(manifest.id.clone()),
        file_bytes: manifest.stored_bytes(),
        disk_bytes: Some(manifest.disk_bytes),
        judgement,
        content: found.content,
        raw,
        data_bytes: None,
        transport: Vec::new(),
        verdicts,
        damaged: found.damaged.iter().map(|range| RangeRecord::placed(*range, layout.as_ref())).collect(),
        unreadable,
        against,
        // Damage of their file is a finding already.
        signatures: match key::signatures(&stored.store, manifest) {
            Err(error) if matches!(error.code(), "store.signatures.damaged" | "store.signatures.version") => {
                Vec::new()
            }
            other => other?,
        },
        require_signature: args.require_signature,
    })
}

/// The store has its own list of blocks, and a stored image is no longer the file that was received.
fn refuse_words_about_files(args: &Args) -> Result<()> {
    let given = [
        ("--sha256", args.sha256.is_some()),
        ("--checksums", args.checksums.is_some()),
        ("--leaves", args.leaves.is_some()),
        ("--save-leaves", args.save_leaves.is_some()),
        ("--format", args.source.format.is_some()),
        ("--as", args.source.as_raw.is_some()),
    ];
    match given.iter().find(|(_, given)| *given) {
        None => Ok(()),
        Some((word, _)) => Err(CliError::usage(
            "usage.not-for-images",
            format!("{word} is about a file, and this is an image of the store"),
            "kiln show prints the digests of the file that the image came from",
        )),
    }
}
