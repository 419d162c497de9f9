//! `kiln check --for`, the guest in `kiln inspect`, and the policy of `kiln import`.

use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use kiln_testkit::boot::{DiskBus, Firmware, Guest};
use kiln_testkit::fixtures::Fixture;
use kiln_testkit::guest_matrix::{Case, Copied, cases, run};

use crate::support::{Sandbox, built, run as run_command};

/// The disk that a case is made of.
fn base(case: &Case) -> PathBuf {
    match case.layout {
        Some((name, _)) => Fixture::Layouts.path().unwrap().join(format!("{name}.raw")),
        None => built(Fixture::Debian12),
    }
}

#[test]
fn disk_without_a_system_will_not_boot_anywhere() {
    let sandbox = Sandbox::new();
    sandbox.guest_disk("disk.raw");
    let json =
        sandbox.kiln(["check", "--json", "--for", "kvm,tencent", "disk.raw"]).exits(1).json("kiln.check.v1");
    let judgements = json["guest"]["judgements"].as_array().unwrap();
    assert_eq!(judgements.len(), 2);
    for judgement in judgements {
        assert_eq!(judgement["verdict"], "will_not_boot");
    }
    let finding =
        judgements[1]["findings"].as_array().unwrap().iter().find(|finding| finding["id"] == "os.root");
    assert_eq!(finding.unwrap()["tencent_error"], "RootPartitionNotFound");
}

#[test]
fn unknown_target_and_rule_are_named_with_those_that_are_there() {
    let sandbox = Sandbox::new();
    sandbox.guest_disk("disk.raw");
    let ran = sandbox.kiln(["check", "--for", "moon", "disk.raw"]);
    assert_eq!(ran.code, Some(2));
    assert!(ran.stderr.contains("no target is called \"moon\""), "{}", ran.stderr);
    assert!(ran.stderr.contains("tencent, aws, azure"), "{}", ran.stderr);
    let ran = sandbox.kiln(["check", "--explain", "kmod.moon"]);
    assert_eq!(ran.code, Some(2));
    assert!(ran.stderr.contains("kmod.virtio"), "{}", ran.stderr);
}

#[test]
fn explain_tells_what_a_rule_looks_at_and_how_bad_it_is_where() {
    let sandbox = Sandbox::new();
    let text = sandbox.kiln(["check", "--explain", "kmod.virtio"]).ok();
    assert!(text.contains("virtio_blk and virtio_pci in kernel and initramfs"), "{text}");
    assert!(text.contains("tencent: rejected at import") && text.contains("VirtioNotInstall"), "{text}");
    let json = sandbox.kiln(["check", "--json", "--explain", "fstab.exist"]).exits(0).json("kiln.explain.v1");
    assert_eq!(json["severity"], "will_not_boot");
}

#[test]
fn inspect_leaves_the_guest_out_when_asked() {
    let sandbox = Sandbox::new();
    sandbox.guest_disk("disk.raw");
    let json = sandbox.kiln(["inspect", "--json", "disk.raw"]).exits(0).json("kiln.inspect.v1");
    assert_eq!(json["guest"]["schema"], "kiln.guest.v1");
    let json = sandbox.kiln(["inspect", "--json", "--no-guest", "disk.raw"]).exits(0).json("kiln.inspect.v1");
    assert!(json.get("guest").is_none());
}

#[test]
fn report_is_one_page_that_loads_nothing_and_is_never_overwritten() {
    let sandbox = Sandbox::new();
    sandbox.guest_disk("disk.raw");
    let words = ["check", "--for", "all", "--report", "r.html", "disk.raw"];
    assert_eq!(sandbox.kiln(words).code, Some(1));
    let page = std::fs::read_to_string(sandbox.path("r.html")).unwrap();
    assert!(page.starts_with("<!DOCTYPE html>") && page.trim_end().ends_with("</html>"));
    for outside in ["http:", "https:", "src=", "url(", "@import", "<script"] {
        assert!(!page.contains(outside), "{outside}");
    }
    let ran = sandbox.kiln(words);
    assert_eq!((ran.code, ran.stderr.contains("r.html")), (Some(3), true), "{}", ran.stderr);
}

#[test]
fn windows_is_described_judged_and_imported_where_it_starts() {
    let sandbox = Sandbox::new();
    let mut windows = kiln_testkit::windows::Windows::new(true);
    windows.system.driver("viostor", 3);
    let disk = windows.write(&sandbox.work(), "windows");
    let disk = disk.to_str().unwrap();
    let text = sandbox.kiln(["inspect", disk]).ok();
    for words in [
        "Windows Server 2022 Datacenter 21H2 (x86_64)",
        "10.0.20348.2113 ServerDatacenter Server Core",
        "UEFI: /EFI/Microsoft/Boot/bootmgfw.efi, /EFI/Microsoft/Boot/BCD starts",
        "viostor (start 3)",
    ] {
        assert!(text.contains(words), "{words}: {text}");
    }
    assert!(!text.contains("SSH server"), "{text}");
    let json = sandbox.kiln(["inspect", "--json", disk]).exits(0).json("kiln.inspect.v1");
    assert_eq!(json["guest"]["windows"]["version"]["build"], "20348");
    let text = sandbox.kiln(["check", "--for", "kvm", disk]);
    assert_eq!(text.code, Some(1));
    for words in ["win.viostor", "Start is 3, not 0", "reg add", "/v Start /t REG_DWORD /d 0 /f"] {
        let out = String::from_utf8_lossy(&text.stdout);
        assert!(out.contains(words), "{words}: {out}");
    }
    let refused = sandbox.kiln(["import", "--json", "--name", "w", "--for", "kvm", disk]);
    assert_eq!((refused.code, refused.stderr.contains("win.viostor")), (Some(1), true), "{}", refused.stderr);
    // Hyper-V's drivers are there.
    let words = ["import", "--json", "--name", "w", "--for", "hyper-v", disk];
    let json = sandbox.kiln(words).exits(0).json("kiln.import.v1");
    assert_eq!(json["guest"][0]["verdict"], "boots");
    let json = sandbox.kiln(["show", "--json", "w"]).json("kiln.show.v1");
    assert_eq!(
        (&json["image"]["os"], &json["image"]["boot_mode"]),
        (&"windows 10.0.20348".into(), &"uefi".into())
    );
}

#[test]
#[ignore = "e2e: needs the Debian fixture and some minutes"]
fn sample_of_broken_disks_is_judged_as_it_starts() {
    let sandbox = Sandbox::new();
    let kiln = PathBuf::from(env!("CARGO_BIN_EXE_kiln"));
    for case in cases().filter(|case| case.sample) {
        let outcome = run(case, &kiln, &base(case), &sandbox.work(), true);
        assert!(outcome.wrong.is_empty(), "{outcome}");
    }
}

#[test]
#[ignore = "e2e: needs the Debian fixture and some minutes"]
fn third_of_the_broken_disks_is_judged_as_predicted() {
    let sandbox = Sandbox::new();
    let kiln = PathBuf::from(env!("CARGO_BIN_EXE_kiln"));
    let work = sandbox.work();
    let (next, wrong) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    // A third of them; `make guest-matrix` asks about all and starts them.
    let all: Vec<&Case> = cases().step_by(3).collect();
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while let Some(case) = all.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let outcome = run(case, &kiln, &base(case), &work, false);
                    if !outcome.wrong.is_empty() {
                        wrong.lock().unwrap().push(outcome.to_string());
                    }
                }
            });
        }
    });
    let wrong = wrong.into_inner().unwrap();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Roots on file systems that are named and not read may start: nobody is told that they will not.
#[test]
fn system_that_cannot_be_looked_at_is_no_verdict() {
    let sandbox = Sandbox::new();
    let samples = Fixture::BlkidSamples.ensure().unwrap();
    for (sample, kind, label) in
        [("jfs", "jfs", "test-jfs"), ("f2fs", "f2fs", "test-f2fs"), ("zfs", "zfs_member", "tank")]
    {
        let disk = samples.join(format!("{sample}.img"));
        let json =
            sandbox.kiln(["inspect", "--json", disk.to_str().unwrap()]).exits(0).json("kiln.inspect.v1");
        let volume = &json["guest"]["volumes"][0];
        assert_eq!((&volume["kind"], &volume["label"]), (&kind.into(), &label.into()), "{volume}");
        let words = ["check", "--json", "--for", "openstack", disk.to_str().unwrap()];
        let json = sandbox.kiln(words).json("kiln.check.v1");
        let open = json["guest"]["judgements"][0]["unanswered"].as_array().unwrap();
        assert!(open.iter().any(|open| open["id"] == "os.root"), "{json:#}");
    }
    // A partition of FreeBSD: what is in its slice is not read at all.
    sandbox.disk("bsd.raw", 64 << 20);
    let words = ["-o", "-n", "1:2048:0", "-t", "1:516e7cb6-6ecf-11d6-8ff8-00022d09712b", "bsd.raw"];
    sandbox.tool("sgdisk", words);
    let json = sandbox.kiln(["check", "--json", "--for", "openstack", "bsd.raw"]).json("kiln.check.v1");
    let open = json["guest"]["judgements"][0]["unanswered"].as_array().unwrap();
    assert!(open.iter().any(|open| open["id"] == "os.root"), "{json:#}");
}

#[test]
#[ignore = "e2e: needs the Debian fixture and some minutes"]
fn import_for_a_place_refuses_what_will_not_start_there() {
    let sandbox = Sandbox::new();
    let broken = cases().find(|case| case.name == "wrong-root-uuid").unwrap();
    let copied = Copied::of(&built(Fixture::Debian12), &sandbox.work(), "broken");
    (broken.edit)(&copied);
    let ran =
        sandbox.kiln(["import", "--json", "--name", "d", "--for", "kvm", copied.disk.to_str().unwrap()]);
    assert_eq!(ran.code, Some(1));
    assert!(ran.stderr.contains("import.guest") && ran.stderr.contains("boot.root-arg"), "{}", ran.stderr);
    assert_eq!(sandbox.kiln(["ls", "--json"]).json("kiln.ls.v1")["images"], serde_json::json!([]));
    // Both firmwares' ways lead to the same line of grub.cfg, which is told once.
    let words = ["check", "--json", "--for", "kvm", copied.disk.to_str().unwrap()];
    let json = sandbox.kiln(words).exits(1).json("kiln.check.v1");
    let findings = json["guest"]["judgements"][0]["findings"].as_array().unwrap();
    let roots = findings.iter().filter(|finding| finding["id"] == "boot.root-arg").count();
    assert_eq!(roots, 1, "{findings:#?}");
    let disk = built(Fixture::Debian12);
    let disk = disk.to_str().unwrap();
    let json = sandbox
        .kiln(["import", "--json", "--name", "d", "--for", "kvm", disk])
        .exits(0)
        .json("kiln.import.v1");
    assert_eq!(json["guest"][0]["verdict"], "boots");
    from_a_pipe(&sandbox);
    let json = sandbox.kiln(["check", "--json", "--for", "kvm", "d"]).exits(0).json("kiln.check.v1");
    assert_eq!(json["guest"]["judgements"][0]["verdict"], "boots");
    knows_where_its_image_starts(&sandbox);

    // What is imported in spite of that is known, and not started or made public.
    let words = ["import", "--force", "--name", "broken", "--for", "kvm", copied.disk.to_str().unwrap()];
    sandbox.kiln(words).ok();
    let json = sandbox.kiln(["check", "--json", "broken"]).exits(0).json("kiln.check.v1");
    let kvm = json["stored_guest"]["verdicts"].as_array().unwrap().iter().find(|one| one["target"] == "kvm");
    assert_eq!(kvm.unwrap()["findings"][0]["id"], "boot.root-arg");
    let refused = sandbox.kiln(["launch", "--json", "--dry-run", "broken"]);
    assert_eq!(
        (refused.code, &refused.error()["code"]),
        (Some(1), &serde_json::json!("instance.image.guest"))
    );
    sandbox.kiln(["launch", "--dry-run", "--force", "broken"]).ok();
    sandbox.kiln(["audit", "broken", "--note", "looked at it"]).ok();
    let refused = sandbox.kiln(["set", "--json", "--public", "broken"]);
    assert_eq!((refused.code, &refused.error()["code"]), (Some(1), &serde_json::json!("rights.unsound")));
}

/// What comes once is judged when it is stored, and shown only if it passes.
fn from_a_pipe(sandbox: &Sandbox) {
    let piped = |disk: &str| {
        // A small disk, packed: a digest of the zeros of a large one takes longer than all else here.
        let disk = Fixture::Layouts.path().unwrap().join(disk);
        sandbox.tool("zstd", ["-q", "-f", "-1", "-T2", disk.to_str().unwrap(), "-o", "packed.zst"]);
        let words = ["import", "--json", "--for", "kvm", "--name", "piped", "-"];
        let packed = std::fs::File::open(sandbox.path("packed.zst")).unwrap();
        run_command(sandbox.kiln_command(words).stdin(packed))
    };
    let refused = piped("btrfs-no-subvolume.raw");
    assert_eq!((refused.code, &refused.error()["code"]), (Some(1), &serde_json::json!("import.guest")));
    assert_eq!(sandbox.kiln(["ls", "--json"]).json("kiln.ls.v1")["images"].as_array().unwrap().len(), 1);
    let json = piped("btrfs.raw").exits(0).json("kiln.import.v1");
    assert_eq!(json["guest"][0]["verdict"], "boots_with_warnings");
    assert_eq!(json["source"]["passage"]["one_pass"], true);
    sandbox.kiln(["rm", "piped"]).ok();
}

/// The record of the sound image `d`, wherever it is shown.
fn knows_where_its_image_starts(sandbox: &Sandbox) {
    let shown = sandbox.kiln(["show", "d"]).ok();
    assert!(shown.contains("Debian GNU/Linux 12 (bookworm)") && shown.contains("boots: "), "{shown}");
    let json = sandbox.kiln(["show", "--json", "d"]).json("kiln.show.v1");
    assert_eq!(json["image"]["boot_mode"], "bios+uefi");
    for (mode, count) in [("bios", 1), ("uefi", 1), ("openfirmware", 0)] {
        let json = sandbox.kiln(["ls", "--json", "--boot", mode]).json("kiln.ls.v1");
        assert_eq!(json["images"].as_array().unwrap().len(), count, "{mode}");
    }
    // What the rules of this version said is not asked again.
    let json = sandbox.kiln(["store", "--json", "upgrade"]).json("kiln.store-upgrade.v1");
    assert_eq!(json["up_to_date"], 1);
    std::fs::write(sandbox.path("t.toml"), "[target.kvm.finding.\"agent.qga\"]\nseverity = \"off\"\n")
        .unwrap();
    let words = ["check", "--targets", "t.toml", "--json", "--for", "kvm", "d"];
    sandbox.kiln(words).exits(0).json("kiln.check.v1");
    std::fs::write(sandbox.path("t.toml"), "[target.kvm.finding.\"no.rule\"]\nseverity = \"off\"\n").unwrap();
    assert_eq!(sandbox.kiln(words).error()["code"], "target.finding");
}

/// Disks of the fixture `layouts`, the firmware to ask for and to start with, and the finding that must keep the disk from
/// starting, if any. CI starts those of the last column; KILN_LAYOUTS=all starts all.
const LAYOUTS: [(&str, &str, Option<&str>, bool); 17] = [
    ("xfs", "bios", None, false),
    ("xfs", "uefi", None, false),
    ("btrfs", "bios", None, false),
    ("btrfs-no-subvolume", "uefi", Some("boot.root-arg"), false),
    ("lvm", "bios", None, true),
    ("lvm-no-tools", "uefi", Some("kmod.fs"), false),
    ("systemd-boot", "uefi", None, true),
    ("systemd-boot", "bios", Some("boot.mode"), false),
    ("systemd-boot-no-entry", "uefi", Some("boot.loader"), false),
    ("extlinux", "bios", None, false),
    ("shim", "uefi", None, false),
    ("shim-fallback", "uefi", None, true),
    ("dracut", "bios", None, false),
    ("dracut-lvm", "uefi", None, true),
    ("sysvinit", "bios", None, false),
    ("openrc", "bios", None, true),
    ("runit", "bios", None, false),
];

#[test]
#[ignore = "e2e: needs the layouts and some minutes"]
fn every_layout_is_judged_as_it_starts() {
    let sandbox = Sandbox::new();
    let dir = built(Fixture::Layouts);
    let all = std::env::var("KILN_LAYOUTS").is_ok_and(|value| value == "all");
    for (name, firmware, broken, sample) in LAYOUTS {
        let disk = dir.join(format!("{name}.raw"));
        let words = ["check", "--json", "--for", "kvm", "--firmware", firmware, disk.to_str().unwrap()];
        let json = sandbox.kiln(words).exits(i32::from(broken.is_some())).json("kiln.check.v1");
        let judgement = &json["guest"]["judgements"][0];
        let stops: Vec<&str> = judgement["findings"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|finding| {
                matches!(finding["severity"].as_str(), Some("rejected_at_import" | "will_not_boot"))
            })
            .map(|finding| finding["id"].as_str().unwrap())
            .collect();
        // No SSH server, no user: these systems are for starting only.
        let verdict = if broken.is_some() { "will_not_boot" } else { "boots_with_warnings" };
        assert_eq!(judgement["verdict"], verdict, "{name}: {judgement:#}");
        assert_eq!(stops, broken.into_iter().collect::<Vec<_>>(), "{name}");
        if !(sample || all) {
            continue;
        }
        let guest = Guest {
            disk,
            format: "raw".to_owned(),
            firmware: if firmware == "bios" { Firmware::Bios } else { Firmware::Uefi },
            bus: DiskBus::VirtioBlk,
            memory_mib: 1024,
            timeout: std::time::Duration::from_secs(600),
            qemu: "qemu-system-x86_64".into(),
        };
        let ended = guest.boot_to_end();
        assert_eq!(
            ended.prompt,
            broken.is_none(),
            "{name} by {firmware}: {}\n{}",
            ended.words,
            ended.console
        );
    }
}
