//! What is said of media: images as vendors lay them out, in small, made by xorriso and mksquashfs. And what is not
//! said: no rule takes what lies on a medium for a system that starts.

use std::num::NonZeroU64;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use kiln_disk::{Budget, Disk, Extent, ExtentKind, FileSource, GuestOffset, Limits, check_range};
use kiln_guest::facts::Depth;
use kiln_guest::facts::media::{Medium, MediumKind};
use kiln_guest::rules::{Impact, Options, PLACES, Verdict};
use kiln_guest::{Examination, GuestReport, examine, judge};
use kiln_testkit::flat::Flat;

const RELEASE: &str = "NAME=\"Debian GNU/Linux\"\nID=debian\nVERSION_ID=\"12\"\n\
                       PRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\n";

fn tool(program: &str, words: &[&str]) {
    let path = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap());
    let output = Command::new(program).args(words).env("PATH", path).output();
    let output = output.unwrap_or_else(|error| panic!("{program} (make setup installs it): {error}"));
    assert!(output.status.success(), "{program} {words:?}: {}", String::from_utf8_lossy(&output.stderr));
}

fn write(root: &Path, path: &str, bytes: impl AsRef<[u8]>) {
    let path = root.join(path);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, bytes).unwrap();
}

/// A system as a root file system would have it.
fn system(root: &Path) {
    write(root, "usr/lib/os-release", RELEASE);
    std::fs::create_dir_all(root.join("etc")).unwrap();
    std::os::unix::fs::symlink("../usr/lib/os-release", root.join("etc/os-release")).unwrap();
    write(root, "etc/fstab", "/dev/vda1 / ext4 defaults 0 1\n");
    write(root, "etc/passwd", "root:x:0:0:root:/root:/bin/sh\n");
    write(root, "sbin/init", "#!/bin/sh\n");
}

/// A tree, packed.
fn squashed(fill: impl FnOnce(&Path), words: &[&str]) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let (tree, image) = (dir.path().join("tree"), dir.path().join("image"));
    std::fs::create_dir(&tree).unwrap();
    fill(&tree);
    let paths = [tree.to_str().unwrap(), image.to_str().unwrap(), "-quiet", "-no-progress"];
    tool("mksquashfs", &[&paths, words].concat());
    std::fs::read(image).unwrap()
}

/// The image of a tree.
fn iso(files: &[(&str, &[u8])], words: &str) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let (tree, image) = (dir.path().join("tree"), dir.path().join("image"));
    std::fs::create_dir(&tree).unwrap();
    files.iter().for_each(|(path, bytes)| write(&tree, path, bytes));
    let mut all = vec!["-as", "mkisofs", "-quiet", "-R"];
    all.extend(words.split_whitespace());
    all.extend(["-o", image.to_str().unwrap(), tree.to_str().unwrap()]);
    tool("xorriso", &all);
    std::fs::read(image).unwrap()
}

fn look(bytes: &[u8]) -> Examination {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), bytes).unwrap();
    let disk: Arc<dyn Disk> = Arc::new(Flat(FileSource::open(file.path()).unwrap()));
    examine(&[disk], &Arc::new(Budget::new(Limits::INSPECT)), Depth::Full).unwrap()
}

fn medium(bytes: &[u8]) -> Medium {
    let report = look(bytes).report;
    assert!(report.roots.is_empty() && report.mounts.is_empty() && report.os.is_none());
    let medium = report.media.clone().unwrap();
    assert_eq!(medium.problems, Vec::<String>::new());
    // As it comes from a worker.
    let text = serde_json::to_string(&report).unwrap();
    let again: GuestReport = serde_json::from_str(&text).unwrap();
    assert_eq!(again.media.as_ref(), Some(&medium));
    medium
}

/// The verdict of every place, and what container.iso says.
fn judged(bytes: &[u8]) -> (Vec<Verdict>, Vec<String>) {
    let examination = look(bytes);
    let judgements: Vec<_> =
        PLACES.iter().map(|place| judge(&examination, place, &Options::default())).collect();
    let said = judgements.iter().flat_map(|judgement| &judgement.findings);
    let said = said.filter(|finding| finding.id == "container.iso");
    let mut said: Vec<String> = said
        .map(|finding| {
            assert_eq!(finding.severity, Impact::RejectedAtImport);
            finding.detail.clone()
        })
        .collect();
    said.dedup();
    (judgements.iter().map(|judgement| judgement.verdict).collect(), said)
}

const DEBIAN: &[u8] = b"Official Debian GNU/Linux Live 12.5.0 standard 2024-02-10T12:04\n";

#[test]
fn live_medium_is_named_with_the_system_that_it_carries() {
    for words in [&["-comp", "xz"][..], &["-comp", "zstd"]] {
        let root = squashed(system, words);
        let bytes = iso(
            &[(".disk/info", DEBIAN), ("live/filesystem.squashfs", &root), ("live/vmlinuz", b"x")],
            "-V d-live -publisher DEBIAN",
        );
        let medium = medium(&bytes);
        assert_eq!((medium.format, medium.variant, medium.kind), ("iso9660", "Rock Ridge", MediumKind::Live));
        assert_eq!(
            medium.words(),
            "Official Debian GNU/Linux Live 12.5.0 standard 2024-02-10T12:04, a live system"
        );
        let volume = medium.volume.as_ref().unwrap();
        assert_eq!((volume.label.as_str(), volume.publisher.as_str()), ("d-live", "DEBIAN"));
        assert_eq!((volume.missing, volume.hybrid, volume.udf), (0, false, false));
        assert!(volume.created.as_ref().unwrap().starts_with("20"));
        let [image] = &medium.images[..] else { panic!("{:?}", medium.images) };
        assert_eq!((image.path.as_str(), image.bytes), ("/live/filesystem.squashfs", root.len() as u64));
        assert_eq!((image.content.as_str(), image.compression), ("squashfs", Some(words[1])));
        let release = image.release.as_ref().unwrap();
        assert_eq!(
            (release.name.as_str(), release.id.as_str()),
            ("Debian GNU/Linux 12 (bookworm)", "debian")
        );
        let (verdicts, said) = judged(&bytes);
        assert!(verdicts.iter().all(|verdict| *verdict == Verdict::WillNotBoot), "{verdicts:?}");
        assert_eq!(said, [format!("it is an ISO 9660 image: {}", medium.words())]);
    }
}

#[test]
fn installers_are_told_from_live_systems() {
    let tree = b"[general]\nfamily = Fedora\nversion = 39\narch = x86_64\nvariant = Server\n";
    let root = squashed(system, &[]);
    let fedora = medium(&iso(&[(".treeinfo", tree), ("images/install.img", &root)], ""));
    assert_eq!((fedora.kind, fedora.words().as_str()), (MediumKind::Installer, "Fedora 39, an installer"));
    assert_eq!(fedora.images[0].path, "/images/install.img");
    let info = b"Ubuntu-Server 24.04.1 LTS \"Noble Numbat\" - Release amd64 (20240827)";
    let layers: [(&str, &[u8]); 4] = [
        (".disk/info", info),
        ("casper/ubuntu-server-minimal.squashfs", &root),
        ("casper/ubuntu-server-minimal.ubuntu-server.squashfs", b"hsqs but no more"),
        ("casper/install-sources.yaml", b"- default: true\n"),
    ];
    let ubuntu = medium(&iso(&layers, ""));
    let words = "Ubuntu-Server 24.04.1 LTS \"Noble Numbat\", an installer";
    assert_eq!((ubuntu.words().as_str(), ubuntu.images.len()), (words, 2));
    // Without a word of its own: the system that it carries.
    let arch = medium(&iso(&[("arch/x86_64/airootfs.sfs", &root)], ""));
    assert_eq!(arch.words(), "Debian GNU/Linux 12 (bookworm), a live system");
    let windows = medium(&iso(&[("sources/install.wim", b"MSWIM\0\0\0"), ("sources/boot.wim", b"x")], ""));
    assert_eq!(windows.words(), "Windows, an installer");
    let says: Vec<&str> = windows.signs.iter().map(|sign| sign.says.as_str()).collect();
    assert_eq!(says, ["8 bytes", "1 bytes"]);
    let nothing = medium(&iso(&[("file", b"x")], ""));
    assert_eq!((nothing.kind, nothing.name.as_deref()), (MediumKind::Unknown, None));
    assert_eq!(
        judged(&iso(&[("file", b"x")], "")).1,
        ["it is an ISO 9660 image: an installer or a live system"]
    );
}

/// dracut's live systems: a squashfs that holds a file system that holds the system.
#[test]
fn system_two_files_deep_is_found() {
    let nested = squashed(
        |tree| {
            let dir = tempfile::tempdir().unwrap();
            system(dir.path());
            std::fs::create_dir(tree.join("LiveOS")).unwrap();
            let image = tree.join("LiveOS/rootfs.img");
            std::fs::File::create(&image).unwrap().set_len(16 << 20).unwrap();
            let words =
                ["-q", "-F", "-t", "ext4", "-d", dir.path().to_str().unwrap(), image.to_str().unwrap()];
            tool("mke2fs", &words);
        },
        &["-comp", "xz"],
    );
    let medium = medium(&iso(&[("LiveOS/squashfs.img", &nested)], "-V Fedora-WS-Live-39"));
    assert_eq!(medium.words(), "Debian GNU/Linux 12 (bookworm), a live system");
}

#[test]
fn seeds_of_cloud_init_are_data() {
    let files: [(&str, &[u8]); 2] = [("user-data", b"#cloud-config\n"), ("meta-data", b"instance-id: i-1\n")];
    let bytes = iso(&files, "-V CIDATA");
    let seed = medium(&bytes);
    assert_eq!((seed.kind, seed.name.as_deref()), (MediumKind::Data, Some("cloud-init seed (NoCloud)")));
    let signs: Vec<&str> = seed.signs.iter().map(|sign| sign.path.as_str()).collect();
    assert_eq!(signs, ["/meta-data", "/user-data"]);
    assert_eq!(judged(&bytes).1, ["it is an ISO 9660 image: cloud-init seed (NoCloud), data for a machine"]);
    let drive = medium(&iso(&[("openstack/latest/meta_data.json", b"{}")], "-V config-2"));
    assert_eq!(drive.name.as_deref(), Some("cloud-init seed (config drive)"));
    assert_eq!(drive.signs.len(), 1);
}

#[test]
fn partition_tables_of_hybrid_media_do_not_hide_them() {
    let good =
        iso(&[(".disk/info", DEBIAN), ("efi.img", &[7; 100_000])], "-V HYBRID -e efi.img -no-emul-boot");
    assert_eq!(medium(&good).boot.len(), 1);
    // Entries of an MBR: type, first sector, sectors.
    let sectors = good.len() as u32 / 512;
    for (kind, start, len) in
        [(0x17, 0, sectors), (0xcd, 1, sectors - 1), (0, 0, sectors), (0x83, 64, sectors - 64)]
    {
        let mut bytes = good.clone();
        let mut entry = |index: usize, kind: u8, start: u32, len: u32| {
            let at = 446 + index * 16;
            bytes[at + 4] = kind;
            bytes[at + 8..at + 12].copy_from_slice(&start.to_le_bytes());
            bytes[at + 12..at + 16].copy_from_slice(&len.to_le_bytes());
        };
        entry(0, kind, start, len);
        entry(1, 0xef, sectors - 64, 64);
        bytes[510..512].copy_from_slice(&[0x55, 0xaa]);
        let medium = medium(&bytes);
        assert!(medium.volume.as_ref().unwrap().hybrid && medium.name.is_some(), "{kind:#x} {start}");
    }
    // A disk that was a medium once: its table begins behind the descriptors.
    let mut bytes = good.clone();
    bytes.resize(8 << 20, 0);
    bytes[446 + 4] = 0x83;
    bytes[446 + 8..446 + 16].copy_from_slice(&[0, 8, 0, 0, 0, 32, 0, 0]);
    bytes[510..512].copy_from_slice(&[0x55, 0xaa]);
    assert!(look(&bytes).report.media.is_none());
}

#[test]
fn medium_that_is_cut_off_is_said_to_be() {
    let good = iso(&[(".disk/info", DEBIAN), ("large", &[7; 4 << 20])], "-V CUT");
    let medium = medium(&good[..2 << 20]);
    let missing = medium.volume.unwrap().missing;
    assert!(missing > 2 << 20 && missing <= good.len() as u64 - (2 << 20), "{missing}");
}

/// OpenWrt starts from a squashfs with an overlay. What is in it is read as a medium, never as a root.
#[test]
fn squashfs_is_no_root() {
    let root = squashed(system, &["-comp", "xz"]);
    let bare = look(&root).report;
    let medium = bare.media.as_ref().unwrap();
    assert_eq!((medium.format, medium.variant), ("squashfs", "xz"));
    assert_eq!(medium.name.as_deref(), Some("Debian GNU/Linux 12 (bookworm)"));
    // The same as the one partition of a disk, behind an MBR with code in it.
    let mut disk = vec![0; 4 << 20];
    disk[..4].copy_from_slice(&[0xeb, 0x63, 0x90, 0]);
    disk[446] = 0x80;
    disk[446 + 4] = 0x83;
    disk[446 + 8..446 + 16].copy_from_slice(&[0, 8, 0, 0, 0, 24, 0, 0]);
    disk[510..512].copy_from_slice(&[0x55, 0xaa]);
    disk[1 << 20..][..root.len()].copy_from_slice(&root);
    for bytes in [&root, &disk] {
        let examination = look(bytes);
        let report = &examination.report;
        assert!(report.roots.is_empty() && report.mounts.is_empty() && report.os.is_none());
        for place in PLACES {
            let judgement = judge(&examination, place, &Options::default());
            assert!(judgement.unanswered.iter().any(|open| open.id == "os.root"), "{}", place.id);
            assert_ne!(judgement.verdict, Verdict::Boots, "{}", place.id);
            assert_ne!(judgement.verdict, Verdict::BootsWithWarnings, "{}", place.id);
            assert!(judgement.findings.iter().all(|finding| finding.id != "os.root"), "{}", place.id);
        }
    }
    assert!(look(&disk).report.media.is_none());
}

/// A disk that counts what is read of it.
struct Counted(Vec<u8>, AtomicU64);

impl Disk for Counted {
    fn disk_len(&self) -> u64 {
        self.0.len() as u64
    }
    fn read_guest(&self, at: GuestOffset, buf: &mut [u8]) -> kiln_disk::Result<()> {
        check_range(at, buf.len(), self.disk_len())?;
        self.1.fetch_add(buf.len() as u64, Ordering::Relaxed);
        buf.copy_from_slice(&self.0[at.get() as usize..][..buf.len()]);
        Ok(())
    }
    fn extent_at(&self, at: GuestOffset, limit: NonZeroU64) -> kiln_disk::Result<Extent> {
        Ok(Extent { start: at, len: limit, kind: ExtentKind::Encoded })
    }
}

fn noise(len: usize) -> Vec<u8> {
    let mut state = 7_u64;
    let step = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as u8
    };
    std::iter::repeat_with(step).take(len).collect()
}

#[test]
fn of_a_large_medium_little_is_read() {
    let fill = |tree: &Path| {
        system(tree);
        (0..20).for_each(|index| write(tree, &format!("usr/bin/{index}"), noise(1_500_000 + index)));
    };
    let root = squashed(fill, &["-no-duplicates"]);
    assert!(root.len() > 28 << 20);
    let bytes =
        iso(&[(".disk/info", DEBIAN), ("live/filesystem.squashfs", &root), ("pool/x", &noise(9 << 20))], "");
    let disk = Arc::new(Counted(bytes, AtomicU64::new(0)));
    let disks: [Arc<dyn Disk>; 1] = [Arc::clone(&disk) as _];
    let report = examine(&disks, &Arc::new(Budget::new(Limits::INSPECT)), Depth::Full).unwrap().report;
    assert!(report.media.unwrap().images[0].release.is_some());
    let read = disk.1.load(Ordering::Relaxed);
    assert!(read < 2 << 20, "{read} of {}", disk.0.len());
}

#[test]
fn mutants_of_a_medium_are_survived() {
    let root = squashed(system, &["-comp", "zstd", "-noI"]);
    let files: [(&str, &[u8]); 3] =
        [(".disk/info", DEBIAN), ("live/filesystem.squashfs", &root), ("efi.img", &[7; 4096])];
    let good = iso(&files, "-J -e efi.img -no-emul-boot -no-pad");
    let inner = good.windows(4).position(|word| word == b"hsqs").unwrap();
    let mut state = 0xabcd_u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as usize
    };
    let (mut media, mut released) = (0, 0);
    for round in 0..400 {
        let mut bytes = good.clone();
        for _ in 0..1 + next() % 6 {
            let at = match round % 3 {
                0 => (32 << 10) + next() % (40 << 10),
                1 => inner + next() % 96,
                _ => inner + next() % root.len(),
            };
            bytes[at] = next() as u8;
        }
        let started = Instant::now();
        let disk: Arc<dyn Disk> = Arc::new(Counted(bytes, AtomicU64::new(0)));
        let examination = examine(&[disk], &Arc::new(Budget::new(Limits::INSPECT)), Depth::Full).unwrap();
        for place in PLACES {
            let judgement = judge(&examination, place, &Options::default());
            assert!(!matches!(judgement.verdict, Verdict::Boots | Verdict::BootsWithWarnings));
        }
        assert!(examination.report.roots.is_empty());
        media += u32::from(examination.report.media.is_some());
        released += u32::from(examination.report.media.is_some_and(|medium| medium.name.is_some()));
        assert!(started.elapsed() < Duration::from_secs(20));
    }
    assert!(media > 300 && released > 200, "{media} {released}");
}
