//! `kiln verify --deep`: one look at everything.

use kiln_disk::digest::LeafWriter;
use kiln_disk::{Durability, Existing, Limits, StagedFile};
use kiln_format::Tolerance;
use kiln_format::deep::{DeepJob, DeepReport, verify as look};

use super::expect::Expected;
use super::report::Report;
use super::{Args, Found, Other, finish, transport_algorithms, transport_digests};
use crate::error::{About, CliError, Result};
use crate::input::Input;
use crate::judge::Judgement;
use crate::progress::Reporter;

/// Verifies a file.
pub(super) fn verify(
    args: &Args,
    input: &mut Input,
    expected: &Expected,
    other: Option<&Other>,
    reporter: &Reporter,
) -> Result<Report> {
    let looked = match input.unwrap(&args.source, None, reporter) {
        Ok(()) => deep(args, input, expected, reporter)?,
        Err(error) => Err(error),
    };
    let found = match looked {
        Ok(report) => Found {
            judgement: Judgement::of_report(report.check),
            digests: report.digests,
            transport: report.transport,
            unreadable: Some(report.unreadable),
        },
        // The disk cannot be had; the file itself still has a digest.
        Err(error) => Found {
            judgement: Judgement::of_error(error).about(&input.label)?,
            digests: None,
            transport: transport_digests(args, input, expected, reporter)?,
            unreadable: Some(Vec::new()),
        },
    };
    finish(args, input, expected, other, found, reporter)
}

/// The look; the inner result is what the library said of the file.
fn deep(
    args: &Args,
    input: &Input,
    expected: &Expected,
    reporter: &Reporter,
) -> Result<Result<DeepReport, kiln_disk::Error>> {
    let context = input.context(&args.source, Tolerance::Damaged, Limits::STANDARD)?;
    let algorithms = transport_algorithms(args, expected);
    let threads = args.threads.map_or_else(kiln_disk::pipeline::default_threads, usize::from);
    let job = DeepJob { algorithms: &algorithms, threads, raw: args.raw_digest, leaves: None };
    let (file, choice) = (input.file.as_ref(), args.source.choice()?);
    let Some(path) = &args.save_leaves else {
        return Ok(look(file, input.source(), choice, &context, job, reporter));
    };
    let staged = StagedFile::beside(path)?;
    let out = staged
        .file()
        .try_clone()
        .map_err(|source| CliError::from(kiln_disk::Error::io("open", path.display().to_string(), source)))?;
    let disk_len = input.image(&args.source, &context)?.disk_len();
    let mut writer = LeafWriter::new(std::io::BufWriter::new(out), disk_len)?;
    let job = DeepJob { leaves: Some(&mut writer), ..job };
    let looked = look(file, input.source(), choice, &context, job, reporter);
    if let Some(digests) = looked.as_ref().ok().and_then(|report| report.digests.as_ref()) {
        writer.finish(&digests.content)?;
        staged.commit(Existing::Keep, Durability::Synced)?;
    }
    Ok(looked)
}
