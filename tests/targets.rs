//! `--for TARGET` and `kiln targets`: every target's file, as its own reader and other programs see it.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::time::Duration;

use kiln_testkit::boot::{Firmware, Guest};
use kiln_testkit::fixtures::Fixture;
use serde_json::Value;

use crate::support::{Sandbox, built, names_in, noise, overwrite};

/// What is made for each target: the file's name, QEMU's name of the format, and the name of the disk inside.
const FILES: [(&str, &str, &str, &str); 15] = [
    ("tencent", "out.qcow2", "qcow2", ""),
    ("aws", "out.vmdk", "vmdk", ""),
    ("azure", "out.vhd", "vpc", ""),
    ("gcp", "out.tar.gz", "raw", "disk.raw"),
    ("alibaba", "out.qcow2", "qcow2", ""),
    ("openstack", "out.qcow2", "qcow2", ""),
    ("kvm", "out.qcow2", "qcow2", ""),
    ("proxmox", "out.qcow2", "qcow2", ""),
    ("hyper-v", "out.vhdx", "vhdx", ""),
    ("vmware", "out.ova", "vmdk", "out-disk1.vmdk"),
    ("vsphere-legacy", "out.ova", "vmdk", "out-disk1.vmdk"),
    ("virtualbox", "out.ova", "vmdk", "out-disk1.vmdk"),
    ("digitalocean", "out.qcow2", "qcow2", ""),
    ("oracle", "out.qcow2", "qcow2", ""),
    ("hetzner", "out.raw", "raw", ""),
];

/// A disk of 24 MiB and one sector, with a GPT of an EFI system partition and another: a length that no target
/// with a unit takes.
const DISK_LEN: u64 = (24 << 20) + 512;

fn gpt_disk(sandbox: &Sandbox, name: &str) -> PathBuf {
    let path = sandbox.path(name);
    let file = File::create(&path).unwrap();
    file.set_len(DISK_LEN).unwrap();
    let words = ["--clear", "--new=1:2048:8191", "--typecode=1:ef00", "--new=2:8192:0", "--typecode=2:8300"];
    sandbox.tool("sgdisk", words.iter().chain(&[path.to_str().unwrap()]));
    // Into the partitions: the tables stay whole.
    for (seed, at) in [(1, 1 << 20), (2, 9 << 20), (3, (23 << 20) + 7)] {
        file.write_all_at(&noise(seed, 150_000), at).unwrap();
    }
    path
}

fn convert(sandbox: &Sandbox, target: &str, file: &str) -> Value {
    let words = ["convert", "--json", "--no-sync", "--for", target, "disk.raw", file];
    sandbox.kiln(words).exits(0).json("kiln.convert.v1")
}

fn content(sandbox: &Sandbox, words: &[&str]) -> String {
    let words = ["verify", "--json", "--content-only"].iter().chain(words);
    let json = sandbox.kiln(words).exits(0).json("kiln.verify.v1");
    json["content_digest"].as_str().unwrap().to_owned()
}

#[test]
fn every_target_gets_the_disk_for_our_reader_and_for_qemu() {
    let sandbox = Sandbox::new();
    gpt_disk(&sandbox, "disk.raw");
    let listed = sandbox.kiln(["targets", "--json"]).exits(0).json("kiln.targets.v1");
    let ids: Vec<&str> =
        listed["targets"].as_array().unwrap().iter().map(|row| row["id"].as_str().unwrap()).collect();
    assert_eq!(ids, FILES.map(|(id, ..)| id), "a target without a row here");
    let source = content(&sandbox, &["disk.raw"]);
    for (target, file, qemu, inside) in FILES {
        let json = convert(&sandbox, target, file);
        let plan = &json["target"];
        assert_eq!((&json["content_digest"], &plan["target"]), (&source.as_str().into(), &target.into()));
        let written = plan["written_disk_bytes"].as_u64().unwrap();
        let expected = match target {
            "azure" => 25 << 20,
            "gcp" => 1 << 30,
            _ => DISK_LEN,
        };
        assert_eq!(written, expected, "{target}");
        assert_eq!(plan["padding_bytes"], written - DISK_LEN, "{target}");
        assert_eq!(plan["firmware"], "uefi", "{target}");
        let next = plan["next"].as_array().unwrap();
        assert!(
            !next.is_empty() && next.iter().all(|line| line.as_str().unwrap().matches('@').count() < 2),
            "{next:?}"
        );
        // The digest is that of the file; the file is clean and holds the disk that it says.
        let sum = sandbox.tool("sha256sum", [file]);
        assert_eq!(json["file_digest"], format!("sha256:{}", sum.split_whitespace().next().unwrap()));
        assert_eq!(plan["written_content_digest"], content(&sandbox, &[file]), "{target}");
        if inside.is_empty() {
            sandbox.tool("mv", [file, "inside"]);
        } else {
            std::fs::create_dir(sandbox.path("unpacked")).unwrap();
            sandbox.tool("tar", ["-C", "unpacked", "-xf", file]);
            sandbox.tool("mv", [&format!("unpacked/{inside}"), "inside"]);
            std::fs::remove_dir_all(sandbox.path("unpacked")).unwrap();
        }
        // For QEMU: the same bytes, and a table that sgdisk finds whole at the end of the disk as QEMU sees it.
        sandbox.tool("qemu-img", ["convert", "-f", qemu, "-O", "raw", "inside", "flat"]);
        assert_eq!(std::fs::metadata(sandbox.path("flat")).unwrap().len(), written, "{target}");
        let verified = sandbox.tool("sgdisk", ["--verify", "flat"]);
        assert!(verified.contains("No problems found"), "{target}: {verified}");
        assert_eq!(plan["written_content_digest"], content(&sandbox, &["flat"]), "{target}");
        if written == DISK_LEN {
            sandbox.tool("cmp", ["flat", "disk.raw"]);
            assert_eq!(plan["gpt"], Value::Null);
        } else {
            // All partitions: from the first to the last usable sector.
            sandbox.tool("cmp", ["--ignore-initial=17408", "--bytes=25131520", "flat", "disk.raw"]);
            assert_eq!(plan["gpt"]["to_lba"], written / 512 - 1);
            assert_eq!(plan["gpt"]["from_lba"], DISK_LEN / 512 - 1);
        }
        for name in sandbox.names().iter().filter(|name| *name != "disk.raw") {
            std::fs::remove_file(sandbox.path(name)).unwrap();
        }
    }
}

#[test]
fn azure_vhd_is_whole_mebibytes_and_a_footer_that_all_readers_take_alike() {
    let sandbox = Sandbox::new();
    gpt_disk(&sandbox, "disk.raw");
    convert(&sandbox, "azure", "out.vhd");
    let bytes = std::fs::read(sandbox.path("out.vhd")).unwrap();
    let len = bytes.len() as u64;
    assert_eq!((len, (len - 512) % (1 << 20)), ((25 << 20) + 512, 0));
    let footer = &bytes[bytes.len() - 512..];
    let be64 = |at: usize| u64::from_be_bytes(footer[at..at + 8].try_into().unwrap());
    assert_eq!(&footer[..8], b"conectix");
    // Features, version, data offset, original and current size, type.
    assert_eq!((&footer[8..16], be64(16)), (&[0, 0, 0, 2, 0, 1, 0, 0][..], u64::MAX));
    assert_eq!((be64(40), be64(48), &footer[60..64]), (len - 512, len - 512, &[0, 0, 0, 2][..]));
    // These are the creators whose disks readers measure by their geometry.
    assert!(![&b"vpc "[..], b"vs  ", b"qemu"].contains(&&footer[28..32]));
    let sum: u32 =
        footer.iter().enumerate().filter(|(at, _)| !(64..68).contains(at)).map(|(_, b)| u32::from(*b)).sum();
    assert_eq!(u32::from_be_bytes(footer[64..68].try_into().unwrap()), !sum);
    let info: Value =
        serde_json::from_str(&sandbox.tool("qemu-img", ["info", "-f", "vpc", "--output=json", "out.vhd"]))
            .unwrap();
    assert_eq!(info["virtual-size"], len - 512);
    let said = sandbox.tool("vhdiinfo", ["out.vhd"]);
    assert!(said.contains(&format!("({} bytes)", len - 512)), "{said}");
    let script = "import pyvhdi, sys\nf = pyvhdi.file()\nf.open('out.vhd')\n\
                  open('theirs', 'wb').write(f.read_buffer(f.get_media_size()))";
    // The interpreter of the system has the package.
    sandbox.tool("/usr/bin/python3", ["-c", script]);
    assert!(std::fs::read(sandbox.path("theirs")).unwrap() == bytes[..bytes.len() - 512]);
    // A disk that is right already is written as it is; a tiny one becomes the least that is taken.
    File::create(sandbox.path("disk.raw")).unwrap().set_len(3 << 20).unwrap();
    sandbox.kiln(["convert", "--force", "--for", "azure", "disk.raw", "out.vhd"]).ok();
    assert_eq!(std::fs::metadata(sandbox.path("out.vhd")).unwrap().len(), (20 << 20) + 512);
}

#[test]
fn gcp_archive_is_one_sparse_oldgnu_disk_raw() {
    let sandbox = Sandbox::new();
    gpt_disk(&sandbox, "disk.raw");
    let report = sandbox.kiln(["convert", "--for", "gcp", "disk.raw", "web-1.tar.gz"]).ok();
    assert!(
        report.contains("gpt           backup moved from sector 49152 to 2097151 (of 512 bytes)"),
        "{report}"
    );
    assert!(report.contains("--guest-os-features=UEFI_COMPATIBLE"), "{report}");
    let listed = sandbox.tool("tar", ["--numeric-owner", "-tvzf", "web-1.tar.gz"]);
    assert_eq!(listed.lines().count(), 1, "{listed}");
    assert!(
        listed.contains(&format!(" 0/0 {:>15} ", 1 << 30)) || listed.contains(&format!(" {} ", 1 << 30)),
        "{listed}"
    );
    assert!(listed.trim_end().ends_with(" disk.raw"), "{listed}");
    let header =
        sandbox.tool("sh", ["-c", "gzip -dc web-1.tar.gz | head -c 265 | tail -c 109 | od -An -c | head -1"]);
    assert!(header.trim_start().starts_with('S'), "{header}");
    let magic = sandbox.tool("sh", ["-c", "gzip -dc web-1.tar.gz | head -c 265 | tail -c 8 | od -An -tx1"]);
    assert_eq!(magic.trim(), "75 73 74 61 72 20 20 00");
    // A pipe gets the same file.
    let piped = sandbox.kiln(["convert", "--for", "gcp", "disk.raw", "-"]).exits(0);
    assert!(piped.stdout == std::fs::read(sandbox.path("web-1.tar.gz")).unwrap());
    assert_eq!(sandbox.temporary_names(), Vec::<String>::new());
}

#[test]
fn appliances_are_in_order_with_the_manifest_and_the_hardware_of_their_target() {
    let sandbox = Sandbox::new();
    gpt_disk(&sandbox, "disk.raw");
    for (target, algorithm, program, family, controller) in [
        ("vmware", "SHA256", "sha256sum", "vmx-13", "VirtualSCSI"),
        ("vsphere-legacy", "SHA1", "sha1sum", "vmx-8", "lsilogic"),
        ("virtualbox", "SHA256", "sha256sum", "virtualbox-2.2", "AHCI"),
    ] {
        convert(&sandbox, target, "web-1.ova");
        assert_eq!(sandbox.tool("tar", ["-tf", "web-1.ova"]), "web-1.ovf\nweb-1.mf\nweb-1-disk1.vmdk\n");
        let first = std::fs::read(sandbox.path("web-1.ova")).unwrap();
        assert_eq!((&first[257..263], first[156]), (&b"ustar\0"[..], b'0'), "{target}");
        sandbox.tool("tar", ["-xf", "web-1.ova"]);
        let sums = sandbox.tool(program, ["web-1.ovf", "web-1-disk1.vmdk"]);
        let expected: String = sums
            .lines()
            .map(|line| line.split_once("  ").unwrap())
            .map(|(hex, name)| format!("{algorithm}({name})= {hex}\n"))
            .collect();
        assert_eq!(std::fs::read_to_string(sandbox.path("web-1.mf")).unwrap(), expected, "{target}");
        let descriptor = std::fs::read_to_string(sandbox.path("web-1.ovf")).unwrap();
        for words in [
            format!("<vssd:VirtualSystemType>{family}</vssd:VirtualSystemType>"),
            format!("<rasd:ResourceSubType>{controller}</rasd:ResourceSubType>"),
            "vmw:key=\"firmware\" vmw:value=\"efi\"".to_owned(),
        ] {
            assert!(descriptor.contains(&words), "{target}: {words}\n{descriptor}");
        }
        sandbox.tool("xmllint", ["--noout", "web-1.ovf"]);
        std::fs::remove_file(sandbox.path("web-1.ova")).unwrap();
    }
    // SHA-1 is for that one target only.
    let words = ["convert", "--json", "--for", "vmware", "-o", "manifest=sha1", "disk.raw", "web-1.ova"];
    assert_eq!(sandbox.kiln(words).exits(2).error()["code"], "target.option");
    assert!(!sandbox.path("web-1.ova").exists());
}

#[test]
fn an_export_keeps_the_machine_that_the_disk_was_part_of() {
    let sandbox = Sandbox::new();
    gpt_disk(&sandbox, "disk.raw");
    let words = ["-o", "cpus=6,memory=3G,os_type=debian12_64Guest,firmware=bios", "disk.raw", "box.ova"];
    sandbox.kiln(["convert", "-O", "ova"].iter().chain(&words)).ok();
    sandbox.kiln(["import", "box.ova", "--name", "box"]).ok();
    // Through the store, and straight from the appliance.
    for from in [&["export", "box:latest"][..], &["convert", "box.ova"]] {
        sandbox.kiln(from.iter().chain(&["--no-sync", "--for", "vmware", "new.ova"])).ok();
        let json = sandbox.kiln(["inspect", "--json", "new.ova"]).exits(0).json("kiln.inspect.v1");
        let details = &json["details"];
        assert_eq!(
            (&details["cpus"], &details["memory_bytes"]),
            (&6.into(), &(3_u64 << 30).into()),
            "{from:?}"
        );
        assert_eq!(details["os_type"], "debian12_64Guest");
        sandbox.kiln(["check", "new.ova"]).ok();
        assert_eq!(content(&sandbox, &["new.ova"]), content(&sandbox, &["disk.raw"]));
        std::fs::remove_file(sandbox.path("new.ova")).unwrap();
    }
}

#[test]
fn an_export_for_a_target_copies_its_layer_or_converts_it() {
    let sandbox = Sandbox::new();
    gpt_disk(&sandbox, "disk.raw");
    sandbox.kiln(["import", "disk.raw", "--name", "box"]).ok();
    let export = |target: &str, file: &str| {
        let words = ["export", "--json", "--no-sync", "box", file, "--for", target];
        sandbox.kiln(words).exits(0).json("kiln.export.v1")
    };
    assert_eq!(export("kvm", "out.qcow2")["how"], "copy");
    let azure = export("azure", "out.vhd");
    assert_eq!(
        (&azure["how"], &azure["target"]["padding_bytes"]),
        (&"convert".into(), &((1 << 20) - 512).into())
    );
    convert(&sandbox, "azure", "direct.vhd");
    sandbox.tool("cmp", ["out.vhd", "direct.vhd"]);
    let dry = sandbox.kiln(["export", "--json", "--dry-run", "box", "x.vhd", "--for", "azure"]).exits(0);
    let dry = dry.json("kiln.export.v1");
    assert_eq!(
        (&dry["file_bytes"], &dry["target"]["written_disk_bytes"]),
        (&Value::Null, &(25 << 20).into())
    );
    assert!(!sandbox.path("x.vhd").exists());
}

#[test]
fn what_a_target_refuses_is_refused_before_a_byte_is_written() {
    let sandbox = Sandbox::new();
    gpt_disk(&sandbox, "disk.raw");
    sandbox.guest_disk("bios.raw");
    sandbox.disk("large.raw", 1 << 20);
    File::options().write(true).open(sandbox.path("large.raw")).unwrap().set_len((2 << 40) + 512).unwrap();
    let names = sandbox.names();
    for (target, words, dest, code, exit) in [
        ("nosuch", &["disk.raw"][..], "x.raw", "target.unknown", 2),
        ("azure", &["disk.raw"], "x.vhdx", "target.name", 2),
        ("gcp", &["disk.raw"], "x.zip", "target.name", 2),
        ("gcp", &["-O", "raw", "disk.raw"], "x.raw", "target.name", 2),
        ("azure", &["-O", "qcow2", "disk.raw"], "x.vhd", "target.format", 2),
        ("tencent", &["-O", "vhdx", "disk.raw"], "x.vhdx", "target.format", 2),
        ("azure", &["-o", "subformat=dynamic", "disk.raw"], "x.vhd", "target.option", 2),
        ("kvm", &["-o", "colour=red", "disk.raw"], "x.qcow2", "option.unknown", 2),
        ("gcp", &["-c", "disk.raw"], "x.tar.gz", "option.value", 2),
        ("gcp", &["large.raw"], "x.tar.gz", "target.disk-size", 1),
        ("azure", &["large.raw"], "x.vhd", "target.disk-size", 1),
        ("digitalocean", &["large.raw"], "x.qcow2", "target.disk-size", 1),
        ("tencent", &["bios.raw"], "x.qcow2", "target.part.gpt-bios", 1),
    ] {
        let words = [&["convert", "--json", "--for", target][..], words, &[dest]].concat();
        let error = sandbox.kiln(words).exits(exit).error();
        assert_eq!(error["code"], code, "{target}: {error}");
        assert!(!error["hint"].as_str().unwrap_or_default().is_empty(), "{error}");
        assert_eq!(sandbox.names(), names, "{target}");
    }
    let text = sandbox.kiln(["convert", "--for", "gcp", "large.raw", "x.tar.gz"]).exits(1).stderr;
    assert!(text.contains("compute-image-import") && text.contains("2026-05"), "{text}");
    // A table that would have to move and is damaged.
    overwrite(&sandbox.path("disk.raw"), 512 + 60, b"x");
    let error = sandbox.kiln(["convert", "--json", "--for", "azure", "disk.raw", "x.vhd"]).exits(1).error();
    assert_eq!((&error["code"], &error["offset_bytes"]), (&"gpt.header-crc".into(), &528.into()));
    assert_eq!(sandbox.names(), names);
}

#[test]
fn too_much_data_is_found_by_reading_it_and_zeros_do_not_count() {
    let sandbox = Sandbox::new();
    gpt_disk(&sandbox, "disk.raw");
    // All of it stored, much of it zeros.
    sandbox.tool("qemu-img", ["convert", "-f", "raw", "-O", "raw", "-S", "0", "disk.raw", "full.raw"]);
    let limit = |bytes: &str| {
        std::fs::write(sandbox.path("t.toml"), format!("[target.tencent.limits]\nmax_data = \"{bytes}\"\n"))
            .unwrap();
        let words = [
            "convert",
            "--json",
            "--force",
            "--targets",
            "t.toml",
            "--for",
            "tencent",
            "full.raw",
            "x.qcow2",
        ];
        sandbox.kiln(words)
    };
    limit("2M").exits(0);
    std::fs::remove_file(sandbox.path("x.qcow2")).unwrap();
    let error = limit("100K").exits(1).error();
    assert_eq!(error["code"], "target.data-size");
    assert!(error["message"].as_str().unwrap().contains("t.toml"), "{error}");
    assert!(!sandbox.path("x.qcow2").exists());
    // The length of the file is known last; nothing is published.
    std::fs::write(sandbox.path("t.toml"), "[target.kvm.limits]\nmax_file = 1000\n").unwrap();
    let words = ["convert", "--json", "--targets", "t.toml", "--for", "kvm", "disk.raw", "x.qcow2"];
    assert_eq!(sandbox.kiln(words).exits(1).error()["code"], "target.file-size");
    assert!(!sandbox.path("x.qcow2").exists());
}

#[test]
fn users_change_targets_and_add_their_own() {
    let sandbox = Sandbox::new();
    gpt_disk(&sandbox, "disk.raw");
    let config = sandbox.work().join("../home/.config/kiln");
    std::fs::create_dir_all(&config).unwrap();
    let file = "[target.lab]\nbase = \"kvm\"\nname = \"Our lab\"\nnext = [\"scp @file@ lab:/images/@file_name@\"]\n\
                [target.lab.limits]\ndisk_multiple = \"10M\"\n";
    std::fs::write(config.join("targets.toml"), file).unwrap();
    let report = sandbox.kiln(["convert", "--for", "lab", "disk.raw", "my disk.qcow2"]).ok();
    assert!(report.contains("next          scp 'my disk.qcow2' lab:/images/'my disk.qcow2'\n"), "{report}");
    assert!(report.contains("padded to     30 MiB"), "{report}");
    let shown = sandbox.kiln(["targets", "show", "lab"]).ok();
    assert!(shown.contains("multiple of (padded) 10") && shown.contains("kiln/targets.toml"), "{shown}");
    assert!(sandbox.kiln(["targets"]).ok().contains("\nlab "));
    // A named file goes before, and must be there and right.
    std::fs::write(sandbox.path("t.toml"), "[target.azure.limits]\nmax_dsk = \"1T\"\n").unwrap();
    let error = sandbox.kiln(["targets", "--json", "--targets", "t.toml"]).exits(2).error();
    assert_eq!(error["code"], "targets.row");
    assert!(error["causes"][0].as_str().unwrap().contains("unknown field `max_dsk`"), "{error}");
    let error =
        sandbox.kiln(["targets", "show", "--json", "azure", "--targets", "absent.toml"]).exits(3).error();
    assert_eq!(error["code"], "io.not-found");
    let mut command = sandbox.kiln_command(["targets", "--json"]);
    let listed =
        crate::support::run(command.env("KILN_TARGETS", "/dev/null")).exits(0).json("kiln.targets.v1");
    assert_eq!(listed["targets"].as_array().unwrap().len(), FILES.len());
}

#[test]
fn a_target_is_shown_with_the_source_and_the_date_of_every_rule() {
    let sandbox = Sandbox::new();
    let text = sandbox.kiln(["targets", "show", "vsphere"]).ok();
    for words in [
        "target        vmware",
        "also called   vsphere, esxi",
        "vmx-13",
        "[coreos-assembler ova.py",
        "2026-07]",
    ] {
        assert!(text.contains(words), "{words}\n{text}");
    }
    let json = sandbox.kiln(["targets", "show", "--json", "tencent"]).exits(0).json("kiln.target.v1");
    let target = &json["target"];
    assert_eq!(target["limits"]["max_disk"]["value"], 500_u64 << 30);
    assert_eq!(target["guest"]["part.gpt-bios"]["severity"], "refuse");
    assert!(target["limits"]["max_disk"]["source"].as_str().unwrap().contains("qcloud-documents"));
    assert_eq!(
        sandbox.kiln(["targets", "show", "--json", "nosuch"]).exits(2).error()["code"],
        "target.unknown"
    );
}

#[test]
fn side_files_are_written_on_request_and_are_what_their_programs_read() {
    let sandbox = Sandbox::new();
    gpt_disk(&sandbox, "disk.raw");
    let write = |target: &str, file: &str| {
        let words =
            ["convert", "--json", "--no-sync", "--for", target, "--side-files", "sides", "disk.raw", file];
        sandbox.kiln(words)
    };
    let side = |name: &str| sandbox.path("sides").join(name);
    write("kvm", "a<b>'&.qcow2").exits(0);
    let xml = side("a<b>'&.xml");
    sandbox.tool("xmllint", ["--noout", xml.to_str().unwrap()]);
    let path = sandbox
        .tool("xmllint", ["--xpath", "string(/domain/devices/disk/source/@file)", xml.to_str().unwrap()]);
    assert_eq!(path.trim_end_matches('\n'), "a<b>'&.qcow2");
    let firmware =
        sandbox.tool("xmllint", ["--xpath", "string(/domain/os/@firmware)", xml.to_str().unwrap()]);
    assert_eq!(firmware.trim(), "efi");
    for (target, file, name) in
        [("openstack", "w.qcow2", "w.glance.json"), ("aws", "q\"\\.vmdk", "q\"\\.containers.json")]
    {
        write(target, file).exits(0);
        let text = std::fs::read_to_string(side(name)).unwrap();
        let json: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
        match target {
            "aws" => assert_eq!(
                (&json[0]["Format"], &json[0]["UserBucket"]["S3Key"]),
                (&"VMDK".into(), &file.into())
            ),
            _ => assert_eq!((&json["hw_firmware_type"], &json["min_disk"]), (&"uefi".into(), &1.into())),
        }
    }
    write("proxmox", "it's.qcow2").exits(0);
    let script = side("it's.qm.sh");
    sandbox.tool("sh", ["-n", script.to_str().unwrap()]);
    let stub = "qm() { for word; do printf '[%s]' \"$word\"; done; echo; }; set -- 100 local; . \"$0\"";
    let said = sandbox.tool("sh", ["-c", stub, script.to_str().unwrap()]);
    assert!(
        said.contains("[100][--bios][ovmf]") && said.contains("/it's.qcow2][--boot][order=scsi0]"),
        "{said}"
    );
    // What is there stays, and is looked for before the work.
    let names = names_in(&sandbox.path("sides"));
    let error = write("kvm", "a<b>'&.qcow2").exits(3).error();
    assert_eq!(error["code"], "io.exists");
    std::fs::remove_file(sandbox.path("w.qcow2")).unwrap();
    let error = write("openstack", "w.qcow2").exits(3).error();
    assert_eq!(error["code"], "io.exists");
    assert!(!sandbox.path("w.qcow2").exists());
    assert_eq!(names_in(&sandbox.path("sides")), names);
}

/// Boots two machines at once: each has two processors of its own to fill.
fn boot(sandbox: &Sandbox, machines: [(&str, &str, Firmware); 2]) {
    std::thread::scope(|scope| {
        for (file, format, firmware) in machines {
            let path = sandbox.path(file);
            scope.spawn(move || {
                // Two share the processors of one.
                let timeout = Duration::from_secs(600);
                let guest = Guest { firmware, timeout, ..Guest::new(path, format) };
                let booted = guest.boot_to_login().unwrap_or_else(|error| panic!("{file}: {error}"));
                assert!(booted.console.contains("login: "), "{file}");
            });
        }
    });
}

#[test]
#[ignore = "e2e: needs the Debian fixture and some minutes"]
fn debian_disk_boots_from_its_exports_as_vmdk_vhdx_vdi_and_ova() {
    let sandbox = Sandbox::new();
    let disk = built(Fixture::Debian12);
    let disk = disk.to_str().unwrap();
    sandbox.kiln(["import", disk, "--name", "debian:12"]).exits(0);
    // A place that takes whole multiples of 3 GiB: the disk of 8 GiB grows, and its GPT moves.
    let lab =
        "[target.lab]\nbase = \"virtualbox\"\nname = \"Lab\"\n[target.lab.limits]\ndisk_multiple = \"3G\"\n";
    std::fs::write(sandbox.path("lab.toml"), lab).unwrap();
    let export = |target: &str, file: &str| {
        let words =
            ["export", "--json", "--no-sync", "--targets", "lab.toml", "--for", target, "debian:12", file];
        sandbox.kiln(words).exits(0).json("kiln.export.v1")
    };
    // It starts both ways, and so the target's liking decides.
    assert_eq!(export("aws", "disk.vmdk")["target"]["firmware"], "bios");
    assert_eq!(export("hyper-v", "disk.vhdx")["target"]["firmware"], "uefi");
    for (file, format) in [("disk.vmdk", "vmdk"), ("disk.vhdx", "vhdx")] {
        sandbox.tool("qemu-img", ["compare", "-f", "raw", "-F", format, disk, file]);
    }
    boot(&sandbox, [("disk.vmdk", "vmdk", Firmware::Bios), ("disk.vhdx", "vhdx", Firmware::Uefi)]);
    for file in ["disk.vmdk", "disk.vhdx"] {
        std::fs::remove_file(sandbox.path(file)).unwrap();
    }
    let grown = export("lab", "disk.vdi");
    assert_eq!(grown["target"]["written_disk_bytes"], 9_u64 << 30);
    assert_eq!(grown["target"]["gpt"]["to_lba"], (9_u64 << 30) / 512 - 1);
    assert_ne!(grown["target"]["written_content_digest"], grown["content_digest"]);
    export("vmware", "web-1.ova");
    sandbox.kiln(["check", "web-1.ova"]).exits(0);
    sandbox.tool("tar", ["-xf", "web-1.ova"]);
    boot(&sandbox, [("disk.vdi", "vdi", Firmware::Uefi), ("web-1-disk1.vmdk", "vmdk", Firmware::Bios)]);
}
