//! LVM2 by its own tools: `pvcreate` and `vgcreate` need no device-mapper when the metadata is restored into files, so
//! the text is written by hand here and the bytes around it by the specification; `pvck` of lvm2 agrees in the oracle.

use kiln_disk::MemoryDisk;

use super::*;

const IDS: [&str; 2] = ["aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"];

/// A physical volume of 8 MiB: label in sector 1, metadata area of 1 MiB at 4 KiB, extents of 1 MiB from 1 MiB on.
/// Each extent is filled with its own letter. The text lies in the ring from `offset` on.
fn physical(which: usize, text: &str, offset: u64) -> Arc<dyn Disk> {
    let mut disk = vec![0_u8; 8 << 20];
    for extent in 0..7_usize {
        disk[(extent + 1) << 20..(extent + 2) << 20].fill(b'A' + (which * 10 + extent) as u8);
    }
    let mut label = vec![0_u8; 512];
    label[..8].copy_from_slice(b"LABELONE");
    label[8..16].copy_from_slice(&1_u64.to_le_bytes());
    label[20..24].copy_from_slice(&32_u32.to_le_bytes());
    label[24..32].copy_from_slice(b"LVM2 001");
    label[32..64].copy_from_slice(IDS[which].as_bytes());
    label[64..72].copy_from_slice(&(8_u64 << 20).to_le_bytes());
    label[72..80].copy_from_slice(&(1_u64 << 20).to_le_bytes());
    label[104..112].copy_from_slice(&4096_u64.to_le_bytes());
    label[112..120].copy_from_slice(&((1_u64 << 20) - 4096).to_le_bytes());
    let crc = crc32(&label[20..], CRC_SEED, 0);
    label[16..20].copy_from_slice(&crc.to_le_bytes());
    disk[512..1024].copy_from_slice(&label);
    let area = (1_usize << 20) - 4096;
    let mut header = vec![0_u8; 512];
    header[4..20].copy_from_slice(b" LVM2 x[5A%r0N*>");
    header[40..48].copy_from_slice(&offset.to_le_bytes());
    header[48..56].copy_from_slice(&(text.len() as u64).to_le_bytes());
    header[56..60].copy_from_slice(&crc32(text.as_bytes(), CRC_SEED, 0).to_le_bytes());
    disk[4096..4608].copy_from_slice(&header);
    for (index, byte) in text.bytes().enumerate() {
        let mut at = offset as usize + index;
        if at >= area {
            at = at - area + 512;
        }
        disk[4096 + at] = byte;
    }
    Arc::new(MemoryDisk::new(disk))
}

fn text(volumes: &str) -> String {
    format!(
        "# made by hand\nvg0 {{\nid = \"vvvv\"\nseqno = 3\nstatus = [\"RESIZEABLE\", \"READ\"]\nextent_size = 2048\n\
         physical_volumes {{\npv0 {{\nid = \"{}\"\ndevice = \"/dev/sda2\"\npe_start = 2048\npe_count = 7\n}}\n\
         pv1 {{\nid = \"{}\"\ndevice = \"/dev/sdb\"\npe_start = 2048\npe_count = 7\n}}\n}}\n\
         logical_volumes {{\n{volumes}\n}}\n}}\ncontents = \"Text Format Volume Group\"\nversion = 1\n",
        dashed(IDS[0]),
        dashed(IDS[1])
    )
}

const LINEAR: &str = "root {\nid = \"x\"\nstatus = [\"READ\", \"WRITE\", \"VISIBLE\"]\nsegment_count = 2\n\
    segment1 {\nstart_extent = 0\nextent_count = 2\ntype = \"striped\"\nstripe_count = 1\nstripes = [\n\"pv0\", 3\n]\n}\n\
    segment2 {\nstart_extent = 2\nextent_count = 1\ntype = \"striped\"\nstripe_count = 1\nstripes = [\"pv1\", 0]\n}\n}";
const STRIPED: &str = "fast {\nstatus = [\"VISIBLE\"]\nsegment1 {\nstart_extent = 0\nextent_count = 4\ntype = \"striped\"\n\
    stripe_count = 2\nstripe_size = 128\nstripes = [\"pv0\", 0, \"pv1\", 1]\n}\n}";
const THIN: &str =
    "thin {\nstatus = [\"VISIBLE\"]\nsegment1 {\nstart_extent = 0\nextent_count = 4\ntype = \"thin\"\n}\n}";

#[test]
fn linear_and_striped_volumes_map_to_their_extents() {
    let text = text(&format!("{LINEAR}\n{STRIPED}\n{THIN}"));
    let (groups, problems) = groups(&[physical(0, &text, 512), physical(1, &text, 1 << 19)]).unwrap();
    assert_eq!((groups.len(), problems.len(), groups[0].name.as_str()), (1, 0, "vg0"));
    assert!(groups[0].physical.iter().all(|physical| physical.present));
    let volumes = &groups[0].volumes;
    let names: Vec<_> =
        volumes.iter().map(|v| (v.name.as_str(), v.len >> 20, v.unsupported.as_str())).collect();
    assert_eq!(names, [("root", 3, ""), ("fast", 4, ""), ("thin", 4, "is of type thin")]);

    let root = LogicalDisk::open(&volumes[0]).unwrap();
    let mut buf = vec![0; 3 << 20];
    root.read_guest(GuestOffset::ZERO, &mut buf).unwrap();
    assert_eq!([buf[0], buf[(1 << 20) - 1], buf[1 << 20], buf[2 << 20], buf[(3 << 20) - 1]], *b"DDEKK");
    let fast = LogicalDisk::open(&volumes[1]).unwrap();
    let mut buf = vec![0; 4 << 20];
    fast.read_guest(GuestOffset::ZERO, &mut buf).unwrap();
    // 64 KiB of one, 64 KiB of the other; after 2 MiB of both the next extent of each.
    assert_eq!([buf[0], buf[65535], buf[65536], buf[131071], buf[131072], buf[2 << 20]], *b"AALLAB");
    assert!(LogicalDisk::open(&volumes[2]).is_none());
}

#[test]
fn text_that_wraps_round_its_ring_is_read() {
    let text = text(LINEAR);
    let area = (1_u64 << 20) - 4096;
    let (groups, _) = groups(&[physical(0, &text, area - 100), physical(1, &text, 512)]).unwrap();
    assert_eq!(groups[0].volumes.len(), 1);
}

#[test]
fn missing_physical_volume_is_named_and_its_volumes_are_not_read() {
    let text = text(LINEAR);
    let (groups, _) = groups(&[physical(0, &text, 512)]).unwrap();
    assert!(!groups[0].physical[1].present);
    assert_eq!(groups[0].volumes[0].unsupported, "lies on pv1, which is not here");
}

#[test]
fn damaged_texts_are_faults_with_their_place() {
    for (bad, expected) in [
        ("vg0 {", "the end of a section"),
        ("vg0 { a = }", "a value"),
        ("vg0 { a = \"x", "a closing quote"),
        ("}", "a section to close"),
        ("vg0 [", "{ or ="),
        ("vg0 { a = [1 2] }", ", or ]"),
    ] {
        let Err(TextFault::Expected { expected: found, .. }) = parse(bad.as_bytes()) else { panic!("{bad}") };
        assert_eq!(found, expected, "{bad}");
    }
    let deep = "a {".repeat(100_000);
    assert!(matches!(parse(deep.as_bytes()), Err(TextFault::TooMuch { .. })));
}

#[test]
fn flipped_bytes_never_panic() {
    let good = text(&format!("{LINEAR}\n{STRIPED}"));
    let mut state = 7_u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state >> 8
    };
    for _ in 0..2000 {
        let mut bytes = good.clone().into_bytes();
        for _ in 0..3 {
            let at = next() as usize % bytes.len();
            bytes[at] = next() as u8;
        }
        if let Ok(root) = parse(&bytes) {
            let _ = group(&root, &[]);
        }
    }
}

/// The place of the text in its ring: every number that is none costs nothing and leaves the group unknown.
#[test]
fn rings_that_lie_hold_no_group() {
    let text = text(LINEAR);
    let area = (1_u64 << 20) - 4096;
    let with = |offset: u64, size: u64| {
        let good = physical(0, &text, 512);
        let mut bytes = vec![0; 8 << 20];
        good.read_guest(GuestOffset::ZERO, &mut bytes).unwrap();
        bytes[4096 + 40..4096 + 48].copy_from_slice(&offset.to_le_bytes());
        bytes[4096 + 48..4096 + 56].copy_from_slice(&size.to_le_bytes());
        groups(&[Arc::new(MemoryDisk::new(bytes)) as Arc<dyn Disk>]).unwrap().0.len()
    };
    let len = text.len() as u64;
    assert_eq!(with(512, len), 1);
    for (offset, size) in [
        (0, len),
        (511, len),
        (area, len),
        (u64::MAX, len),
        (512, 0),
        (512, len - 1),
        (512, area),
        (512, u64::MAX),
        (u64::MAX, u64::MAX),
        // All of the ring, and round to where it began.
        (area - 1, area - 512),
    ] {
        assert_eq!(with(offset, size), 0, "{size} bytes from {offset}");
    }
}
