//! T-FMT-06: logs that are not empty, replayed in memory; QEMU replays a copy for comparison.

use std::path::Path;
use std::sync::Arc;

use kiln_disk::{MemorySource, Silent};
use kiln_format::vhdx::VhdxProblem;
use kiln_format::{CheckScope, Image, OpenContext, Tolerance, vhdx};
use kiln_testkit::laws::check_disk;
use kiln_testkit::oracle::{assert_qemu_identical, qemu_img_output, text};
use kiln_testkit::vhdx::{BuiltVhdx, Change, LogEntry, VhdxBuilder};
use tempfile::TempDir;

const MIB: usize = 1 << 20;
const ID: [u8; 16] = *b"the log's own id";

fn open(bytes: &[u8]) -> kiln_disk::Result<Box<dyn Image>> {
    (vhdx::FORMAT.open)(Arc::new(MemorySource::new(bytes.to_vec())), &OpenContext::new())
}

/// Four blocks of data; nothing of the second is in the table, though its data is in the file.
fn disk() -> (BuiltVhdx, Vec<u8>) {
    let content: Vec<u8> = (0..4 * MIB).map(|n| (n / 4096 + 1) as u8 | 1).collect();
    let mut built = VhdxBuilder::default().build(&content);
    built.patch_entry(1, 0);
    (built, content)
}

/// The sector of the table as it is to be: the second block is there.
fn table(built: &BuiltVhdx) -> Vec<u8> {
    let mut sector = built.bytes[built.bat_at..built.bat_at + 4096].to_vec();
    sector[8..16].copy_from_slice(&(built.blocks[&1] as u64 | 6).to_le_bytes());
    sector
}

fn entry(built: &BuiltVhdx, sequence: u64, tail: u32, changes: Vec<Change>) -> LogEntry {
    let len = built.bytes.len() as u64;
    LogEntry { sequence, tail, guid: ID, file_offsets: [len, len], changes }
}

fn repair(built: &BuiltVhdx) -> Change {
    Change::Data(built.bat_at as u64, table(built))
}

/// What QEMU reads after it replayed the log of a copy; none when it refuses the file.
fn qemu_reads(bytes: &[u8], expected: Option<&[u8]>) {
    let dir = TempDir::new().unwrap();
    let (copy, raw) = (dir.path().join("copy.vhdx"), dir.path().join("disk.raw"));
    std::fs::write(&copy, bytes).unwrap();
    let checked = qemu_img_output(&["check", "-r", "all", "-f", "vhdx", text(&copy)]);
    match expected {
        Some(expected) => {
            assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
            std::fs::write(&raw, expected).unwrap();
            assert_qemu_identical(&raw, "raw", &copy, "vhdx");
        }
        None => assert!(!is_readable(&copy), "QEMU reads it"),
    }
}

fn is_readable(path: &Path) -> bool {
    qemu_img_output(&["info", "-f", "vhdx", text(path)]).status.success()
}

/// Both readers see `expected`, and the source is as it was.
fn both_read(built: &BuiltVhdx, expected: &[u8]) {
    let image = open(&built.bytes).unwrap();
    check_disk(image.as_ref(), expected);
    let findings = image.check(CheckScope::Data, &Silent).unwrap();
    assert_eq!(findings.list().iter().map(|f| f.check.id).collect::<Vec<_>>(), ["vhdx.log.dirty"]);
    qemu_reads(&built.bytes, Some(expected));
}

fn without_second(content: &[u8]) -> Vec<u8> {
    let mut old = content.to_vec();
    old[MIB..2 * MIB].fill(0);
    old
}

#[track_caller]
fn problem(built: &BuiltVhdx) -> VhdxProblem {
    let error = open(&built.bytes).err().expect("a refusal");
    error.problem::<VhdxProblem>().unwrap_or_else(|| panic!("{error} is no VHDX problem")).clone()
}

#[test]
fn t_fmt_06_one_entry_two_and_127_are_replayed() {
    for count in [1_u64, 2, 127] {
        let (mut built, content) = disk();
        check_disk(open(&built.bytes).unwrap().as_ref(), &without_second(&content));
        let mut at = 0;
        for n in 0..count {
            // Each entry but the last writes the table as it was; only the newest counts.
            let old = built.bytes[built.bat_at..built.bat_at + 4096].to_vec();
            let change = if n + 1 == count { repair(&built) } else { Change::Data(built.bat_at as u64, old) };
            let bytes = entry(&built, 5 + n, 0, vec![change]).bytes();
            built.write_log(at, &bytes, ID);
            at += bytes.len();
        }
        both_read(&built, &content);
    }
}

#[test]
fn t_fmt_06_zero_descriptors_and_many_changes_in_one_entry() {
    // Two descriptors and these: 126 fit the first sector, the others take a second one, and that QEMU 10.0 cannot
    // read (`vhdx_log_read_sectors` reads all sectors into the place of the first).
    for (more, oracle) in [(124_u64, true), (198, false)] {
        let (mut built, mut content) = disk();
        let third = built.blocks[&2] as u64;
        let mut changes = vec![repair(&built), Change::Zeros(third, 1 << 20)];
        content[2 * MIB..3 * MIB].fill(0);
        // Later changes win over earlier ones.
        for n in 0..more {
            changes.push(Change::Data(third + n * 4096, vec![n as u8 | 1; 4096]));
            content[2 * MIB + n as usize * 4096..][..4096].fill(n as u8 | 1);
        }
        let bytes = entry(&built, 9, 0, changes).bytes();
        built.write_log(0, &bytes, ID);
        check_disk(open(&built.bytes).unwrap().as_ref(), &content);
        if oracle {
            both_read(&built, &content);
        }
    }
}

#[test]
fn t_fmt_06_a_log_that_wraps_round_its_end() {
    let (mut built, content) = disk();
    let bytes = entry(&built, 3, (MIB - 4096) as u32, vec![repair(&built)]).bytes();
    built.write_log(MIB - 4096, &bytes, ID);
    // QEMU's own search does not find an entry that begins in the last sector and goes on in the first.
    let image = open(&built.bytes).unwrap();
    check_disk(image.as_ref(), &content);
}

#[test]
fn t_fmt_06_of_two_sequences_the_newer_counts() {
    for (first, second) in [(7, 3), (3, 7)] {
        let (mut built, content) = disk();
        let old = Change::Data(built.bat_at as u64, built.bytes[built.bat_at..built.bat_at + 4096].to_vec());
        let newer_first = first > second;
        let (one, two) = if newer_first { (repair(&built), old) } else { (old, repair(&built)) };
        let bytes = entry(&built, first, 0, vec![one]).bytes();
        built.write_log(0, &bytes, ID);
        let bytes = entry(&built, second, 64 << 10, vec![two]).bytes();
        built.write_log(64 << 10, &bytes, ID);
        both_read(&built, &content);
    }
}

#[test]
fn t_fmt_06_an_entry_that_was_torn_ends_the_sequence_before_it() {
    let (mut built, content) = disk();
    let first = entry(&built, 4, 0, vec![repair(&built)]).bytes();
    built.write_log(0, &first, ID);
    let zeros = Change::Zeros(built.bat_at as u64, 4096);
    let mut second = entry(&built, 5, 0, vec![repair(&built), zeros]).bytes();
    let last = second.len() - 4096;
    second[last + 100..].fill(0);
    built.write_log(first.len(), &second, ID);
    both_read(&built, &content);
}

#[test]
fn t_fmt_06_entries_of_which_none_is_whole_are_refused() {
    let (good, content) = disk();
    type Damage = Box<dyn Fn(&mut Vec<u8>)>;
    let damages: [(&str, Damage); 5] = [
        ("checksum", Box::new(|raw| raw[4] ^= 1)),
        ("a byte of data", Box::new(|raw| raw[5000] ^= 1)),
        ("length", Box::new(|raw| raw[8..12].copy_from_slice(&(2_u32 << 20).to_le_bytes()))),
        ("descriptors", Box::new(|raw| raw[24..28].copy_from_slice(&u32::MAX.to_le_bytes()))),
        ("tail", Box::new(|raw| raw[12..16].copy_from_slice(&4096_u32.to_le_bytes()))),
    ];
    for (what, damage) in damages {
        let mut built = good.clone();
        let mut bytes = entry(&built, 4, 0, vec![repair(&built)]).bytes();
        damage(&mut bytes);
        if what != "checksum" && what != "a byte of data" {
            kiln_testkit::vhdx::seal(&mut bytes, 0, 8192);
        }
        built.write_log(0, &bytes, ID);
        assert_eq!(problem(&built), VhdxProblem::NoSequence, "{what}");
        // Looked at with its damage, the disk is that of the tables as they are.
        let context = OpenContext { tolerance: Tolerance::Damaged, ..OpenContext::new() };
        let source = Arc::new(MemorySource::new(built.bytes.clone()));
        let image = (vhdx::FORMAT.open)(source, &context).unwrap();
        check_disk(image.as_ref(), &without_second(&content));
        let findings = image.check(CheckScope::Data, &Silent).unwrap();
        assert_eq!(findings.count_of("vhdx.log.damaged"), 1, "{what}");
    }
}

#[test]
fn t_fmt_06_descriptors_that_lead_astray_make_an_entry_invalid() {
    let (good, _) = disk();
    for change in [
        Change::Zeros(0, u64::MAX),
        Change::Zeros(4096, u64::MAX - 4095),
        Change::Zeros(u64::MAX - 4095, 4096),
        Change::Zeros(100, 4096),
        Change::Data(u64::MAX - 4095, vec![1; 4096]),
        Change::Data(513, vec![1; 4096]),
    ] {
        let mut built = good.clone();
        let bytes = entry(&built, 4, 0, vec![change]).bytes();
        built.write_log(0, &bytes, ID);
        assert_eq!(problem(&built), VhdxProblem::NoSequence);
    }
}

#[test]
fn t_fmt_06_entries_of_another_log_and_an_id_without_entries_are_an_empty_log() {
    let (good, content) = disk();
    let mut stranger = good.clone();
    let bytes = LogEntry { guid: [9; 16], ..entry(&good, 4, 0, vec![repair(&good)]) }.bytes();
    stranger.write_log(0, &bytes, ID);
    let mut none = good.clone();
    none.write_log(0, &[0; 4096], ID);
    for built in [stranger, none] {
        check_disk(open(&built.bytes).unwrap().as_ref(), &without_second(&content));
        qemu_reads(&built.bytes, Some(&without_second(&content)));
    }
}

#[test]
fn t_fmt_06_a_file_that_was_longer_when_its_log_was_written_is_refused() {
    let (mut built, _) = disk();
    let file_len = built.bytes.len() as u64;
    let flushed = file_len + 4096;
    let bytes =
        LogEntry { file_offsets: [flushed, flushed], ..entry(&built, 4, 0, vec![repair(&built)]) }.bytes();
    built.write_log(0, &bytes, ID);
    assert_eq!(problem(&built), VhdxProblem::LogBeyondFile { flushed, file_len });
    qemu_reads(&built.bytes, None);
}

#[test]
fn t_fmt_06_a_log_may_make_the_file_longer() {
    let (mut built, mut content) = disk();
    // The last block is cut off; the log knows that the file is to have it, as zeros.
    let last = built.blocks[&3];
    built.bytes.truncate(last);
    content[3 * MIB..].fill(0);
    let offsets = [last as u64, (last + MIB) as u64];
    let bytes = LogEntry { file_offsets: offsets, ..entry(&built, 4, 0, vec![repair(&built)]) }.bytes();
    built.write_log(0, &bytes, ID);
    check_disk(open(&built.bytes).unwrap().as_ref(), &content);
}

#[test]
fn t_fmt_06_the_last_number_has_no_successor() {
    let (mut built, content) = disk();
    let first = entry(&built, u64::MAX, 0, vec![repair(&built)]).bytes();
    built.write_log(0, &first, ID);
    let zeros = vec![Change::Zeros(built.bat_at as u64, 4096)];
    let second = entry(&built, 0, 0, zeros).bytes();
    built.write_log(first.len(), &second, ID);
    check_disk(open(&built.bytes).unwrap().as_ref(), &content);
}

#[test]
fn t_fmt_06_logs_in_impossible_places_and_of_other_versions_are_refused() {
    let (good, _) = disk();
    let logged = || {
        let mut built = good.clone();
        let bytes = entry(&built, 4, 0, vec![repair(&built)]).bytes();
        built.write_log(0, &bytes, ID);
        built
    };
    for (at, len) in
        [(0_u64, 1_u32 << 20), (4096, 1 << 20), (1 << 20, 0), (1 << 20, 4096), (1 << 40, 1 << 20)]
    {
        let mut built = logged();
        built.patch_headers(68, &len.to_le_bytes()).patch_headers(72, &at.to_le_bytes());
        assert!(matches!(problem(&built), VhdxProblem::LogPlace { .. }), "{at:#x} {len:#x}");
    }
    let mut built = logged();
    built.patch_headers(64, &[1, 0]);
    assert_eq!(open(&built.bytes).err().unwrap().code(), "vhdx.log.version");
}
