//! `kiln convert --for TARGET`.

use kiln_disk::Limits;
use kiln_disk::digest::{ContentDigest, Digest};
use kiln_format::Tolerance;
use kiln_import::{Machine, plan_target};
use kiln_target::Target;
use serde::Serialize;

use super::{Args, refuse_terminal, stdout_file};
use crate::destination;
use crate::error::{About, Answer, Result};
use crate::for_target::{ForArgs, Report, TargetRecord};
use crate::input::spool::default_dir;
use crate::input::{Input, is_dash};
use crate::output::{FindingRecord, findings_lines};
use crate::session::Session;

#[derive(Serialize)]
struct Record<'a> {
    schema: &'static str,
    dry_run: bool,
    source: &'a str,
    /// Compressed files around the source, the outermost first.
    wrappers: &'a [&'static str],
    source_format: &'static str,
    snapshot: Option<&'a str>,
    destination: &'a str,
    format: &'static str,
    options: &'a std::collections::BTreeMap<String, String>,
    disk_bytes: u64,
    replaces: bool,
    synced: bool,
    verified: bool,
    file_bytes: Option<u64>,
    file_digest: Option<Digest>,
    /// Of the source.
    content_digest: Option<ContentDigest>,
    /// Of what was written.
    raw_digest: Option<Digest>,
    target: TargetRecord<'a>,
    /// What should be known about the source.
    findings: Vec<FindingRecord>,
}

pub(super) fn run(args: &Args, target: &Target, session: &mut Session) -> Result<Answer> {
    let to_stdout = is_dash(&args.dest);
    if to_stdout {
        session.printer.report_on_stderr();
        refuse_terminal()?;
    }
    let place = destination::look(&args.dest, args.write.force)?;
    let spool_dir = (!to_stdout).then(|| place.parent());
    let mut input = Input::open_or_stdin(&args.source, spool_dir, &session.reporter)?;
    input.unwrap(&args.read, spool_dir, &session.reporter).about(&input.label)?;
    let mut context = input.context(&args.read, Tolerance::Strict, Limits::STANDARD)?;
    context.snapshot.clone_from(&args.snapshot);
    let image = input.image(&args.read, &context)?;
    let machine = Machine::of_image(image.as_ref(), args.read.disk.as_deref());
    let request = ForArgs::request(target, &args.dest, &args.write, machine)?;
    let plan = plan_target(image.as_ref(), &request, &session.reporter).about(&input.label)?;
    args.for_target.look(&plan, &args.write)?;
    let how = ForArgs::how(&args.write, args.raw_digest);
    let confirm = || input.file.confirm_unchanged();
    let watch = &session.reporter;
    let outcome = match (args.write.dry_run, to_stdout) {
        (true, _) => None,
        (false, true) => {
            let out = stdout_file()?;
            Some(
                plan.to_stream(image.as_ref(), out, &default_dir(), how, &confirm, watch)
                    .about(&input.label)?,
            )
        }
        (false, false) => {
            Some(plan.to_file(image.as_ref(), &place.path, how, &confirm, watch).about(&input.label)?)
        }
    };
    let sides = if outcome.is_some() { args.for_target.write_sides(&plan, &args.write)? } else { Vec::new() };
    session.reporter.clear();
    let report = Report {
        plan: &plan,
        place: &place,
        write: &args.write,
        outcome: outcome.as_ref(),
        sides: &sides,
        done: "written, read back, same disk",
    };
    let record = Record {
        schema: "kiln.convert.v1",
        dry_run: args.write.dry_run,
        source: &input.label,
        wrappers: input.wrappers(),
        source_format: image.format().id,
        snapshot: args.snapshot.as_deref(),
        destination: &place.label,
        format: plan.format,
        options: &plan.options,
        disk_bytes: plan.disk_bytes,
        replaces: place.exists,
        synced: !to_stdout && !args.write.no_sync,
        verified: !args.write.no_verify,
        file_bytes: outcome.as_ref().map(|outcome| outcome.byte_len),
        file_digest: report.file_digest(),
        content_digest: outcome.as_ref().map(|outcome| outcome.source_content),
        raw_digest: outcome.as_ref().and_then(|outcome| outcome.raw.clone()),
        target: report.record(),
        findings: FindingRecord::list(&image.remarks(), None),
    };
    session.printer.json(&record)?;
    let chain: Vec<&str> = input.wrappers().iter().copied().chain([image.format().id]).collect();
    session.printer.field("from", format!("{} ({})", input.label, chain.join(" > ")));
    for line in findings_lines(&record.findings, |_| 0) {
        session.printer.line(&line);
    }
    report.text(&mut session.printer);
    Ok(Answer::Yes)
}
