//! `kiln export --for TARGET`.

use kiln_disk::digest::{ContentDigest, Digest};
use kiln_import::{How, Machine, export_target, open_image, plan_target};
use kiln_target::Target;
use serde::Serialize;

use super::super::convert::{refuse_terminal, stdout_file};
use super::Args;
use crate::destination;
use crate::error::{Answer, Result};
use crate::for_target::{ForArgs, Report, TargetRecord};
use crate::input::is_dash;
use crate::input::spool::default_dir;
use crate::session::Session;
use crate::subject;

#[derive(Serialize)]
struct Record<'a> {
    schema: &'static str,
    dry_run: bool,
    id: String,
    name: String,
    destination: &'a str,
    format: &'static str,
    options: &'a std::collections::BTreeMap<String, String>,
    disk_bytes: u64,
    replaces: bool,
    synced: bool,
    verified: bool,
    /// "copy": the layer's file as it is; "convert": written anew. None for a dry run.
    how: Option<How>,
    /// Whether the copy shares its blocks with the store.
    cloned: Option<bool>,
    file_bytes: Option<u64>,
    file_digest: Option<Digest>,
    /// Of the image.
    content_digest: ContentDigest,
    /// Of what was written.
    raw_digest: Option<Digest>,
    target: TargetRecord<'a>,
}

pub(super) fn run(args: &Args, target: &Target, session: &mut Session) -> Result<Answer> {
    let to_stdout = is_dash(&args.dest);
    if to_stdout {
        session.printer.report_on_stderr();
        refuse_terminal()?;
    }
    let place = destination::look(&args.dest, args.write.force)?;
    let found = subject::find(&args.image, session)?;
    let manifest = &found.manifest;
    let image = open_image(&found.store, manifest)?;
    let machine = manifest.provenance.appliance.as_ref().map(Machine::of_record).unwrap_or_default();
    let request = ForArgs::request(target, &args.dest, &args.write, machine)?;
    let plan = plan_target(image.as_ref(), &request, &session.reporter)?;
    args.for_target.look(&plan, &args.write)?;
    let mut how = ForArgs::how(&args.write, args.raw_digest);
    how.expected = Some(manifest.digests.content);
    let made = match (args.write.dry_run, to_stdout) {
        (true, _) => None,
        (false, true) => {
            let (out, dir) = (stdout_file()?, default_dir());
            let outcome = plan.to_stream(image.as_ref(), out, &dir, how, &|| Ok(()), &session.reporter)?;
            Some((outcome, How::Convert, false))
        }
        (false, false) => {
            let (disk, dest) = (image.as_ref(), place.path.as_path());
            Some(export_target(&found.store, manifest, &plan, disk, dest, how, &session.reporter)?)
        }
    };
    let outcome = made.as_ref().map(|(outcome, ..)| outcome);
    let sides = if made.is_some() { args.for_target.write_sides(&plan, &args.write)? } else { Vec::new() };
    session.reporter.clear();
    let report = Report {
        plan: &plan,
        place: &place,
        write: &args.write,
        outcome,
        sides: &sides,
        done: match made {
            Some((_, How::Copy, _)) => "copied as it is stored, read back, same disk",
            _ => "written, read back, same disk",
        },
    };
    let record = Record {
        schema: "kiln.export.v1",
        dry_run: args.write.dry_run,
        id: manifest.id.to_string(),
        name: manifest.title(),
        destination: &place.label,
        format: plan.format,
        options: &plan.options,
        disk_bytes: manifest.disk_bytes,
        replaces: place.exists,
        synced: !to_stdout && !args.write.no_sync,
        verified: !args.write.no_verify,
        how: made.as_ref().map(|(_, how, _)| *how),
        cloned: made.as_ref().map(|(_, _, cloned)| *cloned),
        file_bytes: outcome.map(|outcome| outcome.byte_len),
        file_digest: report.file_digest(),
        content_digest: manifest.digests.content,
        raw_digest: outcome.and_then(|outcome| outcome.raw.clone()),
        target: report.record(),
    };
    session.printer.json(&record)?;
    session.printer.field("image", format!("{} {}", manifest.id, manifest.title()));
    report.text(&mut session.printer);
    Ok(Answer::Yes)
}
