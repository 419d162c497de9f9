//! `kiln map`: where the disk's bytes are.

mod qemu;
mod svg;

use std::io::Write;
use std::num::NonZeroU64;
use std::path::{Path, PathBuf};

use kiln_disk::{Disk, Durability, Existing, Extent, ExtentKind, Limits, StagedFile, extents, go_on};
use kiln_format::partitions::Layout;
use kiln_format::summary::{Summary, Tally};
use kiln_format::{Image, Tolerance};
use serde::Serialize;

use crate::destination;
use crate::error::{About, Answer, CliError, Result};
use crate::input::{SourceArgs, is_dash};
use crate::output::{OutputForm, Printer, ShortSize, Size, Style};
use crate::session::Session;
use crate::subject::Subject;

/// List the extents of a disk: data, zeros, holes, and where they are stored
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
START, LENGTH and OFFSET are bytes. KIND is data (stored as it is at OFFSET of FILE, 0 being the
image itself), encoded (compressed), zero or hole.

Examples:
  kiln map disk.qcow2
  kiln map --svg disk.svg disk.qcow2      # a picture; - writes it to standard output
  kiln map --output qemu disk.qcow2       # the keys of qemu-img map --output=json
  kiln map --json disk.qcow2 | jq '.extents[] | select(.kind == \"encoded\")'")]
pub(crate) struct Args {
    /// Map this file or image
    #[arg(value_name = "FILE|IMAGE")]
    subject: PathBuf,
    #[command(flatten)]
    source: SourceArgs,
    /// Map this internal snapshot
    #[arg(long, value_name = "NAME")]
    snapshot: Option<String>,
    /// Draw the disk into this new file, as SVG, in place of the list
    #[arg(long, value_name = "FILE", conflicts_with_all = ["json", "output"])]
    svg: Option<PathBuf>,
    /// Print only how much there is of each kind, and the partitions
    #[arg(long, conflicts_with_all = ["svg", "output"])]
    summary: bool,
    /// Write the answer in this form
    #[arg(long, value_enum, value_name = "FORM", conflicts_with = "json")]
    output: Option<OutputForm>,
}

/// What `--summary --json` prints.
#[derive(Debug, Serialize)]
struct SummaryRecord<'a> {
    schema: &'static str,
    path: &'a str,
    disk_bytes: u64,
    extents: u64,
    totals: &'a Tally,
    layout: &'a Layout,
}

#[derive(Debug, Serialize)]
struct ExtentRecord {
    start_bytes: u64,
    length_bytes: u64,
    kind: &'static str,
    file: Option<u16>,
    offset_bytes: Option<u64>,
}

pub(crate) fn run(args: &Args, session: &mut Session) -> Result<Answer> {
    let (mut input, source) = Subject::resolve(&args.subject, session)?.open(&args.source, session)?;
    input.unwrap(&source, None, &session.reporter).about(&input.label)?;
    let mut context = input.context(&source, Tolerance::Strict, Limits::STANDARD)?;
    context.snapshot.clone_from(&args.snapshot);
    let image = input.image(&source, &context)?;
    let label = &input.label;
    match (&args.svg, args.output) {
        (Some(path), _) => picture(path, image.as_ref(), label, session)?,
        (None, Some(OutputForm::Qemu)) => qemu::print(image.as_ref(), label, session)?,
        (None, form) => {
            if form == Some(OutputForm::Json) {
                session.printer.style = Style::Json;
            }
            if !args.summary {
                print(image.as_ref(), label, session)?;
            }
            if args.summary || !session.printer.is_json() {
                totals(image.as_ref(), label, session)?;
            }
        }
    }
    session.reporter.clear();
    Ok(Answer::Yes)
}

/// Writes the picture whole or not at all.
fn picture(path: &Path, image: &dyn Image, label: &str, session: &mut Session) -> Result<()> {
    let facts = image.facts();
    let format = format!("{}, {}", facts.format, facts.variant);
    let title = Path::new(label).file_name().map_or_else(|| label.into(), |name| name.to_string_lossy());
    let words = svg::Words { title: &title, format: &format };
    let picture = svg::draw(image, &words, &session.reporter)?;
    if is_dash(path) {
        session.printer.bytes(picture.as_bytes());
        return Ok(());
    }
    let place = destination::look(path, false)?;
    let staged = StagedFile::beside(&place.path)?;
    let failed = |source| CliError::from(kiln_disk::Error::io("write", &place.label, source));
    staged.file().write_all(picture.as_bytes()).map_err(failed)?;
    staged.commit(Existing::Keep, Durability::Unsynced)?;
    session.printer.field("picture", format!("{} ({} bytes)", place.label, picture.len()));
    Ok(())
}

/// How much there is of each kind, and of what the disk consists.
fn totals(image: &dyn Image, label: &str, session: &mut Session) -> Result<()> {
    let found = Summary::of(image, NonZeroU64::MIN, &session.reporter).about(label)?;
    let layout = Layout::read(image).about(label)?;
    let out = &mut session.printer;
    out.json(&SummaryRecord {
        schema: "kiln.map-summary.v1",
        path: label,
        disk_bytes: found.disk_len,
        extents: found.extents,
        totals: &found.all,
        layout: &layout,
    })?;
    out.line("");
    out.field("disk size", Size(found.disk_len));
    for (name, bytes) in [
        ("data", found.all.data_bytes),
        ("encoded", found.all.encoded_bytes),
        ("zero", found.all.zero_bytes),
        ("hole", found.all.hole_bytes),
    ] {
        let tenths = u128::from(bytes) * 1000 / u128::from(found.disk_len.max(1));
        out.field(name, format!("{}, {}.{} %", Size(bytes), tenths / 10, tenths % 10));
    }
    out.field("partitions", layout.scheme.words());
    for one in &layout.partitions {
        let size = ShortSize(one.length_bytes);
        out.field("", format!("{one}, {size}, bytes {} to {}", one.start_bytes, one.end()));
    }
    Ok(())
}

/// Streams the list: a hostile or merely large disk may have millions of extents.
fn print(disk: &dyn Disk, label: &str, session: &mut Session) -> Result<()> {
    let Session { printer, reporter, .. } = session;
    let json = printer.is_json();
    if json {
        let path = serde_json::Value::from(label);
        let len = disk.disk_len();
        printer.bytes(
            format!("{{\n  \"schema\": \"kiln.map.v1\",\n  \"path\": {path},\n  \"disk_bytes\": {len},\n  \"extents\": [")
                .as_bytes(),
        );
    } else {
        printer
            .data(&format!("{:>16} {:>16}  {:<8} {:>4} {:>16}", "START", "LENGTH", "KIND", "FILE", "OFFSET"));
    }
    let mut separator = "";
    let mut pending: Option<Extent> = None;
    let mut put = |extent: &Extent, printer: &mut Printer| -> Result<()> {
        let record = record(extent);
        if json {
            let text = serde_json::to_string(&record).unwrap_or_default();
            printer.bytes(format!("{separator}\n    {text}").as_bytes());
            separator = ",";
        } else {
            let file = record.file.map_or_else(String::new, |file| file.to_string());
            let offset = record.offset_bytes.map_or_else(String::new, |at| at.to_string());
            let line = format!(
                "{:>16} {:>16}  {:<8} {file:>4} {offset:>16}",
                record.start_bytes, record.length_bytes, record.kind
            );
            printer.data(line.trim_end());
        }
        printer.flush_if_large()
    };
    for extent in extents(disk, NonZeroU64::MAX) {
        go_on(reporter)?;
        let extent = extent.about(label)?;
        pending = match pending {
            Some(before) => match joined(&before, &extent) {
                Some(both) => Some(both),
                None => {
                    put(&before, printer)?;
                    Some(extent)
                }
            },
            None => Some(extent),
        };
    }
    if let Some(last) = pending {
        put(&last, printer)?;
    }
    if json {
        printer.bytes(b"\n  ]\n}\n");
    }
    Ok(())
}

/// Two neighbours as one extent, when the second continues the first.
fn joined(first: &Extent, second: &Extent) -> Option<Extent> {
    let continues = match (first.kind, second.kind) {
        (ExtentKind::Data { file, at }, ExtentKind::Data { file: next_file, at: next }) => {
            file == next_file && at.checked_add(first.len.get()) == Some(next)
        }
        (first, second) => first == second,
    };
    let len = first.len.checked_add(second.len.get())?;
    continues.then_some(Extent { len, ..*first })
}

fn record(extent: &Extent) -> ExtentRecord {
    let (kind, file, offset) = match extent.kind {
        ExtentKind::Data { file, at } => ("data", Some(file), Some(at.get())),
        ExtentKind::Encoded => ("encoded", None, None),
        ExtentKind::Zero => ("zero", None, None),
        ExtentKind::Hole => ("hole", None, None),
    };
    ExtentRecord {
        start_bytes: extent.start.get(),
        length_bytes: extent.len.get(),
        kind,
        file,
        offset_bytes: offset,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kiln_disk::{FileOffset, GuestOffset};

    fn extent(start: u64, len: u64, kind: ExtentKind) -> Extent {
        Extent { start: GuestOffset::new(start), len: NonZeroU64::new(len).unwrap(), kind }
    }

    #[test]
    fn neighbours_are_joined_only_where_the_file_continues() {
        let data = |at| ExtentKind::Data { file: 0, at: FileOffset::new(at) };
        let first = extent(0, 100, data(1000));
        assert_eq!(joined(&first, &extent(100, 50, data(1100))), Some(extent(0, 150, data(1000))));
        assert_eq!(joined(&first, &extent(100, 50, data(1101))), None);
        assert_eq!(joined(&first, &extent(100, 50, ExtentKind::Zero)), None);
        let hole = extent(0, 8, ExtentKind::Hole);
        assert_eq!(joined(&hole, &extent(8, 8, ExtentKind::Hole)), Some(extent(0, 16, ExtentKind::Hole)));
        assert_eq!(joined(&hole, &extent(8, 8, ExtentKind::Zero)), None);
    }
}
