//! How the file systems on a captured disk were left: what proves, or disproves, how consistent it is.

use std::sync::Arc;
use std::time::Duration;

use kiln_catalog::{Consistency, FileSystemRecord, IdentityRecord};
use kiln_disk::{Disk, Error, Limits};
use kiln_guest::facts::{Depth, Seen};
use kiln_guest::volume::{Content, FsState, Volume};
use kiln_guest::{Question, Reader};

use crate::error::Result;

/// What happened to the machine around the point in time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Quieted {
    /// It was not running.
    Stopped,
    /// Its agent froze so many file systems, and they were still frozen behind the point in time.
    Frozen {
        /// How many.
        file_systems: u64,
        /// Whether the guest's own programs were asked as well (VSS writers of Windows).
        programs: bool,
    },
    /// It ran on; why it was not frozen.
    Running(String),
}

/// What was found on a captured disk.
#[derive(Debug, Default)]
pub(crate) struct Looked {
    /// How its file systems were left.
    pub(crate) file_systems: Vec<FileSystemRecord>,
    /// What of the machine's identity it carries: it is told, and nothing depends on it.
    pub(crate) identity: Vec<IdentityRecord>,
    /// Why it could not be looked at.
    pub(crate) unseen: Option<String>,
}

/// Looks at the superblocks and logs of a disk, and for the machine's identity. The guest wrote what is read: whatever
/// it is, the capture goes on.
pub(crate) fn look(disk: &Arc<dyn Disk>, reader: &Reader) -> Result<Looked> {
    let time = Duration::from_secs(120);
    let limits = Limits { metadata_bytes: 1 << 30, nodes: 16 << 20, time, ..Limits::STANDARD };
    let question = Question { depth: Depth::Quick, limits, asked: Vec::new() };
    let found = match reader.look(&[Arc::clone(disk)], &question) {
        Ok(found) => found,
        Err(error @ (Error::Io { .. } | Error::Cancelled)) => return Err(error.into()),
        Err(error) => return Ok(Looked { unseen: Some(error.to_string()), ..Looked::default() }),
    };
    let record = |kind: &str, renewed: bool, seen: &Seen| IdentityRecord {
        kind: kind.to_owned(),
        path: seen.to_string(),
        renewed_by: renewed.then(|| "cloud-init".to_owned()),
    };
    let report = &found.report;
    let renews = report.renews_host_keys();
    let ids = report.machine_ids().map(|seen| record("machine-id", false, seen));
    let keys = report.ssh.host_keys.iter().map(|seen| record("ssh-host-key", renews, seen));
    Ok(Looked {
        file_systems: report.volumes.iter().filter_map(left).collect(),
        identity: ids.chain(keys).take(64).collect(),
        unseen: found.unanswered,
    })
}

/// How a volume was left, if a file system that may be half-written is on it.
fn left(volume: &Volume) -> Option<FileSystemRecord> {
    let state = match (volume.probed.content, volume.probed.state) {
        (Content::Ext | Content::Btrfs | Content::Fat | Content::Xfs, Some(state)) => word(state),
        (
            Content::Xfs
            | Content::Ntfs
            | Content::ExFat
            | Content::F2fs
            | Content::Foreign
            | Content::Luks
            | Content::BitLocker,
            _,
        ) => "unknown",
        // Nothing in it is ever half-written, or it is no file system.
        _ => return None,
    };
    let place = volume.place.to_string();
    Some(FileSystemRecord { place, kind: volume.probed.kind.clone(), state: state.to_owned() })
}

fn word(state: FsState) -> &'static str {
    match state {
        FsState::Clean => "clean",
        FsState::NeedsRecovery => "needs_recovery",
        FsState::Dirty => "dirty",
        FsState::Errors => "errors",
        FsState::Damaged => "damaged",
    }
}

/// A state as the end of a sentence.
fn phrase(state: &str) -> &'static str {
    match state {
        "clean" => "is clean",
        "needs_recovery" => "has a journal to replay",
        "dirty" => "was not unmounted",
        "errors" => "has errors",
        "damaged" => "has lost its journal",
        _ => "does not say how it was left",
    }
}

/// Puts together what was done and what was found.
pub(crate) fn judge(quieted: &Quieted, looked: &Looked) -> (Consistency, String) {
    let found = &looked.file_systems;
    if let (Quieted::Stopped | Quieted::Frozen { .. }, Some(why)) = (quieted, &looked.unseen) {
        return (Consistency::Crash, format!("its file systems could not be looked at: {why}"));
    }
    let list = |wanted: &dyn Fn(&FileSystemRecord) -> bool| {
        let words: Vec<String> = found
            .iter()
            .filter(|one| wanted(one))
            .map(|one| format!("{} on {} {}", one.kind, one.place, phrase(&one.state)))
            .collect();
        words.join(", ")
    };
    match quieted {
        Quieted::Running(why) => (Consistency::Crash, why.clone()),
        Quieted::Stopped => {
            let not_clean = list(&|one| one.state != "clean");
            match (found.is_empty(), not_clean.is_empty()) {
                (true, _) => (
                    Consistency::Crash,
                    "the machine was off, but no file system was found that proves an orderly stop"
                        .to_owned(),
                ),
                (false, true) => (
                    Consistency::Application,
                    "the machine was off and all its file systems had been unmounted in order".to_owned(),
                ),
                (false, false) => (Consistency::Crash, format!("the machine was off, but {not_clean}")),
            }
        }
        Quieted::Frozen { file_systems, programs } => {
            // Mounted and frozen: ext has an empty journal, btrfs no log tree; XFS leaves a dirty log by design, for
            // inodes that were removed while open. FAT stays marked as mounted.
            let stands_still = |one: &FileSystemRecord| match one.kind.as_str() {
                "ext2" | "ext3" | "ext4" | "btrfs" => matches!(one.state.as_str(), "clean" | "dirty"),
                _ => !matches!(one.state.as_str(), "errors" | "damaged"),
            };
            let against = list(&|one| !stands_still(one));
            if !against.is_empty() {
                return (
                    Consistency::Crash,
                    format!("the agent said that it froze the guest, but {against}"),
                );
            }
            let why = format!(
                "{file_systems} file {} stood still, before and behind the point in time",
                if *file_systems == 1 { "system" } else { "systems" }
            );
            match programs {
                true => {
                    (Consistency::Application, format!("{why}, and so did the programs that listen to VSS"))
                }
                false => (Consistency::Filesystem, why),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(kind: &str, state: &str) -> FileSystemRecord {
        FileSystemRecord { place: "partition 1".to_owned(), kind: kind.to_owned(), state: state.to_owned() }
    }

    #[test]
    fn consistency_is_what_the_disk_proves_and_no_more() {
        let frozen = |programs| Quieted::Frozen { file_systems: 2, programs };
        let running = Quieted::Running("nobody was asked".to_owned());
        for (quieted, found, expected) in [
            (
                Quieted::Stopped,
                vec![found("ext4", "clean"), found("vfat", "clean")],
                Consistency::Application,
            ),
            (Quieted::Stopped, vec![found("ext4", "needs_recovery")], Consistency::Crash),
            (Quieted::Stopped, vec![found("ext4", "clean"), found("ntfs", "unknown")], Consistency::Crash),
            (Quieted::Stopped, vec![], Consistency::Crash),
            (
                frozen(false),
                vec![found("ext4", "clean"), found("xfs", "needs_recovery")],
                Consistency::Filesystem,
            ),
            (frozen(false), vec![found("ext4", "needs_recovery")], Consistency::Crash),
            (frozen(false), vec![found("btrfs", "needs_recovery")], Consistency::Crash),
            (frozen(true), vec![found("ntfs", "unknown")], Consistency::Application),
            (running, vec![found("ext4", "clean")], Consistency::Crash),
        ] {
            let looked = Looked { file_systems: found, ..Looked::default() };
            assert_eq!(judge(&quieted, &looked).0, expected, "{quieted:?} {looked:?}");
            let unseen = Looked { unseen: Some("a reason".to_owned()), ..looked };
            assert_eq!(judge(&quieted, &unseen).0, Consistency::Crash, "{quieted:?} {unseen:?}");
        }
        let looked = Looked { file_systems: vec![found("ext4", "needs_recovery")], ..Looked::default() };
        let (_, why) = judge(&Quieted::Stopped, &looked);
        assert_eq!(why, "the machine was off, but ext4 on partition 1 has a journal to replay");
    }
}
