//! Listings and bytes of every file against the kernel's own mount (FAT: against mtools): trees with odd names, sparse
//! files, hard links and symbolic links. The tests mount, as root; the product never does.

mod trees;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use kiln_disk::{Disk, FileSource};
use kiln_guest::fs::{Kind, Root, open};
use kiln_guest::volume::{Content, FsState, probe};
use kiln_testkit::flat::Flat;

use self::trees::{Listing, Mounted, by_kernel, fill, noise, same, tool};

/// Makes a file system, fills it through the kernel, and compares.
fn compare(make: &[&str], megabytes: u64, content: Content) {
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("image");
    std::fs::File::create(&image).unwrap().set_len(megabytes << 20).unwrap();
    tool(make[0], &[&make[1..], &[image.to_str().unwrap()]].concat());
    {
        let mount = Mounted::new(&image, dir.path().join("rw"), "loop");
        fill(&mount.0, true);
        if make[0] == "mkfs.ext2" {
            // See `hole_of_a_whole_indirect_block_is_not_read`.
            std::fs::remove_file(mount.0.join("sparse")).unwrap();
        }
    }
    let mount = Mounted::new(&image, dir.path().join("ro"), "loop,ro");
    let expected = by_kernel(&mount.0);
    same(&image, content, expected);
}

#[test]
fn ext4_tree_is_the_one_that_the_kernel_shows() {
    compare(&["mkfs.ext4", "-q", "-F"], 64, Content::Ext);
    compare(&["mkfs.ext4", "-q", "-F", "-O", "64bit,metadata_csum", "-I", "512"], 64, Content::Ext);
}

#[test]
fn ext2_tree_of_small_blocks_is_the_one_that_the_kernel_shows() {
    compare(&["mkfs.ext2", "-q", "-F", "-b", "1024"], 64, Content::Ext);
}

/// A limit of ext4-view 1.0: in a file without extents, a hole as long as what one indirect block maps is a
/// panic, which comes out as an error.
/// When this test fails the limit is gone, and the exception in `compare` with it.
#[test]
fn hole_of_a_whole_indirect_block_is_not_read() {
    let dir = tempfile::tempdir().unwrap();
    let (image, tree) = (dir.path().join("image"), dir.path().join("tree"));
    std::fs::create_dir(&tree).unwrap();
    let file = std::fs::File::create(tree.join("sparse")).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, b"end", 9 << 20).unwrap();
    std::fs::File::create(&image).unwrap().set_len(16 << 20).unwrap();
    let words =
        ["-q", "-F", "-t", "ext2", "-b", "1024", "-d", tree.to_str().unwrap(), image.to_str().unwrap()];
    tool("mke2fs", &words);
    let disk: Arc<dyn Disk> = Arc::new(Flat(FileSource::open(&image).unwrap()));
    let fs = open(&disk, Content::Ext, &Root::Default).unwrap();
    let answer = fs.read(b"/sparse", 4 << 20, &mut [0; 4096]);
    assert!(matches!(answer, Err(kiln_guest::fs::FsError::Crashed(_))), "{answer:?}");
}

#[test]
fn xfs_tree_is_the_one_that_the_kernel_shows() {
    compare(&["mkfs.xfs", "-q"], 320, Content::Xfs);
}

/// A file system that says it has a journal and has none is one that the kernel does not mount.
#[test]
fn ext_without_its_journal_is_one_that_the_kernel_refuses() {
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("image");
    let path = image.to_str().unwrap();
    let debugfs = |request: &str| tool("debugfs", &["-w", "-R", request, path]);
    let journal = |bytes: &mut Vec<u8>| {
        let at = bytes.chunks(1024).position(|block| block.starts_with(&[0xc0, 0x3b, 0x39, 0x98])).unwrap();
        bytes[at * 1024..][..1024].fill(0);
    };
    for options in ["-text4", "-text4 -O64bit,metadata_csum,meta_bg,^resize_inode", "-text3 -b1024", "-text2"]
    {
        for damage in ["", "clri <8>", "sif <8> links_count 0", "journal"] {
            std::fs::File::create(&image).unwrap().set_len(64 << 20).unwrap();
            tool(
                "mke2fs",
                &[&["-q", "-F"], options.split(' ').collect::<Vec<_>>().as_slice(), &[path]].concat(),
            );
            let has_journal = options != "-text2";
            match damage {
                "" => {}
                "journal" if has_journal => {
                    let mut bytes = std::fs::read(&image).unwrap();
                    journal(&mut bytes);
                    std::fs::write(&image, bytes).unwrap();
                }
                _ if has_journal => debugfs(damage),
                _ => continue,
            }
            let expected = if damage.is_empty() { FsState::Clean } else { FsState::Damaged };
            let disk: Arc<dyn Disk> = Arc::new(Flat(FileSource::open(&image).unwrap()));
            assert_eq!(probe(&disk).unwrap().state, Some(expected), "{options} {damage}");
            let at = dir.path().join("mnt");
            std::fs::create_dir_all(&at).unwrap();
            let mounts =
                Command::new("mount").args(["-o", "loop", path, at.to_str().unwrap()]).output().unwrap();
            if mounts.status.success() {
                tool("umount", &[at.to_str().unwrap()]);
            }
            assert_eq!(mounts.status.success(), damage.is_empty(), "{options} {damage}");
        }
    }
}

/// How an XFS was left, as xfs_logprint sees it: new, in use, and unmounted, until its log has gone round.
#[test]
fn xfs_was_left_as_xfs_logprint_says() {
    let dir = tempfile::tempdir().unwrap();
    let (image, copy) = (dir.path().join("image"), dir.path().join("copy"));
    std::fs::File::create(&image).unwrap().set_len(320 << 20).unwrap();
    // A log this short is made for tests only.
    tool("mkfs.xfs", &["--unsupported", "-q", "-l", "size=6m", image.to_str().unwrap()]);
    let (mut heads, mut seen) = (Vec::new(), BTreeMap::<_, u32>::new());
    let mut agrees = |path: &Path| {
        let printed = Command::new("xfs_logprint").arg("-t").arg(path).output().expect("xfs_logprint runs");
        let printed = String::from_utf8_lossy(&printed.stdout).into_owned();
        let line = printed.lines().find(|line| line.contains("state: ")).expect("a state");
        let disk: Arc<dyn Disk> = Arc::new(Flat(FileSource::open(path).unwrap()));
        let expected = if line.contains("<CLEAN>") { FsState::Clean } else { FsState::NeedsRecovery };
        assert_eq!(probe(&disk).unwrap().state, Some(expected), "{line}");
        let head = line.split("head: ").nth(1).and_then(|rest| rest.split(' ').next()?.parse::<u64>().ok());
        heads.push(head.expect("a head"));
        *seen.entry(format!("{expected:?}")).or_default() += 1;
    };
    agrees(&image);
    for round in 0..20 {
        {
            let mount = Mounted::new(&image, dir.path().join("rw"), "loop");
            for file in 0..400 {
                let directory = mount.0.join(format!("{round}-{file}"));
                std::fs::create_dir(&directory).unwrap();
                std::fs::write(directory.join("file"), b"text").unwrap();
            }
            tool("sync", &["-f", mount.0.to_str().unwrap()]);
            for file in 0..400 {
                std::fs::remove_dir_all(mount.0.join(format!("{round}-{file}"))).unwrap();
            }
            tool("sync", &["-f", mount.0.to_str().unwrap()]);
            tool("cp", &["--sparse=always", image.to_str().unwrap(), copy.to_str().unwrap()]);
        }
        agrees(&copy);
        agrees(&image);
    }
    assert_eq!(
        seen.into_iter().collect::<Vec<_>>(),
        [("Clean".to_owned(), 21), ("NeedsRecovery".to_owned(), 20)]
    );
    assert!(heads.windows(2).any(|pair| pair[1] < pair[0]), "the log did not go round: {heads:?}");
    // sb_logstart of a log on another device.
    let mut bytes = std::fs::read(&image).unwrap();
    bytes[48..56].fill(0);
    std::fs::write(&copy, &bytes).unwrap();
    let disk: Arc<dyn Disk> = Arc::new(Flat(FileSource::open(&copy).unwrap()));
    assert_eq!(probe(&disk).unwrap().state, None);
}

#[test]
fn btrfs_tree_is_the_one_that_the_kernel_shows() {
    compare(&["mkfs.btrfs", "-q"], 160, Content::Btrfs);
}

/// Filled by mtools: not every kernel has a driver of FAT.
#[test]
fn fat_trees_are_the_ones_that_mtools_wrote() {
    for (words, megabytes) in
        [(&["-F", "32"][..], 64_u64), (&["-F", "16", "-s", "4"], 32), (&["-F", "12", "-s", "16"], 16)]
    {
        let dir = tempfile::tempdir().unwrap();
        let (image, tree) = (dir.path().join("image"), dir.path().join("tree"));
        std::fs::create_dir(&tree).unwrap();
        fill(&tree, false);
        std::fs::File::create(&image).unwrap().set_len(megabytes << 20).unwrap();
        tool("mkfs.vfat", &[words, &[image.to_str().unwrap()]].concat());
        let mut names: Vec<PathBuf> =
            std::fs::read_dir(&tree).unwrap().map(|entry| entry.unwrap().path()).collect();
        names.sort();
        let names: Vec<&str> = names.iter().map(|name| name.to_str().unwrap()).collect();
        tool("mcopy", &[&["-s", "-i", image.to_str().unwrap()], names.as_slice(), &["::/"]].concat());
        same(&image, Content::Fat, by_kernel(&tree));
    }
}

/// Filled by ntfs-3g, whose mount is what is compared: not every kernel has a driver of NTFS.
#[test]
fn ntfs_tree_is_the_one_that_ntfs_3g_shows() {
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("image");
    let mut expected = Listing::new();
    kiln_testkit::windows::ntfs(&[], &image, (96 << 20, 0), &dir.path().join("mnt"), |root| {
        fill(root, false);
        std::fs::write(root.join("newline\nand\ttab"), "odd").unwrap();
        std::fs::write(root.join("n".repeat(255)), "longest").unwrap();
        std::fs::write(root.join("beyond the plane \u{1f600}"), "a pair").unwrap();
        std::fs::write(root.join("Case"), "first").unwrap();
        // So many names and so many runs that no record holds them: attribute lists.
        for index in 0..60 {
            let name = format!("hard link {index} with a name that takes its place in a record");
            std::fs::hard_link(root.join("big"), root.join(name)).unwrap();
        }
        let holes = std::fs::File::create(root.join("holes")).unwrap();
        for index in 0..1500_u64 {
            let bytes = noise(4096, index);
            std::os::unix::fs::FileExt::write_all_at(&holes, &bytes, index * 3 * 4096).unwrap();
        }
        let sparse = std::fs::File::create(root.join("sparse")).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&sparse, &noise(5000, 5), 1 << 20).unwrap();
        sparse.set_len(12 << 20).unwrap();
        // Index blocks that are free again, with the names that they held.
        std::fs::create_dir(root.join("emptied")).unwrap();
        let gone = |index: u32| root.join(format!("emptied/a file that is deleted, number {index}"));
        (0..500).for_each(|index| std::fs::write(gone(index), "").unwrap());
        (3..500).for_each(|index| std::fs::remove_file(gone(index)).unwrap());
        expected = by_kernel(root);
    });
    same(&image, Content::Ntfs, expected);
    let disk: Arc<dyn Disk> = Arc::new(Flat(FileSource::open(&image).unwrap()));
    let fs = open(&disk, Content::Ntfs, &Root::Default).unwrap();
    for path in ["/SMALL", "/small", "/gr\u{dc}\u{df}E AND SPACES.txt", "/DEEP/Er/aND/deeper/FILE", "/case"] {
        assert_eq!(fs.stat(path.as_bytes()).unwrap().kind, Kind::File, "{path}");
    }
    assert!(matches!(fs.stat(b"/small/file"), Err(kiln_guest::fs::FsError::NotFound)));
    assert!(matches!(fs.stat(b"/$MFT"), Err(kiln_guest::fs::FsError::NotFound)));
    let mut probed = probe(&disk).unwrap();
    fs.describe(&mut probed).unwrap();
    assert_eq!((probed.label.as_str(), probed.version.as_deref()), ("System", Some("3.1")));
    assert_eq!(probed.state, Some(FsState::Clean));
    // The volume's own tool counts the free clusters.
    let output = Command::new("ntfsinfo").args(["-m", image.to_str().unwrap()]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let number = |name: &str| -> u64 {
        let line = text.lines().find_map(|line| line.trim().strip_prefix(name)).unwrap();
        line.split_whitespace().next().unwrap().parse().unwrap()
    };
    let space = fs.space().unwrap().unwrap();
    let cluster = number("Cluster Size:");
    assert_eq!(space.free, number("Free Clusters:") * cluster, "{text}");
    assert_eq!(space.total, number("Volume Size in Clusters:") * cluster);
}

/// Clusters shorter than a record, and longer than an index block; records of 4096 bytes.
#[test]
fn ntfs_trees_of_odd_clusters_are_those_that_ntfs_3g_shows() {
    for words in [&["-c", "512"][..], &["-c", "65536"], &["-s", "4096"]] {
        let dir = tempfile::tempdir().unwrap();
        let image = dir.path().join("image");
        let mut expected = Listing::new();
        kiln_testkit::windows::ntfs(words, &image, (80 << 20, 0), &dir.path().join("mnt"), |root| {
            fill(root, false);
            expected = by_kernel(root);
        });
        same(&image, Content::Ntfs, expected);
    }
}

/// Links that lead in the volume and out of it; files in a directory that packs them.
#[test]
fn ntfs_links_stay_inside_and_packed_files_are_unpacked() {
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("image");
    // Units that are packed, one that cannot be, one of zeros, a part of one.
    let words = "the quick brown fox jumps over the lazy dog; ".repeat(2000);
    let packed = [words.as_bytes(), &noise(200_000, 9), &[0; 150_000], words.as_bytes(), b"end"].concat();
    kiln_testkit::windows::ntfs(&[], &image, (24 << 20, 0), &dir.path().join("mnt"), |root| {
        let attribute = |path: &str, name: &str, value: &[u8]| {
            let program = "import os, sys; os.setxattr(sys.argv[1], sys.argv[2], bytes.fromhex(sys.argv[3]))";
            let value: String = value.iter().map(|byte| format!("{byte:02x}")).collect();
            tool("/usr/bin/python3", &["-c", program, root.join(path).to_str().unwrap(), name, &value]);
        };
        let junction = |path: &str, target: &str| {
            std::fs::create_dir(root.join(path)).unwrap();
            let name: Vec<u8> = target.encode_utf16().flat_map(u16::to_le_bytes).collect();
            let len = name.len() as u16;
            let words = [0, len, len + 2, 0].map(u16::to_le_bytes).concat();
            let rest = [&words[..], &name, &[0; 4]].concat();
            let head =
                [&0xa000_0003_u32.to_le_bytes()[..], &(rest.len() as u16).to_le_bytes(), &[0; 2]].concat();
            attribute(path, "system.ntfs_reparse_data", &[head, rest].concat());
        };
        std::fs::create_dir(root.join("Users")).unwrap();
        std::fs::write(root.join("Users/file"), "here").unwrap();
        junction("Documents and Settings", "\\??\\C:\\Users");
        junction("data", "\\??\\D:\\");
        // Directories whose new files are packed.
        std::fs::create_dir(root.join("packed")).unwrap();
        attribute("packed", "system.ntfs_attrib", &0x810_u32.to_le_bytes());
        std::fs::write(root.join("packed/file"), &packed).unwrap();
        std::fs::write(root.join("packed/small"), "in its record").unwrap();
    });
    let disk: Arc<dyn Disk> = Arc::new(Flat(FileSource::open(&image).unwrap()));
    let fs = open(&disk, Content::Ntfs, &Root::Default).unwrap();
    let kind = |path: &str| fs.stat(path.as_bytes()).unwrap().kind;
    assert_eq!((kind("/Documents and Settings"), kind("/data")), (Kind::Link, Kind::Special));
    assert_eq!(fs.read_link(b"/documents AND settings").unwrap(), b"/Users");
    assert_eq!(fs.stat(b"/packed/file").unwrap().len, packed.len() as u64);
    for (at, len) in [(0, packed.len()), (65_535, 3), (70_000, 140_000), (packed.len() - 3, 10)] {
        let mut bytes = vec![1; len];
        let read = fs.read(b"/packed/file", at as u64, &mut bytes).unwrap();
        assert!(bytes[..read] == packed[at..at + read] && read == len.min(packed.len() - at), "{at}");
    }
    let mut small = [0; 13];
    assert_eq!(fs.read(b"/packed/small", 0, &mut small).unwrap(), 13);
    let mut tree = kiln_guest::tree::Tree::default();
    tree.mount("/", 0, fs);
    assert_eq!(tree.text("/Documents and Settings/FILE").as_deref(), Some("here"));
}

/// The journal of a file system without checksums of its metadata holds changes; what is on the disk is read.
#[test]
fn dirty_file_system_of_an_older_system_is_read_without_its_journal() {
    let dir = tempfile::tempdir().unwrap();
    let (image, tree) = (dir.path().join("image"), dir.path().join("tree"));
    std::fs::create_dir(&tree).unwrap();
    std::fs::write(tree.join("file"), "here").unwrap();
    std::fs::File::create(&image).unwrap().set_len(32 << 20).unwrap();
    let words = ["-q", "-F", "-t", "ext3", "-d", tree.to_str().unwrap(), image.to_str().unwrap()];
    tool("mke2fs", &words);
    tool("debugfs", &["-w", "-R", "feature needs_recovery", image.to_str().unwrap()]);
    let disk: Arc<dyn Disk> = Arc::new(Flat(FileSource::open(&image).unwrap()));
    let probed = probe(&disk).unwrap();
    assert_eq!(probed.state, Some(FsState::NeedsRecovery));
    let fs = open(&disk, Content::Ext, &Root::Default).unwrap();
    let mut buf = [0; 4];
    assert_eq!((fs.read(b"/file", 0, &mut buf).unwrap(), &buf), (4, b"here"));
}
