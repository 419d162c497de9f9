//! Machines that are off, and disk files.

use kiln_catalog::{CaptureSource, Consistency, FoundBy, MAX_DEPTH};

use super::*;
use crate::support::noise;

/// A base with data in its first 8 MiB, nothing behind.
fn base(sandbox: &Sandbox) -> Manifest {
    let path = sandbox.path("base.raw");
    let file = std::fs::File::create(&path).unwrap();
    file.set_len(64 << 20).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &noise(1, 8 << 20), 0).unwrap();
    // A stretch that a guest can write again as it was.
    std::os::unix::fs::FileExt::write_all_at(&file, &[0x55; 1 << 20], 8 << 20).unwrap();
    import(sandbox, &path, "base")
}

fn commands(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

#[test]
fn stopped_capture_holds_the_change_and_has_the_digest_of_a_full_one() {
    let sandbox = Sandbox::new();
    let base = base(&sandbox);
    let vm = Instance::new(&sandbox, &[&base]);
    vm.qemu_io(
        &sandbox,
        &commands(&[
            "write -P 7 1M 256k",
            "write -P 9 20M 64k",
            // Over data: an explicit zero. Over nothing: nothing.
            "write -z 3M 128k",
            "write -z 40M 1M",
            "write -P 0x55 8M 512k",
        ]),
    );
    let full = vm.full_digest(&sandbox, "full");
    let plan = sandbox.kiln(["capture", "vm", "--name", "one", "--dry-run", "--json"]).exits(0);
    let plan = plan.json("kiln.capture.v1");
    assert_eq!(plan["plan"]["disks"][0]["parent"], base.id.as_str());
    assert_eq!(plan["plan"]["disks"][0]["found_by"], "overlay");
    assert!(store(&sandbox).find("one").is_err(), "a dry run publishes nothing");
    let answer = sandbox.kiln(["capture", "vm", "--name", "one", "--json"]).exits(0).json("kiln.capture.v1");
    let image = intact(&sandbox, "one");
    assert_eq!(image.digests.content.to_string(), full);
    assert_eq!(answer["images"][0]["content_digest"], full.as_str());
    let capture = image.provenance.capture.as_ref().unwrap();
    assert_eq!(capture.parent.as_ref(), Some(&base.id));
    assert_eq!(
        (capture.changed_bytes, capture.zeroed_bytes, capture.same_bytes),
        (320 << 10, 128 << 10, 512 << 10)
    );
    assert_eq!((capture.found_by, capture.running), (FoundBy::Overlay, false));
    assert_eq!((image.layers.len(), &image.layers[0]), (2, &base.layers[0]));
    let origin = image.origin.as_ref().unwrap();
    assert_eq!(origin.image, base.id);
    // What it stores is the change, and tables.
    assert!(image.layers[1].byte_len < (320 << 10) + (6 << 16), "{}", image.layers[1].byte_len);

    // The second stands on the first, and holds only what came since.
    vm.qemu_io(&sandbox, &commands(&["write -P 11 30M 64k", "write -P 7 1M 64k"]));
    let full = vm.full_digest(&sandbox, "full2");
    sandbox.kiln(["capture", "vm", "--name", "two", "-q"]).ok();
    let second = intact(&sandbox, "two");
    assert_eq!(second.digests.content.to_string(), full);
    let capture = second.provenance.capture.as_ref().unwrap();
    assert_eq!((capture.parent.as_ref(), capture.changed_bytes), (Some(&image.id), 64 << 10));
    assert_eq!(second.layers.len(), 3);

    // Without that image, the next stands on the origin again, and has the same digest.
    sandbox.kiln(["rm", "two", "-q"]).ok();
    sandbox.kiln(["rm", "one", "-q"]).ok();
    sandbox.kiln(["capture", "vm", "--name", "three", "--style", "zstd", "-q"]).ok();
    let third = intact(&sandbox, "three");
    assert_eq!((third.digests.content.to_string(), third.layers.len()), (full, 2));
    assert_eq!(third.layers[1].style, "zstd");
    // Nothing changed since: no layer of nothing.
    sandbox.kiln(["capture", "vm", "--name", "four", "-q"]).ok();
    let fourth = intact(&sandbox, "four");
    assert_eq!((&fourth.layers, fourth.digests.content), (&third.layers, third.digests.content));
    assert!(sandbox.kiln(["show", "three"]).ok().contains("consistent"));
    assert_tidy(&sandbox);
}

#[test]
fn exports_of_a_capture_hold_the_disk_in_every_format() {
    let sandbox = Sandbox::new();
    let base = base(&sandbox);
    let vm = Instance::new(&sandbox, &[&base]);
    vm.qemu_io(&sandbox, &commands(&["write -P 7 1M 256k", "write -z 3M 128k"]));
    sandbox.kiln(["capture", "vm", "--name", "one", "-q"]).ok();
    let expected = store(&sandbox).find("one").unwrap().digests.content.to_string();
    for format in ["raw", "qcow2", "vmdk", "vdi", "vhdx"] {
        let path = sandbox.path(&format!("out.{format}"));
        sandbox.kiln(["export", "one", path.to_str().unwrap(), "-O", format, "-q"]).ok();
        let again = import(&sandbox, &path, &format!("again-{format}"));
        assert_eq!(again.digests.content.to_string(), expected, "{format}");
    }
    let raw = sandbox.path("qemu.raw");
    let options = vm.options(&sandbox, 0);
    sandbox.tool("qemu-img", ["convert", "--image-opts", &options, "-O", "raw", raw.to_str().unwrap()]);
    assert!(std::fs::read(raw).unwrap() == std::fs::read(sandbox.path("out.raw")).unwrap());
}

#[test]
fn stack_that_would_become_too_deep_begins_anew() {
    let sandbox = Sandbox::new();
    let base = base(&sandbox);
    let vm = Instance::new(&sandbox, &[&base]);
    let mut depths = Vec::new();
    for number in 0..MAX_DEPTH + 1 {
        vm.qemu_io(&sandbox, &[format!("write -P {} {}M 64k", number + 1, 10 + number)]);
        let name = format!("c{number}");
        sandbox.kiln(["capture", "vm", "--name", &name, "-q"]).ok();
        depths.push(intact(&sandbox, &name).layers.len());
    }
    assert_eq!(depths, [2, 3, 4, 5, 6, 7, 8, 2, 3]);
    let full = vm.full_digest(&sandbox, "full");
    let last = store(&sandbox).find("c8").unwrap();
    assert_eq!(last.digests.content.to_string(), full);
    assert_eq!(last.provenance.capture.unwrap().found_by, FoundBy::Overlay);
}

#[test]
fn disk_files_of_any_format_and_their_check() {
    let sandbox = Sandbox::new();
    let raw = sandbox.guest_disk("guest.raw");
    let digest = import(&sandbox, &raw, "reference").digests.content;
    for format in ["raw", "qcow2", "vmdk", "vdi", "vhdx"] {
        let file = format!("guest-{format}");
        let path = sandbox.path(&file);
        sandbox.tool(
            "qemu-img",
            ["convert", "-f", "raw", "-O", format, raw.to_str().unwrap(), path.to_str().unwrap()],
        );
        let word = format!("./{file}");
        sandbox.kiln(["capture", &word, "--name", &format!("captured-{format}"), "-q"]).ok();
        let image = intact(&sandbox, &format!("captured-{format}"));
        assert_eq!(image.digests.content, digest, "{format}");
        let capture = image.provenance.capture.unwrap();
        assert_eq!(capture.source, CaptureSource::File { name: file.clone(), format: format.to_owned() });
        assert_eq!((capture.found_by, capture.parent), (FoundBy::Everything, None));
        // Nothing on it was ever mounted: proved to be in order.
        assert_eq!(capture.consistency, Consistency::Application, "{}", capture.because);
        assert_eq!(capture.file_systems.len(), 1);
    }
    let error = sandbox.kiln(["capture", "nothing", "--name", "x", "--json"]).exits(3).error();
    assert_eq!(error["code"], "store.no-instance");
    let error = sandbox.kiln(["capture", "./nothing", "--name", "x", "--json"]).exits(3).error();
    assert_eq!(error["code"], "io.not-found");
    assert_tidy(&sandbox);
}

#[test]
fn disk_that_is_being_written_is_refused() {
    let sandbox = Sandbox::new();
    let base = base(&sandbox);
    let vm = Instance::new(&sandbox, &[&base]);
    let overlay = vm.dir.join("disk0.qcow2");
    let guest = vm.start(&sandbox, "kiln.mode=idle kiln.agent=none");
    // QEMU takes its locks before its sockets listen.
    let began = std::time::Instant::now();
    while !vm.dir.join("qmp.sock").exists() && began.elapsed().as_secs() < 60 {
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    let error =
        sandbox.kiln(["capture", overlay.to_str().unwrap(), "--name", "x", "--json"]).exits(1).error();
    assert_eq!(error["code"], "capture.in-use");
    drop(guest);
    sandbox.kiln(["capture", overlay.to_str().unwrap(), "--name", "x", "-q"]).ok();
    assert_tidy(&sandbox);
}

#[test]
fn terabyte_costs_what_changed() {
    let sandbox = Sandbox::new();
    let path = sandbox.path("big.raw");
    std::fs::File::create(&path).unwrap().set_len(1 << 40).unwrap();
    let base = import(&sandbox, &path, "big");
    let vm = Instance::new(&sandbox, &[&base]);
    vm.qemu_io(&sandbox, &commands(&["write -P 7 500G 1M", "write -P 8 1023G 64k", "write -z 100G 1G"]));
    let began = std::time::Instant::now();
    sandbox.kiln(["capture", "vm", "--name", "one", "-q"]).ok();
    let took = began.elapsed();
    let image = intact(&sandbox, "one");
    let capture = image.provenance.capture.unwrap();
    assert_eq!((capture.changed_bytes, capture.zeroed_bytes), ((1 << 20) + (64 << 10), 0));
    assert!(took.as_secs() < 20, "{took:?}");
    // The same disk made in another way.
    let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &[7; 1 << 20], 500 << 30).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &[8; 64 << 10], 1023 << 30).unwrap();
    assert_eq!(import(&sandbox, &path, "again").digests.content, image.digests.content);
}

/// A file as a block device, until the value goes. Needs root.
struct Loop(String);

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = std::process::Command::new("losetup").args(["--detach", &self.0]).status();
    }
}

#[test]
fn block_device_is_captured_and_refused_while_it_is_in_use() {
    let sandbox = Sandbox::new();
    let raw = sandbox.path("device.raw");
    std::fs::File::create(&raw).unwrap().set_len(16 << 20).unwrap();
    sandbox.tool("mke2fs", ["-q", "-F", "-t", "ext4", raw.to_str().unwrap()]);
    let digest = import(&sandbox, &raw, "reference").digests.content;
    let device = Loop(sandbox.tool("losetup", ["--find", "--show", raw.to_str().unwrap()]).trim().to_owned());
    sandbox.kiln(["capture", &device.0, "--name", "device", "-q"]).ok();
    let image = intact(&sandbox, "device");
    assert_eq!(image.digests.content, digest);
    let name = device.0.rsplit('/').next().unwrap().to_owned();
    assert_eq!(image.provenance.capture.unwrap().source, CaptureSource::Device { name });
    // The kernel says who has it.
    let dir = sandbox.path("mounted");
    std::fs::create_dir(&dir).unwrap();
    sandbox.tool("mount", ["-o", "ro", &device.0, dir.to_str().unwrap()]);
    let ran = sandbox.kiln(["capture", &device.0, "--name", "x", "--json"]);
    sandbox.tool("umount", [dir.to_str().unwrap()]);
    assert_eq!(ran.exits(1).error()["code"], "capture.in-use");
    sandbox.kiln(["capture", &device.0, "--name", "x", "-q"]).ok();
    assert_tidy(&sandbox);
}
