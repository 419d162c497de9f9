//! Appliances (OVA, OVF) and archives through every command.

use serde_json::Value;

use crate::support::Sandbox;

/// A descriptor of machines whose disks are these files of these lengths.
fn descriptor(disks: &[(&str, u64)]) -> String {
    let (mut files, mut entries, mut drives) = (String::new(), String::new(), String::new());
    for (n, (name, len)) in disks.iter().enumerate() {
        files += &format!("<File ovf:id=\"file{n}\" ovf:href=\"{name}\"/>");
        entries += &format!("<Disk ovf:diskId=\"disk{n}\" ovf:fileRef=\"file{n}\" ovf:capacity=\"{len}\"/>");
        drives += &format!(
            "<Item><rasd:HostResource>ovf:/disk/disk{n}</rasd:HostResource><rasd:Parent>3</rasd:Parent>\
             <rasd:ResourceType>17</rasd:ResourceType></Item>"
        );
    }
    format!(
        "<?xml version=\"1.0\"?>\n<Envelope xmlns=\"http://schemas.dmtf.org/ovf/envelope/1\" \
         xmlns:ovf=\"http://schemas.dmtf.org/ovf/envelope/1\" \
         xmlns:rasd=\"http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_ResourceAllocationSettingData\" \
         xmlns:vssd=\"http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_VirtualSystemSettingData\" \
         xmlns:vmw=\"http://www.vmware.com/schema/ovf\"><References>{files}</References>\
         <DiskSection><Info>d</Info>{entries}</DiskSection><VirtualSystem ovf:id=\"box\"><Name>box</Name>\
         <OperatingSystemSection ovf:id=\"96\" vmw:osType=\"debian11_64Guest\"/>\
         <VirtualHardwareSection><System><vssd:VirtualSystemType>vmx-13</vssd:VirtualSystemType></System>\
         <Item><rasd:ResourceType>3</rasd:ResourceType><rasd:VirtualQuantity>2</rasd:VirtualQuantity></Item>\
         <Item><rasd:InstanceID>3</rasd:InstanceID><rasd:ResourceSubType>VirtualSCSI</rasd:ResourceSubType>\
         <rasd:ResourceType>6</rasd:ResourceType></Item>{drives}\
         <vmw:Config vmw:key=\"firmware\" vmw:value=\"efi\"/></VirtualHardwareSection></VirtualSystem>\
         </Envelope>\n"
    )
}

/// `box.ova` with these disks, made by GNU tar and sha256sum, and its parts beside it.
fn appliance(sandbox: &Sandbox, disks: &[(&str, u64)]) {
    std::fs::write(sandbox.path("box.ovf"), descriptor(disks)).unwrap();
    let mut names = vec!["box.ovf"];
    names.extend(disks.iter().map(|(name, _)| *name));
    let sums = sandbox.tool("sha256sum", ["--tag"].iter().chain(&names));
    std::fs::write(sandbox.path("box.mf"), sums.replace("SHA256 (", "SHA256(").replace(") = ", ")= "))
        .unwrap();
    names.insert(1, "box.mf");
    sandbox.tool("tar", ["--format=ustar", "-cf", "box.ova"].iter().chain(&names));
}

fn one_disk(sandbox: &Sandbox) {
    sandbox.disk("disk.raw", 8 << 20);
    sandbox.tool("qemu-img", ["convert", "-O", "qcow2", "disk.raw", "disk-1.qcow2"]);
    appliance(sandbox, &[("disk-1.qcow2", 8 << 20)]);
}

fn two_disks(sandbox: &Sandbox) {
    sandbox.disk("disk.raw", 8 << 20);
    sandbox.disk("other.raw", 5 << 20);
    sandbox.tool("qemu-img", ["convert", "-O", "qcow2", "disk.raw", "disk-1.qcow2"]);
    sandbox.tool("qemu-img", ["convert", "-O", "vpc", "-o", "force_size", "other.raw", "disk-2.vhd"]);
    appliance(sandbox, &[("disk-1.qcow2", 8 << 20), ("disk-2.vhd", 5 << 20)]);
}

fn content(sandbox: &Sandbox, words: &[&str]) -> String {
    let words = ["verify", "--json", "--content-only"].iter().chain(words);
    let json = sandbox.kiln(words).exits(0).json("kiln.verify.v1");
    json["content_digest"].as_str().unwrap().to_owned()
}

#[test]
fn inspect_tells_machine_disks_and_manifest() {
    let sandbox = Sandbox::new();
    two_disks(&sandbox);
    let json = sandbox.kiln(["inspect", "--json", "box.ova"]).exits(0).json("kiln.inspect.v1");
    assert_eq!((&json["format"], &json["variant"]), (&"ova".into(), &"OVF 1, 2 disks".into()));
    let details = &json["details"];
    assert_eq!(details["descriptor"], "box.ovf");
    assert_eq!(
        details["disks"],
        serde_json::json!(["1 disk-1.qcow2, 8388608 bytes", "2 disk-2.vhd, 5242880 bytes"])
    );
    assert!(details["manifest"].as_str().unwrap().starts_with("sha256, lists 2 of 2 files"), "{details}");
    assert_eq!((&details["firmware"], &details["cpus"]), (&"efi".into(), &2.into()));
    assert_eq!(details["virtual_system_type"], "vmx-13");
    assert_eq!(details["controllers"], serde_json::json!(["scsi VirtualSCSI"]));
    let text = sandbox.kiln(["inspect", "box.ova"]).ok();
    assert!(text.contains("debian11_64Guest"), "{text}");
}

#[test]
fn the_only_disk_goes_through_every_command() {
    let sandbox = Sandbox::new();
    one_disk(&sandbox);
    sandbox.kiln(["convert", "box.ova", "out.raw"]).ok();
    assert!(
        std::fs::read(sandbox.path("out.raw")).unwrap() == std::fs::read(sandbox.path("disk.raw")).unwrap()
    );
    assert_eq!(content(&sandbox, &["box.ova"]), content(&sandbox, &["disk.raw"]));
    assert_eq!(content(&sandbox, &["box.ovf"]), content(&sandbox, &["disk.raw"]));
    let json = sandbox.kiln(["check", "--json", "box.ova"]).exits(0).json("kiln.check.v1");
    assert_eq!(json["findings"], serde_json::json!([]));
    let json = sandbox.kiln(["check", "--json", "box.ovf"]).exits(0).json("kiln.check.v1");
    assert_eq!(json["findings"], serde_json::json!([]));
    let json = sandbox.kiln(["map", "--json", "box.ova"]).exits(0).json("kiln.map.v1");
    let archive = std::fs::read(sandbox.path("box.ova")).unwrap();
    let disk = std::fs::read(sandbox.path("disk.raw")).unwrap();
    let mut seen = 0;
    for extent in json["extents"].as_array().unwrap() {
        let number = |key: &str| extent[key].as_u64().map(|number| number as usize);
        if let (Some(at), Some(start), Some(len)) =
            (number("offset_bytes"), number("start_bytes"), number("length_bytes"))
        {
            assert!(archive[at..at + len] == disk[start..start + len], "{extent}");
            seen += len;
        }
    }
    assert!(seen >= 600_000, "{json}");
}

#[test]
fn import_records_the_machine() {
    let sandbox = Sandbox::new();
    one_disk(&sandbox);
    sandbox.kiln(["import", "box.ova", "--name", "box"]).ok();
    let json = sandbox.kiln(["show", "--json", "box"]).exits(0).json("kiln.show.v1");
    let image: &Value = if json["image"].is_null() { &json } else { &json["image"] };
    let appliance = &image["provenance"]["appliance"];
    assert_eq!((&appliance["descriptor"], &appliance["disk"]), (&"box.ovf".into(), &"disk-1.qcow2".into()));
    assert_eq!((&appliance["firmware"], &appliance["cpus"]), (&"efi".into(), &2.into()));
    assert_eq!((&appliance["disk_bus"], &appliance["manifest_verified"]), (&"scsi".into(), &true.into()));
    assert_eq!(
        (&image["source"]["format"], &image["source"]["file_name"]),
        (&"ova".into(), &"box.ova".into())
    );
    let text = sandbox.kiln(["show", "box"]).ok();
    assert!(text.contains("disk disk-1.qcow2 of box.ovf"), "{text}");
    assert_eq!(content(&sandbox, &["box:latest"]), content(&sandbox, &["disk.raw"]));
}

#[test]
fn of_several_disks_one_must_be_named() {
    let sandbox = Sandbox::new();
    two_disks(&sandbox);
    let ran = sandbox.kiln(["convert", "box.ova", "out.raw"]).exits(1);
    for words in ["1 is disk-1.qcow2", "2 is disk-2.vhd", "--disk"] {
        assert!(ran.stderr.contains(words), "{}", ran.stderr);
    }
    assert!(!sandbox.path("out.raw").exists());
    for (disk, raw) in [("2", "other.raw"), ("disk-1.qcow2", "disk.raw"), ("disk1", "other.raw")] {
        assert_eq!(content(&sandbox, &["--disk", disk, "box.ova"]), content(&sandbox, &[raw]), "{disk}");
        sandbox.kiln(["convert", "--force", "--disk", disk, "box.ova", "out.raw"]).ok();
        assert!(std::fs::read(sandbox.path("out.raw")).unwrap() == std::fs::read(sandbox.path(raw)).unwrap());
    }
    sandbox
        .kiln(["import", "--force", "box.ova", "--name", "box"])
        .exits(1)
        .stderr
        .contains("ova.which-disk");
    sandbox.kiln(["import", "box.ova", "--name", "box", "--disk", "2"]).ok();
    assert_eq!(content(&sandbox, &["box:latest"]), content(&sandbox, &["other.raw"]));
    sandbox.kiln(["convert", "--disk", "1", "disk.raw", "x.qcow2"]).exits(1);
    assert!(!sandbox.path("x.qcow2").exists());
}

#[test]
fn a_changed_disk_is_a_no_with_its_place() {
    let sandbox = Sandbox::new();
    one_disk(&sandbox);
    let mut archive = std::fs::read(sandbox.path("box.ova")).unwrap();
    let len = archive.len();
    archive[len - 20_000] ^= 1;
    std::fs::write(sandbox.path("box.ova"), &archive).unwrap();
    for command in ["check", "verify"] {
        let json = sandbox.kiln([command, "--json", "box.ova"]).exits(1);
        let json: Value = serde_json::from_str(json.text()).unwrap();
        let findings = json["findings"].as_array().unwrap();
        let finding = findings.iter().find(|finding| finding["id"] == "ova.mf.differs").unwrap();
        assert!(
            finding["offset_bytes"].as_u64().unwrap() % 512 == 0 && finding["severity"] == "damage",
            "{finding}"
        );
    }
    sandbox.kiln(["import", "box.ova", "--name", "box"]).exits(1);
    assert_eq!(sandbox.kiln(["ls", "--json"]).ok().matches("img-").count(), 0);
}

#[test]
fn archives_of_clouds_are_disks() {
    let sandbox = Sandbox::new();
    sandbox.disk("disk.raw", 8 << 20);
    for format in ["oldgnu", "gnu", "posix", "ustar"] {
        let how = if format == "ustar" { "-cf" } else { "-Scf" };
        sandbox.tool("tar", [&format!("--format={format}"), how, "disk.tar", "disk.raw"]);
        assert_eq!(content(&sandbox, &["disk.tar"]), content(&sandbox, &["disk.raw"]), "{format}");
    }
    let json = sandbox.kiln(["inspect", "--json", "disk.tar"]).exits(0).json("kiln.inspect.v1");
    assert_eq!((&json["format"], &json["details"]["member"]), (&"tar".into(), &"disk.raw".into()));
}

#[test]
fn convert_and_export_write_appliances_that_other_programs_take() {
    let sandbox = Sandbox::new();
    sandbox.disk("disk.raw", 8 << 20);
    sandbox.kiln(["import", "disk.raw", "--name", "box"]).ok();
    for words in [
        vec!["convert", "disk.raw", "web-1.ova"],
        vec!["convert", "-O", "ova", "-o", "manifest=sha512,firmware=efi", "disk.raw", "web-1.ova"],
        vec!["export", "box", "web-1.ova"],
    ] {
        let json = sandbox.kiln(words.iter().chain(&["--json"])).exits(0);
        let json: Value = serde_json::from_str(json.text()).unwrap();
        assert_eq!((&json["format"], &json["verified"]), (&"ova".into(), &true.into()), "{words:?}");
        assert_eq!(sandbox.tool("tar", ["-tf", "web-1.ova"]), "web-1.ovf\nweb-1.mf\nweb-1-disk1.vmdk\n");
        sandbox.tool("tar", ["-xf", "web-1.ova"]);
        sandbox.tool("qemu-img", ["compare", "-f", "vmdk", "-F", "raw", "web-1-disk1.vmdk", "disk.raw"]);
        let check = sandbox.kiln(["check", "--json", "web-1.ova"]).exits(0).json("kiln.check.v1");
        assert_eq!(check["findings"], serde_json::json!([]));
        std::fs::remove_file(sandbox.path("web-1.ova")).unwrap();
    }
    let piped = sandbox.kiln(["convert", "-O", "ova", "disk.raw", "-"]).exits(0);
    std::fs::write(sandbox.path("piped.ova"), &piped.stdout).unwrap();
    assert_eq!(content(&sandbox, &["piped.ova"]), content(&sandbox, &["disk.raw"]));
}

#[test]
fn a_disk_that_is_compressed_by_itself_is_the_same_disk_by_every_way() {
    let sandbox = Sandbox::new();
    one_disk(&sandbox);
    let plain = sandbox.kiln(["verify", "--json", "disk.raw"]).exits(0).json("kiln.verify.v1");
    sandbox.tool("gzip", ["-1", "disk-1.qcow2"]);
    appliance(&sandbox, &[("disk-1.qcow2.gz", 8 << 20)]);
    let text = std::fs::read_to_string(sandbox.path("box.ovf")).unwrap();
    assert!(!text.contains("compression"));
    let packed = text.replace("disk-1.qcow2.gz\"", "disk-1.qcow2.gz\" ovf:compression=\"gzip\"");
    std::fs::write(sandbox.path("box.ovf"), packed).unwrap();
    std::fs::remove_file(sandbox.path("box.mf")).unwrap();
    sandbox.tool("tar", ["--format=ustar", "-cf", "box.ova", "box.ovf", "disk-1.qcow2.gz"]);
    for name in ["box.ova", "box.ovf"] {
        let inspected = sandbox.kiln(["inspect", "--json", name]).exits(0).json("kiln.inspect.v1");
        assert_eq!(inspected["disk_bytes"], 8 << 20, "{name}");
        let format = inspected["details"]["disk_format"].as_str().unwrap();
        assert!(format.starts_with("gzip > qcow2, v3"), "{format}");
        let verified = sandbox.kiln(["verify", "--json", name]).exits(0).json("kiln.verify.v1");
        assert_eq!(verified["content_digest"], plain["content_digest"], "{name}");
        sandbox.kiln(["verify", "--deep", "-q", name, "--against", "disk.raw"]).exits(0);
        sandbox.kiln(["convert", "-q", name, "out.raw"]).exits(0);
        sandbox.tool("cmp", ["disk.raw", "out.raw"]);
        std::fs::remove_file(sandbox.path("out.raw")).unwrap();
        let done = sandbox.kiln(["import", "--json", name, "--name", "x", "--replace"]).exits(0);
        let done = done.json("kiln.import.v1");
        assert_eq!(done["content_digest"], plain["content_digest"], "{name}");
        let passage = &done["source"]["passage"];
        assert_eq!(passage["reason"], "the disk in it is compressed by itself", "{passage}");
        assert!(passage["scratch_bytes"].as_u64().unwrap() > 0, "{passage}");
    }
    assert_eq!(sandbox.temporary_names(), Vec::<String>::new());
    assert_eq!(crate::support::names_in(&sandbox.store().join("staging")), Vec::<String>::new());
}

#[test]
fn an_appliance_through_a_pipe_or_from_a_server_is_decoded_as_it_comes_or_kept_first_and_that_is_said() {
    let sandbox = Sandbox::new();
    for in_one in [true, false] {
        if in_one {
            sandbox.disk("disk.raw", 8 << 20);
            sandbox.kiln(["convert", "-q", "-O", "ova", "disk.raw", "box.ova"]).exits(0);
        } else {
            one_disk(&sandbox);
        }
        by_every_way(&sandbox, in_one);
        sandbox.kiln(["rm", "plain"]).exits(0);
        std::fs::remove_file(sandbox.path("box.ova")).unwrap();
    }
}

fn by_every_way(sandbox: &Sandbox, in_one: bool) {
    let plain = sandbox.kiln(["import", "--json", "box.ova", "--name", "plain"]).exits(0);
    let plain = plain.json("kiln.import.v1");
    let bytes = std::fs::read(sandbox.path("box.ova")).unwrap();
    let sum = sandbox.tool("sha256sum", ["box.ova"]).split(' ').next().unwrap().to_owned();
    let server = kiln_testkit::http::Server::start();
    server.put("/box.ova", kiln_testkit::http::Served::new(bytes.clone()));
    let url = server.url("/box.ova");
    let words = |from| ["import", "--json", from, "--name", "x", "--replace", "--sha256", &sum];
    for ran in [sandbox.kiln_with_input(words("-"), &bytes), sandbox.kiln(words(&url))] {
        let done = ran.exits(0).json("kiln.import.v1");
        assert_eq!((&done["content_digest"], &done["layers"]), (&plain["content_digest"], &plain["layers"]));
        let passage = &done["source"]["passage"];
        assert_eq!(passage["one_pass"], in_one, "{passage}");
        assert!(in_one || passage["reason"].is_string(), "{passage}");
        let show = |name: &str| sandbox.kiln(["show", "--json", name]).ok();
        let machine =
            |text: String| serde_json::from_str::<Value>(&text).unwrap()["provenance"]["appliance"].clone();
        assert_eq!(machine(show("x")), machine(show("plain")));
    }
}
