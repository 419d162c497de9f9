//! Partition tables that move to the new end of a longer disk: what sgdisk and fdisk say of the result, and what
//! is refused.

use std::path::Path;
use std::process::Command;

use kiln_disk::{Disk, FileSource, GuestOffset};
use kiln_format::layout::{Gpt, GptProblem, Layout, Scheme};
use kiln_format::{Choice, Image, OpenContext, open};
use kiln_testkit::ModelDisk;
use kiln_testkit::laws::{Random, check_disk};
use kiln_testkit::oracle::text;

#[path = "../../fuzz/src/gpt.rs"]
mod exercise;

fn run(program: &str, words: &[&str]) -> String {
    let output = Command::new(program)
        .args(words)
        .output()
        .unwrap_or_else(|error| panic!("{program} is needed ({error}); `make setup` installs it"));
    let said =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {words:?}: {said}");
    said
}

/// A disk made by `sgdisk` with these words, as bytes.
fn made_by_sgdisk(path: &Path, len: u64, words: &[&str]) -> Vec<u8> {
    std::fs::File::create(path).unwrap().set_len(len).unwrap();
    run("sgdisk", &[words, &[text(path)]].concat());
    std::fs::read(path).unwrap()
}

/// What `fdisk` says, with sectors of 4096 bytes, when it is told these commands.
fn fdisk_4096(path: &Path, commands: &str) -> String {
    run("sh", &["-c", "printf \"$1\" | fdisk --sector-size 4096 \"$2\"", "sh", commands, text(path)])
}

/// A disk with sectors of 4096 bytes, an EFI system partition and another.
fn made_by_fdisk(dir: &Path, len: u64) -> Vec<u8> {
    let path = dir.join("made-4096");
    std::fs::File::create(&path).unwrap().set_len(len).unwrap();
    fdisk_4096(&path, r"g\nn\n1\n256\n767\nt\n1\nn\n2\n768\n\nw\n");
    std::fs::read(path).unwrap()
}

fn image(path: &Path) -> Box<dyn Image> {
    let source = std::sync::Arc::new(FileSource::open(path).unwrap());
    open(source, Choice::AsRaw, &OpenContext::new()).unwrap()
}

fn bytes_of(disk: &dyn Disk) -> Vec<u8> {
    let mut bytes = vec![0; disk.disk_len() as usize];
    disk.read_guest(GuestOffset::ZERO, &mut bytes).unwrap();
    bytes
}

fn le64(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

const ESP_AND_ROOT: [&str; 6] = [
    "--clear",
    "--new=1:2048:6143",
    "--typecode=1:ef00",
    "--new=2:6144:0",
    "--typecode=2:8300",
    "--disk-guid=R",
];

#[test]
fn sgdisk_finds_nothing_wrong_with_a_table_that_moved() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk");
    for (len, grown) in
        [(16 << 20, 64 << 20), ((16 << 20) + 512, 17 << 20), (20 << 20, (20 << 20) + 34 * 512)]
    {
        let before = made_by_sgdisk(&path, len, &ESP_AND_ROOT);
        let source = image(&path);
        let table = Gpt::read(source.as_ref()).unwrap().unwrap();
        assert_eq!((table.sector_bytes(), table.alternate_lba()), (512, len / 512 - 1));
        let disk = table.grown(source.as_ref(), grown).unwrap();
        // The MBR, two headers, 32 sectors of entries, and nothing else.
        assert_eq!(disk.patched_bytes(), 35 * 512);
        let after = bytes_of(&disk);
        check_disk(&disk, &after);
        assert!(std::fs::read(&path).unwrap() == before, "the source was changed");
        let out = dir.path().join("grown");
        std::fs::write(&out, &after).unwrap();
        let said = run("sgdisk", &["--verify", text(&out)]);
        assert!(said.contains("No problems found"), "{said}");
        let last = grown / 512 - 1;
        let listed = run("sgdisk", &["--print", text(&out)]);
        assert!(listed.contains(&format!("last usable sector is {}", last - 33)), "{listed}");
        // SizeInLBA of the protective entry.
        assert_eq!(u64::from(u32::from_le_bytes(after[458..462].try_into().unwrap())), last);
        // Every byte of the partitions is where it was.
        let end = 512 * (le64(&before, 512 + 48) + 1) as usize;
        assert!(after[34 * 512..end] == before[34 * 512..end]);
        // gdisk moves it to the same places.
        let theirs = dir.path().join("theirs");
        std::fs::write(&theirs, &before).unwrap();
        std::fs::OpenOptions::new().write(true).open(&theirs).unwrap().set_len(grown).unwrap();
        run("sgdisk", &["--move-second-header", text(&theirs)]);
        let theirs = std::fs::read(theirs).unwrap();
        assert!(theirs[512..1024] == after[512..1024], "primary header");
        assert!(theirs[theirs.len() - 33 * 512..] == after[after.len() - 33 * 512..], "backup");
    }
}

#[test]
fn sectors_of_4096_bytes_move_as_well() {
    let dir = tempfile::tempdir().unwrap();
    let before = made_by_fdisk(dir.path(), 32 << 20);
    let source = ModelDisk::new(before, 4096);
    let table = Gpt::read(&source).unwrap().unwrap();
    assert_eq!((table.sector_bytes(), table.alternate_lba()), (4096, (32 << 20) / 4096 - 1));
    let disk = table.grown(&source, 48 << 20).unwrap();
    let out = dir.path().join("grown");
    std::fs::write(&out, bytes_of(&disk)).unwrap();
    let said = fdisk_4096(&out, r"v\nq\n");
    assert!(said.contains("No errors detected"), "{said}");
    assert!(!said.contains("mismatch") && !said.contains("not on the end"), "{said}");
    // It does say so of a disk that only became longer.
    std::fs::write(&out, bytes_of(&kiln_disk::PaddedDisk::new(&source, 48 << 20))).unwrap();
    assert!(fdisk_4096(&out, r"v\nq\n").contains("not on the end"));
    let layout = Layout::read(&disk).unwrap();
    assert_eq!((layout.scheme, layout.sector_bytes, layout.has_esp), (Scheme::Gpt, Some(4096), true));
    assert_eq!(table.grown(&source, (48 << 20) + 512).err().unwrap().code(), "gpt.grow");
}

#[test]
fn a_disk_without_room_behind_its_last_partition_gets_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk");
    let mut bytes = made_by_sgdisk(&path, 16 << 20, &ESP_AND_ROOT);
    // The backup was cut off, as a copy of the partitions alone does.
    bytes.truncate((16 << 20) - 33 * 512);
    let disk = ModelDisk::new(bytes, 512);
    let table = Gpt::read(&disk).unwrap().unwrap();
    assert_eq!(table.least_len(), 16 << 20);
    assert_eq!(table.grown(&disk, (16 << 20) - 512).err().unwrap().code(), "gpt.grow");
    let out = dir.path().join("grown");
    std::fs::write(&out, bytes_of(&table.grown(&disk, 16 << 20).unwrap())).unwrap();
    assert!(run("sgdisk", &["--verify", text(&out)]).contains("No problems found"));
}

#[test]
fn hybrid_mbr_keeps_its_entries() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk");
    made_by_sgdisk(&path, 16 << 20, &ESP_AND_ROOT);
    run("sgdisk", &["--hybrid=2", text(&path)]);
    let source = image(&path);
    assert_eq!(Layout::read(source.as_ref()).unwrap().scheme, Scheme::Hybrid);
    let disk = Gpt::read(source.as_ref()).unwrap().unwrap().grown(source.as_ref(), 32 << 20).unwrap();
    assert!(bytes_of(&disk)[..512] == bytes_of(source.as_ref())[..512]);
}

#[test]
fn layouts_are_what_they_are() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk");
    let look = |bytes: Vec<u8>| {
        let layout = Layout::read(&ModelDisk::new(bytes, 512)).unwrap();
        (layout.scheme, layout.has_esp, layout.has_boot_code)
    };
    let with_code = |mut bytes: Vec<u8>, code: &[u8]| {
        bytes[..code.len()].copy_from_slice(code);
        bytes
    };
    let esp = made_by_sgdisk(&path, 16 << 20, &ESP_AND_ROOT);
    assert_eq!(look(esp.clone()), (Scheme::Gpt, true, false));
    // Code that leads nowhere beside an ESP is what Windows leaves; GRUB's leads on.
    assert_eq!(look(with_code(esp.clone(), b"\x33\xc0\x8e\xd0")), (Scheme::Gpt, true, false));
    assert_eq!(look(with_code(esp, b"\xeb\x63\x90 GRUB ")), (Scheme::Gpt, true, true));
    let words = ["--clear", "--new=1:2048:4095", "--typecode=1:ef02", "--new=2:4096:0"];
    let bios = made_by_sgdisk(&path, 16 << 20, &words);
    assert_eq!(look(bios.clone()), (Scheme::Gpt, false, false));
    assert_eq!(look(with_code(bios, b"\x33\xc0\x8e\xd0")), (Scheme::Gpt, false, true));
    let mut mbr = vec![0; 1 << 20];
    mbr[450] = 0x83;
    mbr[454] = 8;
    mbr[458] = 8;
    mbr[510..512].copy_from_slice(&[0x55, 0xaa]);
    assert_eq!(look(mbr.clone()), (Scheme::Mbr, false, false));
    mbr[0] = 0xeb;
    mbr[450] = 0xef;
    assert_eq!(look(mbr), (Scheme::Mbr, true, true));
    for bytes in [vec![0; 1 << 20], vec![], vec![7; 300]] {
        assert_eq!(look(bytes.clone()), (Scheme::None, false, false));
        assert_eq!(Gpt::read(&ModelDisk::new(bytes, 512)).unwrap(), None);
    }
}

/// Puts a field in and the checksums right, so that it is reached.
fn sealed(mut bytes: Vec<u8>, at: usize, field: &[u8]) -> Vec<u8> {
    bytes[512 + at..512 + at + field.len()].copy_from_slice(field);
    exercise::reseal(&mut bytes);
    bytes
}

#[test]
fn every_damaged_field_is_named_with_its_place() {
    let dir = tempfile::tempdir().unwrap();
    let good = made_by_sgdisk(&dir.path().join("disk"), 16 << 20, &ESP_AND_ROOT);
    let problem = |bytes: Vec<u8>| {
        let error = Gpt::read(&ModelDisk::new(bytes, 512)).unwrap_err();
        assert!(error.hint().unwrap().contains("gdisk"));
        (
            error.problem::<GptProblem>().copied().unwrap(),
            error.offset().unwrap().get(),
            error.code().to_owned(),
        )
    };
    let mut flipped = good.clone();
    flipped[512 + 60] ^= 1;
    let (found, at, code) = problem(flipped);
    assert!(matches!(found, GptProblem::HeaderCrc { .. }) && at == 528 && code == "gpt.header-crc");
    let mut flipped = good.clone();
    flipped[1024 + 5] ^= 1;
    let (found, at, _) = problem(flipped);
    assert!(matches!(found, GptProblem::EntriesCrc { .. }) && at == 512 + 88);
    for size in [91, 513, u32::MAX] {
        let mut bytes = good.clone();
        bytes[524..528].copy_from_slice(&size.to_le_bytes());
        assert_eq!(problem(bytes), (GptProblem::HeaderSize(size), 524, "gpt.header-size".to_owned()));
    }
    for (at, field, expected, place) in [
        (24, &2_u64.to_le_bytes()[..], GptProblem::MyLba(2), 536),
        (84, &192_u32.to_le_bytes(), GptProblem::EntrySize(192), 596),
        (84, &0_u32.to_le_bytes(), GptProblem::EntrySize(0), 596),
        (84, &0x8000_0000_u32.to_le_bytes(), GptProblem::EntrySize(0x8000_0000), 596),
        (80, &u32::MAX.to_le_bytes(), GptProblem::EntryCount(u32::MAX), 592),
        (72, &u64::MAX.to_le_bytes(), GptProblem::EntryLba(u64::MAX), 584),
        (72, &0_u64.to_le_bytes(), GptProblem::EntryLba(0), 584),
        (40, &u64::MAX.to_le_bytes(), GptProblem::FirstUsable(u64::MAX), 552),
    ] {
        let (found, at, _) = problem(sealed(good.clone(), at, field));
        assert_eq!((found, at), (expected, place));
    }
}

#[test]
fn mutants_are_moved_whole_or_refused() {
    let dir = tempfile::tempdir().unwrap();
    let words = ["--clear", "--set-alignment=1", "--new=1:34:38", "--new=2:39:46"];
    let good = made_by_sgdisk(&dir.path().join("disk"), 40 << 10, &words);
    let mut random = Random(17);
    let (mut moved, mut refused) = (0, 0);
    for _ in 0..5_000 {
        let mut bytes = good.clone();
        for _ in 0..=random.below(3) {
            let at = 446 + random.below(1280 - 446) as usize;
            bytes[at] = random.number() as u8;
        }
        if random.below(2) == 0 {
            exercise::reseal(&mut bytes);
        }
        if random.below(4) == 0 {
            bytes.truncate(random.below(40 << 10) as usize);
        }
        if exercise::gpt(&bytes) { moved += 1 } else { refused += 1 }
    }
    assert!(moved > 500 && refused > 1000, "{moved} {refused}");
}

#[test]
fn the_corpus_of_the_fuzz_target_is_replayed() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/gpt");
    let mut whole = 0;
    for entry in std::fs::read_dir(dir).expect("the corpus") {
        let bytes = std::fs::read(entry.expect("an entry").path()).expect("a file");
        whole += u32::from(exercise::gpt(&bytes));
    }
    assert_eq!(whole, 1);
}
