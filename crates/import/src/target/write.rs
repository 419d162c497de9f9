//! Writing what was planned.

use std::fs::File;
use std::io::{BufReader, Seek, Write};
use std::path::Path;
use std::sync::Arc;

use kiln_disk::digest::{ContentDigest, Digest, HashJob, fingerprint_disk, hash_disk};
use kiln_disk::{
    Budget, ByteSink, ByteSource, Disk, Durability, Error as DiskError, Event, Existing, FileOffset,
    FileSink, FileSource, Observer, PaddedDisk, StagedFile, go_on,
};
use kiln_format::tar::{GcpJob, read_back_gcp, write_gcp};
use kiln_format::transfer::{FilePlan, stage_file};
use kiln_target::Pack;

use super::plan::{TargetPlan, rule_of};
use super::refusal::TargetRefusal;
use crate::error::{Refusal, Result};
use crate::export::sha256_of;

/// How to write it.
#[derive(Debug, Clone, Copy)]
pub struct TargetWrite {
    /// Whether the file may replace another.
    pub existing: Existing,
    /// Whether to wait for the device.
    pub durability: Durability,
    /// Read the output again and compare it.
    pub read_back: bool,
    /// Threads to use, at least one.
    pub threads: usize,
    /// Also compute the plain SHA-256 of the flat disk that is written.
    pub raw_digest: bool,
    /// What the source's disk must be, when that is known.
    pub expected: Option<ContentDigest>,
}

/// What was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TargetOutcome {
    /// SHA-256 of the file.
    pub transport: Digest,
    /// Its length in bytes.
    pub byte_len: u64,
    /// Content digest of the source's disk.
    pub source_content: ContentDigest,
    /// Content digest of the disk that was written: another one when it was padded.
    pub written_content: ContentDigest,
    /// Plain SHA-256 of the flat disk that was written, when asked for.
    pub raw: Option<Digest>,
}

/// What `tar -z` uses.
const LEVEL: u32 = 6;
const BUFFER_LEN: usize = 1 << 20;

impl TargetPlan {
    /// Writes the file, which appears whole and proved or not at all. `confirm` is asked last before that: whether
    /// the source is unchanged.
    ///
    /// # Errors
    /// Whatever reading and writing says; `io.exists`; [`Refusal::ImageDamaged`] when the source is not what was
    /// expected; [`TargetRefusal::FileSize`].
    pub fn to_file(
        &self,
        disk: &dyn Disk,
        dest: &Path,
        how: TargetWrite,
        confirm: &dyn Fn() -> kiln_disk::Result<()>,
        observer: &dyn Observer,
    ) -> Result<TargetOutcome> {
        let (staged, outcome) = self.stage(disk, dest, how, observer)?;
        confirm()?;
        staged.commit(how.existing, how.durability)?;
        Ok(outcome)
    }

    /// Writes to a pipe, by way of an unnamed file in `spool_dir` that is proved there. What went out cannot be
    /// called back: when this fails, the receiver's copy is worthless.
    ///
    /// # Errors
    /// As [`TargetPlan::to_file`]; I/O of the pipe.
    pub fn to_stream(
        &self,
        disk: &dyn Disk,
        mut out: impl Write,
        spool_dir: &Path,
        how: TargetWrite,
        confirm: &dyn Fn() -> kiln_disk::Result<()>,
        observer: &dyn Observer,
    ) -> Result<TargetOutcome> {
        const PIPE: &str = "standard output";
        let how = TargetWrite { durability: Durability::Unsynced, existing: Existing::Replace, ..how };
        let (staged, outcome) = self.stage(disk, &spool_dir.join("kiln-output"), how, observer)?;
        confirm()?;
        let source = FileSource::from_file(clone_of(&staged)?, "the temporary file")?;
        let mut buffer = vec![0; BUFFER_LEN];
        let (mut at, len) = (0_u64, source.byte_len());
        observer.event(Event::Started { phase: "send", total: len });
        while at < len {
            go_on(observer)?;
            let take = usize::try_from(len - at).unwrap_or(usize::MAX).min(BUFFER_LEN);
            let bytes = buffer.get_mut(..take).unwrap_or_default();
            source.read_bytes(FileOffset::new(at), bytes)?;
            out.write_all(bytes).map_err(|source| DiskError::io("write to", PIPE, source))?;
            at += u64::try_from(take).unwrap_or(u64::MAX);
            observer.event(Event::Advanced { bytes: u64::try_from(take).unwrap_or(0) });
        }
        out.flush().map_err(|source| DiskError::io("write to", PIPE, source))?;
        observer.event(Event::Finished);
        Ok(outcome)
    }

    /// Whether the disk goes into a plain container as it is.
    pub(super) fn is_plain(&self) -> bool {
        self.padding_bytes == 0 && self.pack == Pack::None && self.max_file.is_none()
    }

    fn stage(
        &self,
        disk: &dyn Disk,
        dest: &Path,
        how: TargetWrite,
        observer: &dyn Observer,
    ) -> Result<(StagedFile, TargetOutcome)> {
        if disk.disk_len() != self.disk_bytes {
            // The plan is of another disk: nothing in it holds.
            return Err(DiskError::Cancelled.into());
        }
        let written: Box<dyn Disk + '_> = match &self.table {
            Some(table) => Box::new(table.grown(disk, self.written_disk_bytes)?),
            None => Box::new(PaddedDisk::new(disk, self.written_disk_bytes)),
        };
        let (staged, written_content, raw) = match self.pack {
            Pack::None => self.container(written.as_ref(), dest, how, observer)?,
            Pack::OldgnuTarGz => self.archive(written.as_ref(), dest, how, observer)?,
        };
        let source_content = if self.padding_bytes == 0 {
            written_content
        } else {
            hash_disk(disk, job(how, false), observer)?.content
        };
        if let Some(expected) = how.expected.filter(|expected| *expected != source_content) {
            return Err(Refusal::ImageDamaged { expected, found: source_content }.into());
        }
        let source = FileSource::from_file(clone_of(&staged)?, dest.display().to_string())?;
        let byte_len = source.byte_len();
        if let Some(rule) = self.max_file.as_ref().filter(|rule| byte_len > rule.value.get()) {
            return Err(TargetRefusal::FileSize {
                target: self.target.clone(),
                bytes: byte_len,
                allowed: rule.value.get(),
                rule: rule_of(&rule.source, &rule.date),
            }
            .into());
        }
        let transport = sha256_of(&source, observer)?;
        Ok((staged, TargetOutcome { transport, byte_len, source_content, written_content, raw }))
    }

    fn container(
        &self,
        disk: &dyn Disk,
        dest: &Path,
        how: TargetWrite,
        observer: &dyn Observer,
    ) -> Result<(StagedFile, ContentDigest, Option<Digest>)> {
        let budget = Budget::default();
        let plan = FilePlan {
            disk,
            format: self.row,
            options: &self.resolved,
            dest,
            existing: how.existing,
            durability: how.durability,
            read_back: how.read_back,
            threads: how.threads.max(1),
            content_digest: true,
            raw_digest: how.raw_digest,
            leaves: None,
            budget: &budget,
        };
        let (staged, outcome) = stage_file(plan, observer)?;
        let digests = outcome.digests.ok_or(DiskError::Cancelled)?;
        Ok((staged, digests.content, digests.raw))
    }

    fn archive(
        &self,
        disk: &dyn Disk,
        dest: &Path,
        how: TargetWrite,
        observer: &dyn Observer,
    ) -> Result<(StagedFile, ContentDigest, Option<Digest>)> {
        let label = dest.display().to_string();
        if how.existing == Existing::Keep && dest.symlink_metadata().is_ok() {
            return Err(DiskError::io("create", label, std::io::ErrorKind::AlreadyExists).into());
        }
        let threads = how.threads.max(1);
        let staged = StagedFile::beside(dest)?;
        let sink: Arc<dyn ByteSink> = Arc::new(FileSink::new(clone_of(&staged)?, label.as_str()));
        write_gcp(disk, &sink, GcpJob { threads, level: LEVEL }, observer)?;
        if how.durability == Durability::Synced {
            staged.sync()?;
        }
        if how.read_back {
            let expected = fingerprint_disk(disk, threads, observer)?;
            let mut file = clone_of(&staged)?;
            file.rewind().map_err(|source| DiskError::io("read back", &label, source))?;
            let reader = BufReader::with_capacity(256 << 10, file);
            read_back_gcp(reader, disk.disk_len(), expected, observer)?;
        }
        let digests = hash_disk(disk, job(how, how.raw_digest), observer)?;
        Ok((staged, digests.content, digests.raw))
    }
}

fn job(how: TargetWrite, raw: bool) -> HashJob<'static> {
    HashJob { threads: how.threads.max(1), leaves: None, raw }
}

fn clone_of(staged: &StagedFile) -> Result<File> {
    let failed = |source| DiskError::io("duplicate", staged.dest().display().to_string(), source);
    Ok(staged.file().try_clone().map_err(failed)?)
}
