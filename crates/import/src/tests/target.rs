//! Plans and files for targets.

use kiln_target::{Firmware, Target, Targets};

use super::*;

fn row(name: &str) -> Target {
    Targets::builtin().unwrap().find(name).unwrap().clone()
}

fn changed(text: &str) -> Targets {
    Targets::builtin().unwrap().with_file("t.toml", text).unwrap()
}

fn request<'a>(target: &'a Target, dest: &'a Path) -> TargetRequest<'a> {
    TargetRequest {
        target,
        dest: Some(dest),
        format: None,
        options: Vec::new(),
        compress: false,
        machine: Machine::default(),
        threads: 2,
    }
}

fn how() -> TargetWrite {
    TargetWrite {
        existing: Existing::Keep,
        durability: Durability::Unsynced,
        read_back: true,
        threads: 2,
        raw_digest: false,
        expected: None,
    }
}

fn raw(path: &Path) -> Box<dyn kiln_format::Image> {
    let source = Arc::new(FileSource::open(path).unwrap());
    kiln_format::open(source, Choice::AsRaw, &OpenContext::new()).unwrap()
}

#[test]
fn every_output_of_every_row_can_be_written_and_read_again() {
    let bench = Bench::new();
    let source = raw(&bench.file("disk.raw", &disk(1)));
    for target in Targets::builtin().unwrap().rows() {
        for output in &target.outputs {
            for ending in &output.endings {
                let dest = bench.path(&format!("{}{ending}", target.id));
                let plan = plan_target(source.as_ref(), &request(target, &dest), &Silent).unwrap();
                assert_eq!(by_name(&output.format).unwrap().id, plan.format, "{} {ending}", target.id);
                if plan.written_disk_bytes > 64 << 20 {
                    continue;
                }
                let outcome = plan.to_file(source.as_ref(), &dest, how(), &|| Ok(()), &Silent).unwrap();
                assert_eq!(outcome.transport.hex(), sha256_of(&std::fs::read(&dest).unwrap()));
                assert_eq!(outcome.source_content, content_of(source.as_ref()));
                let file = Arc::new(FileSource::open(&dest).unwrap());
                let image = (by_name(plan.format).unwrap().open)(file, &OpenContext::new()).unwrap();
                assert_eq!(content_of(image.as_ref()), outcome.written_content, "{} {ending}", target.id);
                std::fs::remove_file(&dest).unwrap();
            }
        }
    }
}

#[test]
fn the_machine_that_the_disk_was_part_of_is_described_as_far_as_it_is_one() {
    let bench = Bench::new();
    let source = raw(&bench.file("disk.raw", &disk(1)));
    let (target, dest) = (row("vmware"), bench.path("web-1.ova"));
    let options = |machine: Machine, given: &[(&str, &str)]| {
        let mut request = request(&target, &dest);
        request.machine = machine;
        request.options =
            given.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        plan_target(source.as_ref(), &request, &Silent).unwrap()
    };
    let machine = Machine {
        firmware: Some(Firmware::Uefi),
        cpus: Some(4),
        memory_bytes: Some(8 << 30),
        os_type: Some("debian12_64Guest".to_owned()),
    };
    let plan = options(machine.clone(), &[("memory", "1G")]);
    let expected = [
        ("controller", "pvscsi"),
        ("cpus", "4"),
        ("firmware", "efi"),
        ("hardware", "vmx-13"),
        ("manifest", "sha256"),
        ("memory", "1G"),
        ("name", "web-1"),
        ("network", "VmxNet3"),
        ("os_type", "debian12_64Guest"),
    ];
    let found: Vec<_> = plan.options.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    assert_eq!(found, expected);
    // What no writer takes is left out, and what the user says goes before.
    let odd = Machine {
        firmware: None,
        cpus: Some(100_000),
        memory_bytes: Some(12_345),
        os_type: Some("<x>Guest".to_owned()),
    };
    let plan = options(odd, &[]);
    let names: Vec<&str> = plan.options.keys().map(String::as_str).collect();
    assert_eq!(names, ["controller", "hardware", "manifest", "name", "network"]);
    assert_eq!(options(machine, &[("firmware", "bios")]).firmware, Some(Firmware::Bios));
}

#[test]
fn a_target_without_the_disks_firmware_refuses_it() {
    let bench = Bench::new();
    let source = raw(&bench.file("disk.raw", &disk(1)));
    let text = "[target.kvm]\nfirmware = { accepts = [\"bios\"], prefers = \"bios\", source = \"us\" }\n";
    let targets = changed(text);
    let (target, dest) = (targets.find("kvm").unwrap(), bench.path("x.qcow2"));
    let mut asked = request(target, &dest);
    asked.machine.firmware = Some(Firmware::Uefi);
    let error = plan_target(source.as_ref(), &asked, &Silent).unwrap_err();
    assert_eq!(error.code(), "target.firmware");
    assert!(error.to_string().contains("uefi only") && error.to_string().contains("(us)"), "{error}");
    // A container may be narrower than its target.
    let (target, vhd, vhdx) = (row("hyper-v"), bench.path("x.vhd"), bench.path("x.vhdx"));
    for (dest, code) in [(&vhd, Some("target.firmware")), (&vhdx, None)] {
        let mut request = request(&target, dest);
        request.machine.firmware = Some(Firmware::Uefi);
        let planned = plan_target(source.as_ref(), &request, &Silent);
        assert_eq!(planned.err().map(|error| error.code()), code);
    }
}

#[test]
fn a_limit_is_refused_mentioned_or_off_as_its_severity_says() {
    let bench = Bench::new();
    let source = raw(&bench.file("disk.raw", &disk(1)));
    let dest = bench.path("x.qcow2");
    let planned = |severity: &str| {
        let text = format!(
            "[target.kvm.limits]\nmax_disk = {{ value = \"1M\", severity = \"{severity}\" }}\n\
             max_data = {{ value = \"64K\", severity = \"{severity}\" }}\n"
        );
        plan_target(source.as_ref(), &request(changed(&text).find("kvm").unwrap(), &dest), &Silent)
            .map(|plan| plan.warnings.iter().map(|warning| warning.code).collect::<Vec<_>>())
    };
    assert_eq!(planned("refuse").unwrap_err().code(), "target.disk-size");
    assert_eq!(planned("warn").unwrap(), ["target.disk-size", "target.data-size"]);
    assert_eq!(planned("off").unwrap(), [""; 0]);
}

#[test]
fn a_row_that_names_what_there_is_not_is_an_error_of_the_row() {
    let bench = Bench::new();
    let source = raw(&bench.file("disk.raw", &disk(1)));
    let dest = bench.path("x.img");
    for (output, code) in [
        ("format = \"floppy\"", "target.row"),
        ("format = \"qcow2\"\npack = \"oldgnu-tar-gz\"", "target.row"),
        ("format = \"ovf\"", "format.read-only"),
        ("format = \"raw\"\noptions = { colour = \"red\" }", "option.unknown"),
    ] {
        let text =
            format!("[target.lab]\nbase = \"kvm\"\n[[target.lab.output]]\nendings = [\".img\"]\n{output}\n");
        let targets = changed(&text);
        let found = plan_target(source.as_ref(), &request(targets.find("lab").unwrap(), &dest), &Silent);
        assert_eq!(found.unwrap_err().code(), code, "{output}");
    }
}

#[test]
fn a_damaged_image_is_never_exported_for_a_target() {
    let bench = Bench::new();
    let manifest = bench.import(&bench.file("disk.raw", &disk(1)), "a").manifest;
    damage(&bench.store, &manifest, 1, 5);
    let image = open_image(&bench.store, &manifest).unwrap();
    for (name, file, code) in [
        ("azure", "x.vhd", "image.damaged"),
        ("kvm", "x.qcow2", "output.differs"),
        ("hetzner", "x.raw", "image.damaged"),
    ] {
        let (target, dest) = (row(name), bench.path(file));
        let plan = plan_target(image.as_ref(), &request(&target, &dest), &Silent).unwrap();
        let error =
            export_target(&bench.store, &manifest, &plan, image.as_ref(), &dest, how(), &Silent).unwrap_err();
        assert_eq!(error.code(), code, "{name}");
        assert!(!dest.exists());
    }
}

#[test]
fn a_source_that_changed_gives_no_file() {
    let bench = Bench::new();
    let source = raw(&bench.file("disk.raw", &disk(1)));
    let (target, dest) = (row("azure"), bench.path("x.vhd"));
    let plan = plan_target(source.as_ref(), &request(&target, &dest), &Silent).unwrap();
    let changed = || Err(kiln_disk::Error::io("read", "disk.raw", std::io::ErrorKind::Other));
    assert_eq!(
        plan.to_file(source.as_ref(), &dest, how(), &changed, &Silent).unwrap_err().code(),
        "io.failed"
    );
    assert!(!dest.exists());
    // A plan is of one disk.
    let other = raw(&bench.file("other.raw", &[1; 4096]));
    let error = plan.to_file(other.as_ref(), &dest, how(), &|| Ok(()), &Silent).unwrap_err();
    assert_eq!(error.code(), "cancelled");
}

#[test]
fn every_finding_that_a_target_speaks_of_is_a_rule_about_guests() {
    let builtin = Targets::builtin().unwrap();
    guest::severities(&builtin).unwrap();
    let odd = "[target.kvm.finding.\"no.rule\"]\nseverity = \"off\"\n";
    let error = guest::severities(&builtin.with_file("my.toml", odd).unwrap()).unwrap_err();
    assert_eq!(error.code(), "target.finding");
}
