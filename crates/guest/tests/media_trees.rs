//! Listings and bytes of every file of ISO 9660 images against xorriso and bsdtar, which unpack them, and of squashfs
//! against the kernel's own mount (lzma, which the kernel does not know: against unsquashfs).

mod trees;

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use kiln_disk::{Disk, FileSource, GuestOffset};
use kiln_guest::fs::iso::Iso;
use kiln_guest::fs::iso::volume::boot_images;
use kiln_guest::fs::squashfs::Squashfs;
use kiln_guest::fs::{FileSystem, FsError, Kind};
use kiln_guest::volume::Content;
use kiln_testkit::flat::Flat;
use kiln_testkit::iso::{BLOCK, Record, named, volume};

use self::trees::{Mounted, by_kernel, by_us, fill, noise, same, tool};

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn iso(image: &Path) -> Iso {
    let disk: Arc<dyn Disk> = Arc::new(Flat(FileSource::open(image).unwrap()));
    Iso::open(&disk).unwrap()
}

/// A tree, an image of it by a command, and the image unpacked by another.
fn compare(make: &[&str], unpack: &[&str], unix: bool) -> Iso {
    let dir = tempfile::tempdir().unwrap();
    let (tree, image, out) = (dir.path().join("tree"), dir.path().join("image"), dir.path().join("out"));
    for dir in [&tree, &out] {
        std::fs::create_dir(dir).unwrap();
    }
    fill(&tree, unix);
    // Deeper than the eight levels of ISO 9660 (6.8.2.1).
    let deep = tree.join("1/2/3/4/5/6/7/8/9/10/11");
    std::fs::create_dir_all(&deep).unwrap();
    std::fs::write(deep.join("file"), noise(5000, 8)).unwrap();
    std::fs::write(deep.parent().unwrap().join("other"), "above").unwrap();
    if make[0] == "genisoimage" && unix {
        // It writes such a link for ever.
        std::fs::remove_file(tree.join("dangling and long")).unwrap();
    }
    tool(make[0], &[&make[1..], &["-quiet", "-o", text(&image), text(&tree)]].concat());
    let words: Vec<&str> = unpack
        .iter()
        .map(|word| match *word {
            "IMAGE" => text(&image),
            "OUT" => text(&out),
            other => other,
        })
        .collect();
    tool(words[0], &words[1..]);
    same(&image, Content::Iso9660, by_kernel(&out));
    iso(&image)
}

const XORRISO: &[&str] = &["xorriso", "-osirrox", "on", "-indev", "IMAGE", "-extract", "/", "OUT"];
const BSDTAR: &[&str] = &["bsdtar", "-x", "-f", "IMAGE", "-C", "OUT"];

#[test]
fn rock_ridge_tree_is_the_one_that_xorriso_unpacks() {
    let iso = compare(&["xorriso", "-as", "mkisofs", "-R", "-J", "-joliet-long"], XORRISO, true);
    assert_eq!(iso.names(), "Rock Ridge");
    assert_eq!(iso.stat(b"/small").unwrap().mode.map(|mode| mode & 0o444), Some(0o444));
}

#[test]
fn relocated_directories_are_seen_where_they_were() {
    let iso = compare(&["genisoimage", "-R"], XORRISO, true);
    assert_eq!(iso.stat(b"/1/2/3/4/5/6/7/8/9/10/11").unwrap().kind, Kind::Directory);
    assert!(iso.list(b"/rr_moved").unwrap().is_empty());
}

#[test]
fn joliet_tree_is_the_one_that_bsdtar_unpacks() {
    let iso = compare(&["genisoimage", "-J", "-joliet-long"], BSDTAR, false);
    assert_eq!(iso.names(), "Joliet");
    assert_eq!(iso.stat("/grüSSe AND spaces.txt".as_bytes()).unwrap_err().to_string(), "no such file");
    assert_eq!(iso.stat("/GRÜßE and SPACES.txt".as_bytes()).unwrap().len, 6);
}

/// No tool here writes a file in several extents that has less than 4 GiB.
#[test]
fn file_in_several_extents_is_one() {
    let dir = tempfile::tempdir().unwrap();
    let (image, out) = (dir.path().join("image"), dir.path().join("out"));
    std::fs::create_dir(&out).unwrap();
    let bytes = noise(3 * BLOCK + 100, 11);
    let file = |name: &str, block, len| {
        Record::file(&format!("{}.;1", name.to_uppercase()), block, len)
            .with(&named(name.as_bytes(), 0o100_600))
    };
    let extent = |block, len, flags| Record { flags, ..file("long", block, len) };
    let root = [
        file("a", 30, 5),
        extent(40, 2 * BLOCK as u32, 0x80),
        extent(45, BLOCK as u32, 0x80),
        extent(50, 100, 0),
        file("z", 52, 3),
    ];
    let rest = [
        (30, b"hello".to_vec()),
        (40, bytes[..2 * BLOCK].to_vec()),
        (45, bytes[2 * BLOCK..3 * BLOCK].to_vec()),
        (50, bytes[3 * BLOCK..].to_vec()),
        (52, b"end".to_vec()),
    ];
    std::fs::write(&image, volume(60, &root, &rest)).unwrap();
    tool("bsdtar", &["-x", "-f", text(&image), "-C", text(&out)]);
    let iso = iso(&image);
    assert_eq!(by_us(&iso), by_kernel(&out));
    let stat = iso.stat(b"/long").unwrap();
    assert_eq!((stat.len, stat.mode, stat.uid), (bytes.len() as u64, Some(0o600), Some(1000)));
    for (at, len) in [(0, bytes.len()), (4095, 2), (4096, 2100), (6143, 101), (6200, 1000)] {
        let mut buf = vec![0; len];
        let read = iso.read(b"/long", at as u64, &mut buf).unwrap();
        assert!(buf[..read] == bytes[at..at + read] && read == len.min(bytes.len() - at), "{at}");
    }
}

#[test]
fn boot_catalogue_names_both_firmwares() {
    let dir = tempfile::tempdir().unwrap();
    let (tree, image) = (dir.path().join("tree"), dir.path().join("image"));
    std::fs::create_dir(&tree).unwrap();
    std::fs::write(tree.join("bios.img"), noise(4096, 1)).unwrap();
    std::fs::write(tree.join("efi.img"), noise(300 << 10, 2)).unwrap();
    let words = "-as mkisofs -quiet -R -V BOOTS -publisher PUB -preparer PREP -A APP -b bios.img -no-emul-boot \
                 -boot-load-size 4 -eltorito-alt-boot -e efi.img -no-emul-boot -o";
    let words: Vec<&str> = words.split_whitespace().chain([text(&image), text(&tree)]).collect();
    tool("xorriso", &words);
    let disk = Flat(FileSource::open(&image).unwrap());
    let iso = iso(&image);
    let said = iso.descriptors();
    let words =
        [&said.primary.label, &said.primary.publisher, &said.primary.preparer, &said.primary.application];
    assert_eq!(words, ["BOOTS", "PUB", "PREP", "APP"]);
    assert!(said.primary.volume_len <= disk.disk_len() && said.primary.volume_len > 300 << 10);
    let found = boot_images(&disk, said.catalogue.unwrap()).unwrap();
    let named: Vec<_> = found.iter().map(|entry| (entry.platform, entry.bootable, entry.emulation)).collect();
    assert_eq!(named, [("BIOS", true, "none"), ("UEFI", true, "none")]);
    assert_eq!(found[0].load_sectors, 4);
    for (entry, file) in found.iter().zip(["bios.img", "efi.img"]) {
        let (mut there, wanted) = (vec![0; 4096], std::fs::read(tree.join(file)).unwrap());
        disk.read_guest(GuestOffset::new(u64::from(entry.sector) * 2048), &mut there).unwrap();
        assert_eq!(there, wanted[..4096]);
    }
    // xorriso tells the same of its image.
    let report = Command::new("xorriso")
        .args(["-indev", text(&image), "-report_el_torito", "plain"])
        .output()
        .unwrap();
    let report = String::from_utf8_lossy(&report.stdout).into_owned();
    let lba = |kind: &str| -> u32 {
        let line =
            report.lines().find(|line| line.starts_with("El Torito boot img :") && line.contains(kind));
        line.unwrap().split_whitespace().last().unwrap().parse().unwrap()
    };
    assert_eq!((found[0].sector, found[1].sector), (lba(" BIOS "), lba(" UEFI ")), "{report}");
}

/// A tree of what squashfs makes difficult: ends of files that share a fragment, holes, a directory with an index.
fn packed(words: &[&str]) {
    let dir = tempfile::tempdir().unwrap();
    let (tree, image, out) = (dir.path().join("tree"), dir.path().join("image"), dir.path().join("out"));
    std::fs::create_dir(&tree).unwrap();
    fill(&tree, true);
    for index in 0..4000 {
        let name = format!("large/{:03}/a name that fills the blocks of a directory {index:05}", index % 2);
        std::fs::create_dir_all(tree.join("large").join(format!("{:03}", index % 2))).unwrap();
        std::fs::write(tree.join(name), format!("{index}")).unwrap();
    }
    std::fs::write(tree.join("words"), "the quick brown fox jumps over the lazy dog; ".repeat(20_000))
        .unwrap();
    std::fs::write(tree.join("zeros"), vec![0; 300_000]).unwrap();
    tool("mksquashfs", &[&[text(&tree), text(&image), "-quiet", "-no-progress"], words].concat());
    let fs = squashfs(&image);
    if words.contains(&"lzma") {
        tool("unsquashfs", &["-quiet", "-no-progress", "-d", text(&out), text(&image)]);
        same(&image, Content::Squashfs, by_kernel(&out));
        return;
    }
    let mount = Mounted::new(&image, out, "loop,ro");
    same(&image, Content::Squashfs, by_kernel(&mount.0));
    for path in ["small", "many", "link", "sparse"] {
        let (ours, theirs) = (fs.stat(format!("/{path}").as_bytes()), mount.0.join(path).symlink_metadata());
        let (ours, theirs) = (ours.unwrap(), theirs.unwrap());
        assert_eq!((ours.mode, ours.uid), (Some(theirs.mode() & 0o7777), Some(theirs.uid())), "{path}");
    }
    assert!(matches!(fs.stat(b"/large/000/a name that is not there"), Err(FsError::NotFound)));
    assert!(matches!(fs.stat(b"/large/000/zzz"), Err(FsError::NotFound)));
    // Backwards, and somewhere in the middle.
    let whole = std::fs::read(mount.0.join("big")).unwrap();
    for at in [2_999_990_u64, 2_000_000, 131_071, 5] {
        let mut buf = [0; 300_000];
        let read = fs.read(b"/big", at, &mut buf).unwrap();
        assert!(
            buf[..read] == whole[at as usize..][..read] && read == 300_000.min(whole.len() - at as usize),
            "{at}"
        );
    }
}

fn squashfs(image: &Path) -> Squashfs {
    let disk: Arc<dyn Disk> = Arc::new(Flat(FileSource::open(image).unwrap()));
    Squashfs::open(&disk).unwrap()
}

#[test]
fn squashfs_trees_are_those_that_the_kernel_shows() {
    packed(&[]);
    packed(&["-comp", "xz", "-Xbcj", "x86"]);
    packed(&["-comp", "zstd"]);
    packed(&["-comp", "lz4"]);
    packed(&["-comp", "lz4", "-Xhc", "-b", "4096"]);
    packed(&["-comp", "lzo"]);
    packed(&["-comp", "lzo", "-Xalgorithm", "lzo1x_1"]);
    packed(&["-comp", "lzma"]);
}

#[test]
fn squashfs_trees_of_other_shapes_are_those_that_the_kernel_shows() {
    packed(&["-noI", "-noD", "-noF", "-noId"]);
    packed(&["-no-fragments", "-b", "1M"]);
    packed(&["-always-use-fragments", "-force-uid", "70000", "-no-exports", "-no-xattrs"]);
}
