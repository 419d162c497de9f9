//! What serial consoles print, kept within bounds.
//!
//! QEMU copies a console's output into a file for ever, and a guest may print without end. So the file that it is given
//! is a pipe, at whose other end a process of our own, the keeper, writes `console.log` and begins it anew when it is
//! long: the part before is `console.log.old`. The keeper ends with QEMU, whose pipe ends then; should it die before,
//! QEMU goes on without a log. QEMU's standard output is that pipe, as that needs no descriptor to be passed by number.

use std::fs::{File, OpenOptions};
use std::io::{PipeReader, PipeWriter, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use kiln_catalog::machine::CONSOLE_LOG;
use kiln_disk::os;

use crate::error::{Result, io};

/// Length at which a log is begun anew: what is kept of a run is between this and twice as much, if there was so much.
pub const PART: u64 = 8 << 20;
/// The file by which QEMU reaches the keeper.
pub(crate) const TO_KEEPER: &str = "/proc/self/fd/1";

/// Which run of a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Run {
    /// The last one.
    Last,
    /// The one before.
    Before,
}

impl Run {
    /// The log of a run.
    #[must_use]
    pub fn file(self, dir: &Path) -> PathBuf {
        match self {
            Self::Last => dir.join(CONSOLE_LOG),
            Self::Before => dir.join(format!("{CONSOLE_LOG}.1")),
        }
    }

    /// What was printed before the log was begun anew.
    fn old(self, dir: &Path) -> PathBuf {
        let mut name = self.file(dir).into_os_string();
        name.push(".old");
        name.into()
    }
}

/// What is kept of a run's output; empty when there is nothing. With it the open log, to be followed.
///
/// # Errors
/// I/O.
pub fn read(dir: &Path, run: Run) -> Result<(Vec<u8>, Option<File>)> {
    let mut bytes = Vec::new();
    let mut last = None;
    for path in [run.old(dir), run.file(dir)] {
        let mut file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(source) => return Err(io("open", &path, source)),
        };
        // A log that no keeper wrote has any length.
        (&mut file).take(PART * 8).read_to_end(&mut bytes).map_err(|source| io("read", &path, source))?;
        last = Some(file);
    }
    Ok((bytes, last))
}

/// Whether a log that is followed has been begun anew.
#[must_use]
pub fn begun_anew(dir: &Path, followed: &File) -> bool {
    use std::os::unix::fs::MetadataExt;
    let is = |meta: std::fs::Metadata| (meta.dev(), meta.ino());
    match (followed.metadata().map(is), std::fs::metadata(Run::Last.file(dir)).map(is)) {
        (Ok(followed), Ok(there)) => followed != there,
        _ => false,
    }
}

/// What the last run printed is kept once, so that the log is of this run alone.
pub(crate) fn begin_run(dir: &Path) -> Result<()> {
    for (from, to) in
        [(Run::Last.old(dir), Run::Before.old(dir)), (Run::Last.file(dir), Run::Before.file(dir))]
    {
        match std::fs::rename(&from, &to) {
            // Nothing of an earlier run stays between the parts of a later one.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => crate::process::remove(&to)?,
            other => other.map_err(|source| io("rename", &from, source))?,
        }
    }
    // Ours, so that nobody else may read what a guest prints.
    create(&Run::Last.file(dir)).map(drop)
}

/// Starts a keeper for the log in a folder; QEMU is to write to what is answered.
pub(crate) fn start_keeper(keeper: &[String], dir: &Path) -> Result<Option<PipeWriter>> {
    let Some((program, words)) = keeper.split_first() else { return Ok(None) };
    let failed = |source| io("run", Path::new(program), source);
    let (reader, writer) = std::io::pipe().map_err(failed)?;
    spawn(program, words, dir, reader).map_err(failed)?;
    Ok(Some(writer))
}

fn spawn(program: &str, words: &[String], dir: &Path, reader: PipeReader) -> std::io::Result<()> {
    let mut command = Command::new(program);
    command
        .args(words)
        .current_dir(dir)
        .env_clear()
        .stdin(Stdio::from(reader))
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    os::detach(&mut command);
    command.spawn().map(drop)
}

/// The keeper's work: writes what comes into the log in a folder, until the pipe ends.
///
/// # Errors
/// Only of reading: a full disk costs the log and not the machine, which would wait for us.
pub fn keep(dir: &Path, mut input: impl Read) -> Result<()> {
    let path = Run::Last.file(dir);
    let mut log = OpenOptions::new().append(true).create(true).mode(0o600).open(&path).ok();
    let mut len = log.as_ref().and_then(|log| Some(log.metadata().ok()?.len())).unwrap_or(0);
    let mut buf = vec![0; 64 << 10];
    loop {
        let count = match input.read(&mut buf) {
            Ok(0) => return Ok(()),
            Ok(count) => count,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(source) => return Err(io("read", Path::new("the console"), source)),
        };
        if len >= PART && std::fs::rename(&path, Run::Last.old(dir)).is_ok() {
            log = create(&path).ok();
            len = 0;
        }
        let bytes = buf.get(..count).unwrap_or_default();
        if let Some(log) = &mut log
            && log.write_all(bytes).is_ok()
        {
            len = len.saturating_add(u64::try_from(count).unwrap_or(0));
        }
    }
}

fn create(path: &Path) -> Result<File> {
    let mut options = OpenOptions::new();
    let file = options.write(true).create(true).truncate(true).mode(0o600).open(path);
    file.map_err(|source| io("create", path, source))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endless_output_keeps_its_end_within_two_parts() {
        let dir = tempfile::tempdir().unwrap();
        begin_run(dir.path()).unwrap();
        let line = b"a line that a guest repeats for ever\n";
        let lines = 5 * PART / 2 / 37;
        let mut flood = line.repeat(usize::try_from(lines).unwrap());
        flood.extend(b"the last\n");
        keep(dir.path(), flood.as_slice()).unwrap();
        let lens = [Run::Last.old(dir.path()), Run::Last.file(dir.path())]
            .map(|path| std::fs::metadata(path).unwrap().len());
        assert!(lens.iter().all(|len| *len < PART + (64 << 10)), "{lens:?}");
        let (kept, _) = read(dir.path(), Run::Last).unwrap();
        // An unbroken end of what was printed.
        assert!(flood.ends_with(&kept) && kept.len() > usize::try_from(PART).unwrap());

        // The next run has a log of its own; of the one before, the parts stay together.
        begin_run(dir.path()).unwrap();
        assert_eq!(read(dir.path(), Run::Last).unwrap().0, b"");
        assert_eq!(read(dir.path(), Run::Before).unwrap().0, kept);
        keep(dir.path(), b"short\n".as_slice()).unwrap();
        begin_run(dir.path()).unwrap();
        assert_eq!(read(dir.path(), Run::Before).unwrap().0, b"short\n");
    }

    #[test]
    fn log_that_is_followed_is_seen_to_begin_anew() {
        let dir = tempfile::tempdir().unwrap();
        begin_run(dir.path()).unwrap();
        let (_, followed) = read(dir.path(), Run::Last).unwrap();
        let followed = followed.unwrap();
        assert!(!begun_anew(dir.path(), &followed));
        std::fs::rename(Run::Last.file(dir.path()), Run::Last.old(dir.path())).unwrap();
        keep(dir.path(), b"more\n".as_slice()).unwrap();
        assert!(begun_anew(dir.path(), &followed));
    }
}
