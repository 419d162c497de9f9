//! `kiln logs`: what a machine printed.

use std::fs::File;
use std::io::{Read, Write};
use std::time::Duration;

use kiln_disk::Observer;
use kiln_instance::log::{self, Run};
use kiln_instance::process::QEMU_LOG;
use serde::Serialize;

use crate::error::{Answer, CliError, Result};
use crate::instances;
use crate::session::Session;

/// Print what a machine's serial console showed in its last run
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Of this one: name, id, or the start of an id
    #[arg(value_name = "INSTANCE")]
    instance: String,
    /// Only the last lines
    #[arg(short = 'n', long, value_name = "N")]
    lines: Option<usize>,
    /// Go on as it prints, until it ends
    #[arg(short, long, conflicts_with = "json")]
    follow: bool,
    /// Of the run before
    #[arg(long, conflicts_with_all = ["qemu", "follow"])]
    previous: bool,
    /// What QEMU said, in place of the guest
    #[arg(long)]
    qemu: bool,
}

/// Keep what a machine's serial console prints within bounds
#[derive(Debug, clap::Args)]
pub(crate) struct KeepArgs {}

/// The keeper's work: see [`kiln_instance::log`].
pub(crate) fn keep(_: &KeepArgs) -> Result<Answer> {
    log::keep(std::path::Path::new("."), std::io::stdin().lock())?;
    Ok(Answer::Yes)
}

#[derive(Serialize)]
struct Record {
    schema: &'static str,
    id: String,
    text: String,
}

/// The most that is printed of a log that somebody may have flooded.
const MOST: u64 = 64 << 20;

pub(crate) fn run(args: &Args, session: &mut Session) -> Result<Answer> {
    let found = instances::find(&args.instance, session)?;
    let dir = found.store.instance_dir(&found.record.id);
    let run = if args.previous { Run::Before } else { Run::Last };
    let path = if args.qemu { dir.join(QEMU_LOG) } else { run.file(&dir) };
    let failed = |source| kiln_disk::Error::io("read", path.display().to_string(), source);
    let (bytes, file) = if args.qemu {
        let mut bytes = Vec::new();
        let file = match File::open(&path) {
            Ok(mut file) => {
                (&mut file).take(MOST).read_to_end(&mut bytes).map_err(failed)?;
                Some(file)
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            Err(source) => return Err(failed(source).into()),
        };
        (bytes, file)
    } else {
        log::read(&dir, run)?
    };
    let text = last_lines(&String::from_utf8_lossy(&bytes), args.lines);
    session.printer.json(&Record {
        schema: "kiln.logs.v1",
        id: found.record.id.to_string(),
        text: text.clone(),
    })?;
    if session.printer.is_json() {
        return Ok(Answer::Yes);
    }
    // Lines that a guest printed are shown safely; a pipe gets what it printed.
    session.printer.lines_of(&text);
    session.printer.flush()?;
    let Some(mut file) = file.filter(|_| args.follow) else { return Ok(Answer::Yes) };
    while !session.reporter.is_cancelled() {
        let mut more = Vec::new();
        (&mut file).take(MOST).read_to_end(&mut more).map_err(failed)?;
        if more.is_empty() {
            if !args.qemu && log::begun_anew(&dir, &file) {
                // All of the part before has been read.
                file = File::open(&path).map_err(failed)?;
                continue;
            }
            if !found.store.instance_running(&found.record.id)? {
                break;
            }
            std::thread::sleep(Duration::from_millis(100));
            continue;
        }
        let mut out = std::io::stdout().lock();
        out.write_all(session.printer.safe(&String::from_utf8_lossy(&more)).as_bytes())
            .and_then(|()| out.flush())
            .map_err(|source| CliError::Output { source })?;
    }
    Ok(Answer::Yes)
}

fn last_lines(text: &str, lines: Option<usize>) -> String {
    let Some(wanted) = lines else { return text.to_owned() };
    let all: Vec<&str> = text.split_inclusive('\n').collect();
    all.get(all.len().saturating_sub(wanted)..).unwrap_or_default().concat()
}

#[cfg(test)]
mod tests {
    use super::last_lines;

    #[test]
    fn the_last_lines_are_the_last() {
        assert_eq!(last_lines("a\nb\nc", Some(2)), "b\nc");
        assert_eq!(last_lines("a\nb\n", Some(9)), "a\nb\n");
        assert_eq!(last_lines("a\nb\n", None), "a\nb\n");
        assert_eq!(last_lines("", Some(1)), "");
    }
}
