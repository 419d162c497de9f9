//! `kiln map`: where the disk's bytes are.

use std::num::NonZeroU64;
use std::path::PathBuf;

use kiln_disk::{Disk, Extent, ExtentKind, Limits, extents, go_on};
use kiln_format::Tolerance;
use serde::Serialize;

use crate::error::{About, Answer, Result};
use crate::input::SourceArgs;
use crate::output::Printer;
use crate::session::Session;
use crate::subject::Subject;

/// List the extents of a disk: data, zeros, holes, and where they are stored
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
START, LENGTH and OFFSET are bytes. KIND is data (stored as it is at OFFSET of FILE, 0 being the
image itself), encoded (compressed), zero or hole.

Examples:
  kiln map disk.qcow2
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
    print(image.as_ref(), &input.label, session)?;
    Ok(Answer::Yes)
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
