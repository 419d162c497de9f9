//! Appliances as programs write them: the right disk, the right machine, every finding.

use std::sync::Arc;

use kiln_disk::{
    ByteSource, ExtentKind, FileOffset, Findings, GuestOffset, MemorySource, Severity, Silent, extents,
};
use kiln_format::ova::{self, DriveKind, Firmware};
use kiln_format::{
    AllowList, CheckScope, Choice, Identity, Image, OpenContext, Resolved, Tolerance, check, identify, open,
};
use kiln_testkit::laws::{Random, check_disk};
use kiln_testkit::ova::{OvaBuilder, item, manifest_line, pack};
use kiln_testkit::tar::{HeaderBuilder, TarBuilder};
use kiln_testkit::vhd::VhdBuilder;

const BLOCK: usize = 64 * 1024;

fn content(seed: u64) -> Vec<u8> {
    let mut bytes = vec![0; 6 * BLOCK];
    let mut random = Random(seed);
    for block in [0, 2, 3] {
        bytes[block * BLOCK..][..5000].iter_mut().for_each(|byte| *byte = random.number() as u8);
    }
    // A boot sector with an empty table: nothing of it is missing.
    bytes[..512].fill(0);
    bytes
}

fn vhd(content: &[u8]) -> Vec<u8> {
    VhdBuilder { block_size: BLOCK as u32, ..VhdBuilder::default() }.dynamic(content).bytes
}

fn one() -> OvaBuilder {
    let content = content(1);
    OvaBuilder::default().disk("box-disk1.vhd", vhd(&content), content.len() as u64)
}

fn two() -> OvaBuilder {
    let content = content(2);
    one().disk("box-disk2.vhd", vhd(&content), content.len() as u64)
}

fn source(bytes: &[u8]) -> Arc<dyn ByteSource> {
    Arc::new(MemorySource::new(bytes.to_vec()))
}

fn opened(bytes: &[u8], part: Option<&str>) -> kiln_disk::Result<Box<dyn Image>> {
    let context = OpenContext { part: part.map(str::to_owned), ..OpenContext::new() };
    open(source(bytes), Choice::Detect, &context)
}

#[track_caller]
fn code(bytes: &[u8]) -> &'static str {
    let error = opened(bytes, None).err().expect("a refusal");
    assert!(error.hint().is_some(), "{error} has no hint");
    error.code()
}

fn findings(bytes: &[u8]) -> Findings {
    check(source(bytes), Choice::Detect, &OpenContext::new(), CheckScope::Data, &Silent).unwrap().findings
}

fn ids(bytes: &[u8]) -> Vec<&'static str> {
    findings(bytes).counts().iter().map(|(id, _)| *id).collect()
}

#[test]
fn the_disk_of_an_appliance_keeps_all_laws() {
    let bytes = one().build();
    let identity = identify(source(&bytes).as_ref()).unwrap();
    assert!(matches!(identity, Identity::Container { format, .. } if *format == ova::FORMAT));
    let image = opened(&bytes, None).unwrap();
    check_disk(image.as_ref(), &content(1));
    assert_eq!(ids(&bytes), [""; 0]);
}

#[test]
fn verbatim_data_is_where_the_map_says() {
    let raw = content(3);
    let mut builder = OvaBuilder::default().disk("box.img", raw.clone(), raw.len() as u64);
    builder.disks[0].disk_attributes += " ovf:format=\"http://example.org/raw\"";
    let bytes = builder.build();
    let image = opened(&bytes, None).unwrap();
    let mut seen = 0;
    for extent in extents(image.as_ref(), std::num::NonZeroU64::MAX) {
        let extent = extent.unwrap();
        let ExtentKind::Data { file: 0, at } = extent.kind else { panic!("{extent:?}") };
        let (at, len) = (at.get() as usize, extent.len.get() as usize);
        let start = extent.start.get() as usize;
        assert!(bytes[at..at + len] == raw[start..start + len]);
        seen += len;
    }
    assert_eq!(seen, raw.len());
}

#[test]
fn of_several_disks_one_is_chosen_by_number_id_or_name() {
    let bytes = two().build();
    let error = opened(&bytes, None).err().unwrap();
    assert_eq!(error.code(), "ova.which-disk");
    let text = error.to_string();
    assert!(text.contains("1 is box-disk1.vhd, 393216 bytes; 2 is box-disk2.vhd"), "{text}");
    assert!(error.hint().unwrap().contains("--disk"));
    for (part, seed) in [("1", 1), ("2", 2), ("disk1", 2), ("box-disk1.vhd", 1), ("box-disk2.vhd", 2)] {
        let image = opened(&bytes, Some(part)).unwrap();
        check_disk(image.as_ref(), &content(seed));
    }
    for part in ["0", "3", "disk9", ""] {
        assert_eq!(opened(&bytes, Some(part)).err().unwrap().code(), "ova.no-such-disk", "{part:?}");
    }
    let plain = vhd(&content(1));
    assert_eq!(opened(&plain, Some("1")).err().unwrap().code(), "disk.only-one");
    // To look is to look at all of them.
    let context = OpenContext { tolerance: Tolerance::Damaged, ..OpenContext::new() };
    let image = open(source(&bytes), Choice::Detect, &context).unwrap();
    assert_eq!(image.facts().variant, "OVF 1, 2 disks");
}

#[test]
fn the_machine_is_known() {
    let mut builder = one();
    builder.hardware = [
        item(
            20,
            "<rasd:InstanceID>7</rasd:InstanceID>",
            "<rasd:ResourceSubType>vmware.sata.ahci</rasd:ResourceSubType>",
        ),
        item(15, "<rasd:Parent>7</rasd:Parent>", "<rasd:AddressOnParent>1</rasd:AddressOnParent>"),
        "<vmw:Config ovf:required=\"false\" vmw:key=\"firmware\" vmw:value=\"efi\"/>".to_owned(),
        "<vmw:Config ovf:required=\"false\" vmw:key=\"bootOptions.efiSecureBootEnabled\" vmw:value=\"true\"/>"
            .to_owned(),
    ]
    .concat();
    let image = opened(&builder.build(), None).unwrap();
    let appliance = image.appliance().unwrap();
    let system = &appliance.descriptor.systems[0];
    assert_eq!(system.name.as_deref(), Some("The box"));
    assert_eq!((system.os_id, system.os_type.as_deref()), (Some(96), Some("debian11_64Guest")));
    let hardware = system.hardware.as_ref().unwrap();
    assert_eq!(hardware.family.as_deref(), Some("vmx-13"));
    assert_eq!((hardware.cpus, hardware.memory_bytes), (Some(2), Some(2 << 30)));
    assert_eq!((hardware.firmware, hardware.secure_boot), (Some(Firmware::Efi), Some(true)));
    let buses: Vec<_> = hardware.controllers.iter().map(|controller| controller.bus).collect();
    assert_eq!(buses, ["scsi", "sata"]);
    let kinds: Vec<_> = hardware.drives.iter().map(|drive| drive.kind).collect();
    assert_eq!(kinds, [DriveKind::Disk, DriveKind::Cdrom]);
    assert_eq!(hardware.controller_of("disk0").unwrap().model.as_deref(), Some("VirtualSCSI"));
    assert_eq!(hardware.networks[0].model.as_deref(), Some("VmxNet3"));
    let json = serde_json::to_value(&appliance.descriptor).unwrap();
    assert_eq!(json["systems"][0]["hardware"]["firmware"], "efi");
}

#[test]
fn firmware_of_virtual_box_is_read_from_its_own_section() {
    let mut builder = one();
    builder.namespace = "http://schemas.dmtf.org/ovf/envelope/1".to_owned();
    let descriptor = builder.descriptor().replace(
        "  </VirtualSystem>",
        "<vbox:Machine xmlns:vbox=\"http://www.virtualbox.org/ovf/machine\"><Hardware><Firmware type=\"EFI\"/>\
         </Hardware></vbox:Machine>\n  </VirtualSystem>",
    );
    let files = [("box.ovf".to_owned(), descriptor.into_bytes()), builder.files()[2].clone()];
    let image = opened(&pack(&files), None).unwrap();
    let system = &image.appliance().unwrap().descriptor.systems[0];
    assert_eq!(system.hardware.as_ref().unwrap().firmware, Some(Firmware::Efi));
}

#[test]
fn capacities_of_all_spellings_are_bytes() {
    let len = content(1).len() as u64;
    for (attributes, fits) in [
        ("ovf:capacity=\"384\" ovf:capacityAllocationUnits=\"byte * 2^10\"", true),
        ("ovf:capacity=\"384\" ovf:capacityAllocationUnits=\"KiloBytes\"", true),
        ("ovf:capacity=\"3\" ovf:capacityAllocationUnits=\"byte * 131072\"", true),
        ("capacity=\"393216\"", true),
        ("ovf:capacity=\"${size}\"", true),
        ("ovf:capacity=\"1\" ovf:capacityAllocationUnits=\"byte * 2^20\"", false),
    ] {
        let mut builder = one();
        builder.disks[0].disk_attributes = attributes.to_owned();
        let bytes = builder.build();
        assert_eq!(opened(&bytes, None).unwrap().disk_len(), len);
        assert_eq!(ids(&bytes), if fits { &[][..] } else { &["ova.disk.capacity"] }, "{attributes}");
    }
}

#[test]
fn both_versions_and_missing_prefixes_are_read() {
    let mut builder = one();
    builder.namespace = "http://schemas.dmtf.org/ovf/envelope/2".to_owned();
    assert_eq!(opened(&builder.build(), None).unwrap().facts().variant, "OVF 2, 1 disk");
    let plain = one().descriptor().replace("ovf:id=", "id=").replace("ovf:href", "href");
    let files = [("a.OVF".to_owned(), plain.into_bytes()), one().files()[2].clone()];
    assert_eq!(opened(&pack(&files), None).unwrap().disk_len(), 6 * BLOCK as u64);
    let mut old = one();
    old.namespace = "http://www.vmware.com/schema/ovf/1/envelope".to_owned();
    assert_eq!(code(&old.build()), "ovf.version");
}

#[test]
fn the_descriptor_may_be_anywhere_and_in_a_folder() {
    let files = one().files();
    let moved: Vec<_> = [1, 0, 2].map(|n| files[n].clone()).into();
    assert_eq!(ids(&pack(&moved)), ["ova.order"]);
    check_disk(opened(&pack(&moved), None).unwrap().as_ref(), &content(1));
    for folder in ["./", "appliance/", "./a/b/"] {
        let files: Vec<_> =
            files.iter().map(|(name, bytes)| (format!("{folder}{name}"), bytes.clone())).collect();
        let bytes = pack(&files);
        check_disk(opened(&bytes, None).unwrap().as_ref(), &content(1));
        assert_eq!(ids(&bytes), [""; 0], "{folder}");
    }
    // Behind a disk it is out of sight of a look at the head: then it is a tar archive to whoever opens it.
    let context = OpenContext::new();
    let behind: Vec<_> = [2, 1, 0].map(|n| files[n].clone()).into();
    let image = (ova::FORMAT.open)(source(&pack(&behind)), &context).unwrap();
    check_disk(image.as_ref(), &content(1));
}

#[test]
fn disks_in_pieces_are_put_together() {
    let mut builder = one();
    let disk = builder.disks[0].bytes.clone();
    builder.disks[0].file_attributes = format!("ovf:size=\"{}\" ovf:chunkSize=\"70000\"", disk.len());
    let mut files = vec![("box.ovf".to_owned(), builder.descriptor().into_bytes())];
    for (n, piece) in disk.chunks(70_000).enumerate() {
        files.push((format!("box-disk1.vhd.{n:09}"), piece.to_vec()));
    }
    let manifest: String = files.iter().map(|(name, bytes)| manifest_line(name, bytes)).collect();
    files.insert(1, ("box.mf".to_owned(), manifest.into_bytes()));
    let bytes = pack(&files);
    check_disk(opened(&bytes, None).unwrap().as_ref(), &content(1));
    assert_eq!(ids(&bytes), [""; 0]);
    files.remove(3);
    assert_eq!(code(&pack(&files)), "ova.file.missing");
}

#[test]
fn a_descriptor_alone_asks_the_resolver_for_its_neighbours() {
    let files = two().files();
    let bytes = files[0].1.clone();
    let error = opened(&bytes, Some("1")).err().unwrap();
    assert_eq!(error.code(), "reference.denied");
    let mut list = AllowList::default();
    for (name, bytes) in &files[1..] {
        list.allow(name, Resolved { source: source(bytes), format: None });
    }
    let context = OpenContext { resolver: Arc::new(list), part: Some("2".to_owned()), ..OpenContext::new() };
    let image = open(source(&bytes), Choice::Detect, &context).unwrap();
    assert_eq!(image.format().id, "ovf");
    check_disk(image.as_ref(), &content(2));
}

#[test]
fn t_arc_02_every_odd_archive_has_its_finding() {
    let good = one().files();
    type Files = Vec<(String, Vec<u8>)>;
    type Change<'a> = &'a dyn Fn(&mut Files);
    let packed = |change: Change<'_>| {
        let mut files = good.clone();
        change(&mut files);
        pack(&files)
    };
    let line = |files: &mut Files, from: &str, to: &str| {
        let text = String::from_utf8(files[1].1.clone()).unwrap();
        assert!(text.contains(from));
        files[1].1 = text.replacen(from, to, 1).into_bytes();
    };
    let cases: [(Change<'_>, &[&str]); 14] = [
        (&|files| drop(files.remove(1)), &["ova.mf.absent"]),
        (&|files| files.push(("readme".to_owned(), b"hello".to_vec())), &["ova.member.extra"]),
        (&|files| files.push(("../x".to_owned(), b"hello".to_vec())), &["ova.member.name"]),
        (&|files| files.push(("/etc/x".to_owned(), b"hello".to_vec())), &["ova.member.name"]),
        (&|files| files.push(("box.cert".to_owned(), b"hello".to_vec())), &["ova.cert.unverified"]),
        (&|files| files[1].1.extend(b"SHA256(gone)= 00\n"), &["ova.mf.line"]),
        (&|files| files[1].1.extend(manifest_line("gone", b"").bytes()), &["ova.mf.missing-file"]),
        (&|files| files[1].1.extend(manifest_line("box.ovf", b"").bytes()), &["ova.mf.differs"]),
        (&|files| files[2].1[700] ^= 1, &["ova.mf.differs", "vhd.header.damaged"]),
        (&|files| line(files, "SHA256(", "SHA256 ("), &["ova.mf.spelling"]),
        (&|files| files[1].1.truncate(good[1].1.len() / 2), &["ova.mf.line", "ova.mf.unlisted"]),
        (&|files| files[1].1.clear(), &["ova.mf.unlisted"]),
        (&|files| files.push(files[1].clone()), &["ova.member.twice"]),
        (&|files| files.push(("box2.ovf".to_owned(), files[0].1.clone())), &["ova.descriptors"]),
    ];
    for (change, expected) in cases {
        let bytes = packed(change);
        let found = ids(&bytes);
        for id in expected {
            let known =
                found.contains(id) || (id.starts_with("vhd.") && found.contains(&"ova.disk.unreadable"));
            assert!(known, "{expected:?}: {found:?}");
        }
    }
    assert_eq!(
        code(&packed(&|files| files.push(("x.ovf".to_owned(), files[0].1.clone())))),
        "ova.descriptors"
    );
    assert_eq!(code(&packed(&|files| files.push(files[2].clone()))), "ova.file.twice");
    assert_eq!(code(&packed(&|files| drop(files.remove(2)))), "ova.file.missing");
    let not_first = findings(&packed(&|files| files.swap(0, 1)));
    assert_eq!(not_first.worst(), Some(Severity::Advice));
}

#[test]
fn t_arc_02_links_and_devices_are_found_and_not_followed() {
    let files = one().files();
    for (kind, link) in [(b'2', "/etc/passwd"), (b'1', "box.ovf"), (b'3', "")] {
        let mut builder = TarBuilder::default();
        builder.file(&files[0].0, &files[0].1).special("box-disk1.vhd", kind, link);
        let bytes = builder.finish();
        assert_eq!(code(&bytes), "ova.file.missing");
        let found = findings(&bytes);
        let place = found.list().iter().find(|finding| finding.check.id == "ova.member.kind").unwrap();
        let expected = 512 + files[0].1.len().next_multiple_of(512);
        assert_eq!(place.file_at.map(FileOffset::get), Some(expected as u64));
        assert!(found.fails());
    }
}

#[test]
fn t_dos_07_a_sparse_member_of_8_eib_is_not_hashed() {
    let mut builder = one();
    builder.disks[0].name = "huge".to_owned();
    let files = builder.files();
    let mut archive = TarBuilder::default();
    archive.file(&files[0].0, &files[0].1).file(&files[1].0, &files[1].1);
    archive.old_sparse("huge", i64::MAX as u64, &[(0, 512)], &[1; 512]);
    assert!(ids(&archive.finish()).contains(&"ova.mf.unchecked"));
}

#[test]
fn places_of_a_damaged_disk_count_in_the_archive() {
    let builder = one();
    let bytes = builder.build();
    let base = bytes.windows(8).position(|window| window == b"conectix").unwrap();
    let mut damaged = bytes.clone();
    // The cookie of the dynamic disk header.
    damaged[base + 512] ^= 0xff;
    let error = opened(&damaged, None).err().unwrap();
    assert_eq!((error.code(), error.offset().unwrap().get()), ("vhd.header.cookie", base as u64 + 512));
    let found = findings(&damaged);
    let place = found.list().iter().find(|finding| finding.check.id == "ova.disk.unreadable").unwrap();
    assert_eq!(place.file_at.unwrap().get(), base as u64 + 512);
    // Of the front footer only the check complains.
    let mut damaged = bytes;
    damaged[base] ^= 0xff;
    let found = findings(&damaged);
    let place = found.list().iter().find(|finding| finding.check.id.starts_with("vhd.footer.front")).unwrap();
    assert_eq!(place.file_at.unwrap().get(), base as u64);
}

#[test]
fn cut_archives_and_hidden_members_are_found() {
    let bytes = one().build();
    // With the disk last, the file would end with the footer of a VHD and be two things at once.
    let files = one().files();
    let disk_inside = pack(&[0, 2, 1].map(|n| files[n].clone()));
    assert_eq!(ids(&disk_inside[..disk_inside.len() - 1024]), ["tar.no-end"]);
    let hidden = [bytes.clone(), TarBuilder::default().file("x", b"1").finish()].concat();
    assert_eq!(ids(&hidden), ["tar.hidden"]);
    assert_eq!(code(&bytes[..bytes.len() - 2048]), "tar.truncated");
    let large = HeaderBuilder::posix("x.ovf", (8 << 20) + 1).seal();
    let mut archive = TarBuilder::default();
    archive.blocks(&large).blocks(&vec![b' '; (8 << 20) + 1]);
    assert_eq!(code(&archive.finish()), "ovf.length");
}

#[test]
fn a_disk_that_is_compressed_or_none_is_named() {
    let mut builder = one();
    builder.disks[0].file_attributes += " ovf:compression=\"gzip\"";
    assert_eq!(code(&builder.build()), "ova.compression");
    builder.disks.clear();
    assert_eq!(code(&builder.build()), "ova.no-disk");
    let mut builder = OvaBuilder::default().disk("a.vmdk", vec![7; 4096], 4096);
    builder.disks[0].disk_attributes += " ovf:format=\"http://x/vmdk.html#streamOptimized\"";
    assert_eq!(code(&builder.build()), "ova.disk.format");
    let mut builder = one();
    builder.disks[0].disk_attributes += " ovf:parentRef=\"disk9\"";
    assert_eq!(code(&builder.build()), "ovf.parent");
    let mut read = vec![0; 16];
    opened(&one().build(), None).unwrap().read_guest(GuestOffset::new(2 << 16), &mut read).unwrap();
    assert_eq!(read[..], content(1)[2 << 16..][..16]);
}
