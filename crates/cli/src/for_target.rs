//! `--for TARGET`: the words, and what is said about what was done. The same for a conversion and an export.

use std::path::{Path, PathBuf};

use clap::Args;
use kiln_disk::digest::{ContentDigest, Digest};
use kiln_disk::{Durability, Error as DiskError, Existing, StagedFile};
use kiln_import::{
    Machine, PlannedSide, TargetOutcome, TargetPlan, TargetRefusal, TargetRequest, TargetWrite,
};
use kiln_target::{MAX_FILE_LEN, Pack, Places, Target, Targets, TargetsFile, locate};
use serde::Serialize;

use crate::destination::Place;
use crate::error::{CliError, Result};
use crate::input::{format_named, is_dash};
use crate::output::{Printer, Size};
use crate::output_format::OutputArgs;

/// Where the targets are.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct TargetsArgs {
    /// Take changed and new targets from this file [default: $KILN_TARGETS, else kiln/targets.toml of the XDG
    /// configuration directory]
    #[arg(long, value_name = "FILE")]
    targets: Option<PathBuf>,
}

/// For whom to write.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct ForArgs {
    /// Write what this target takes: its format, options, size, archive and name (kiln targets lists them)
    #[arg(long = "for", value_name = "TARGET")]
    target: Option<String>,
    #[command(flatten)]
    targets: TargetsArgs,
    /// Also write the target's side files (machine definitions, import requests) into this directory
    #[arg(long, value_name = "DIR", requires = "target")]
    side_files: Option<PathBuf>,
}

impl TargetsArgs {
    /// The targets: those that are built in, and what the user's file makes of them.
    pub(crate) fn load(&self) -> Result<Targets> {
        let builtin = Targets::builtin()?;
        let (env, xdg, home) =
            (std::env::var_os("KILN_TARGETS"), std::env::var_os("XDG_CONFIG_HOME"), std::env::var_os("HOME"));
        let places = Places {
            flag: self.targets.as_deref(),
            kiln_targets: env.as_deref(),
            xdg_config_home: xdg.as_deref(),
            home: home.as_deref(),
        };
        let (path, is_named) = match locate(places) {
            None => return Ok(builtin),
            Some(TargetsFile::Named(path)) => (path, true),
            Some(TargetsFile::Usual(path)) => (path, false),
        };
        let label = path.display().to_string();
        let failed = |source| DiskError::io("read", &label, source);
        let len = match std::fs::metadata(&path) {
            Ok(found) => found.len(),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && !is_named => return Ok(builtin),
            Err(error) => return Err(failed(error).into()),
        };
        if len > MAX_FILE_LEN {
            return Err(kiln_target::Error::TooLong { file: label, len, allowed: MAX_FILE_LEN }.into());
        }
        let text = std::fs::read_to_string(&path).map_err(failed)?;
        Ok(builtin.with_file(&label, &text)?)
    }
}

impl ForArgs {
    /// The target, when one is named.
    pub(crate) fn target(&self) -> Result<Option<Target>> {
        let Some(name) = &self.target else { return Ok(None) };
        Ok(Some(self.targets.load()?.find(name)?.clone()))
    }

    /// What to plan.
    pub(crate) fn request<'a>(
        target: &'a Target,
        dest: &'a Path,
        write: &OutputArgs,
        machine: Machine,
    ) -> Result<TargetRequest<'a>> {
        Ok(TargetRequest {
            target,
            dest: (!is_dash(dest)).then_some(dest),
            format: write.output_format.as_deref().map(format_named).transpose()?,
            options: write.pairs()?,
            compress: write.compress,
            machine,
            threads: write.threads(),
        })
    }

    /// How to write what was planned.
    pub(crate) fn how(write: &OutputArgs, raw_digest: bool) -> TargetWrite {
        TargetWrite {
            existing: if write.force { Existing::Replace } else { Existing::Keep },
            durability: if write.no_sync { Durability::Unsynced } else { Durability::Synced },
            read_back: !write.no_verify,
            threads: write.threads(),
            raw_digest,
            expected: None,
        }
    }

    /// Looks whether the side files may be written, before any work is done.
    pub(crate) fn look(&self, plan: &TargetPlan, write: &OutputArgs) -> Result<()> {
        let Some(dir) = &self.side_files else { return Ok(()) };
        for side in &plan.side_files {
            let path = dir.join(&side.name);
            if !write.force && path.symlink_metadata().is_ok() {
                let path = path.display().to_string();
                return Err(kiln_import::Error::from(TargetRefusal::SideExists { path }).into());
            }
        }
        Ok(())
    }

    /// Writes the side files that were asked for; answers their paths.
    pub(crate) fn write_sides(&self, plan: &TargetPlan, write: &OutputArgs) -> Result<Vec<String>> {
        let Some(dir) = &self.side_files else { return Ok(Vec::new()) };
        if let Err(error) = std::fs::create_dir(dir)
            && error.kind() != std::io::ErrorKind::AlreadyExists
        {
            return Err(DiskError::io("create", dir.display().to_string(), error).into());
        }
        plan.side_files.iter().map(|side| write_side(&dir.join(&side.name), side, write)).collect()
    }
}

/// Whole or not at all, as everything that is written.
fn write_side(path: &Path, side: &PlannedSide, write: &OutputArgs) -> Result<String> {
    use std::io::Write;
    let label = path.display().to_string();
    let staged = StagedFile::beside(path)?;
    staged.file().write_all(side.text.as_bytes()).map_err(|source| DiskError::io("write", &label, source))?;
    let how = ForArgs::how(write, false);
    staged.commit(how.existing, how.durability)?;
    Ok(label)
}

/// What is said in JSON about writing for a target, besides what is said about every output.
#[derive(Serialize)]
pub(crate) struct TargetRecord<'a> {
    #[serde(flatten)]
    pub(crate) plan: &'a TargetPlan,
    /// Of the disk in the file: another one than the source's when it was padded.
    pub(crate) written_content_digest: Option<ContentDigest>,
    /// Side files that were written.
    pub(crate) written_side_files: Vec<String>,
}

/// What was written where.
pub(crate) struct Report<'a> {
    pub(crate) plan: &'a TargetPlan,
    pub(crate) place: &'a Place,
    pub(crate) write: &'a OutputArgs,
    /// None for a dry run.
    pub(crate) outcome: Option<&'a TargetOutcome>,
    pub(crate) sides: &'a [String],
    /// What is said when all went well.
    pub(crate) done: &'static str,
}

impl Report<'_> {
    /// The part of the text that follows the source.
    pub(crate) fn text(&self, out: &mut Printer) {
        let Self { plan, outcome, .. } = self;
        let packed = match plan.pack {
            Pack::None => "",
            Pack::OldgnuTarGz => ", disk.raw in a tar.gz",
        };
        let to = format!("{} ({}{packed}, for {})", self.place.label, plan.format, plan.target);
        out.field("to", to);
        for (name, value) in &plan.options {
            out.field("option", format!("{name}={value}"));
        }
        out.field("disk size", Size(plan.disk_bytes));
        if plan.padding_bytes > 0 {
            out.field("padded to", Size(plan.written_disk_bytes));
        }
        if let Some(gpt) = &plan.gpt {
            let (from, to, sector) = (gpt.from_lba, gpt.to_lba, gpt.sector_bytes);
            out.field("gpt", format!("backup moved from sector {from} to {to} (of {sector} bytes)"));
        }
        if let Some(firmware) = plan.firmware {
            out.field("starts by", firmware.word());
        }
        if let Some(outcome) = outcome {
            out.field("content", outcome.source_content);
            if outcome.written_content != outcome.source_content {
                out.field("written", outcome.written_content);
            }
            if let Some(raw) = &outcome.raw {
                out.field("raw", raw);
            }
            out.field("file size", Size(outcome.byte_len));
            out.field("file digest", &outcome.transport);
        }
        for path in self.sides {
            out.field("side file", path);
        }
        for warning in &plan.warnings {
            let rule = if warning.rule.is_empty() { String::new() } else { format!(" ({})", warning.rule) };
            out.field("warning", format!("{}: {}{rule}", warning.code, warning.text));
        }
        out.field("done", self.words());
        for line in &plan.next {
            out.field("next", line);
        }
    }

    fn words(&self) -> &'static str {
        match (self.outcome.is_some(), self.write.no_verify) {
            (false, _) if self.place.exists => {
                "nothing: this was a dry run (an existing file would be replaced)"
            }
            (false, _) => "nothing: this was a dry run",
            (true, false) => self.done,
            (true, true) => "written, not read back",
        }
    }

    /// The part of the JSON that is about the target.
    pub(crate) fn record(&self) -> TargetRecord<'_> {
        TargetRecord {
            plan: self.plan,
            written_content_digest: self.outcome.map(|outcome| outcome.written_content),
            written_side_files: self.sides.to_vec(),
        }
    }

    /// SHA-256 of the file.
    pub(crate) fn file_digest(&self) -> Option<Digest> {
        self.outcome.map(|outcome| outcome.transport.clone())
    }
}

impl From<kiln_target::Error> for CliError {
    fn from(error: kiln_target::Error) -> Self {
        Self::Targets(error)
    }
}
