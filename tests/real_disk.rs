//! A real Debian disk, all the way: imported from four files in three formats as one image, verified, exported,
//! booted to its login prompt. Minutes of work: run by `make e2e`, which builds the disk first.

use kiln_testkit::boot::{Firmware, Guest};
use kiln_testkit::fixtures::Fixture;

use crate::support::{Sandbox, built};

fn import(sandbox: &Sandbox, file: &str, tag: &str) -> serde_json::Value {
    let name = format!("debian:{tag}");
    sandbox.kiln(["import", "--json", file, "--name", &name]).exits(0).json("kiln.import.v1")
}

#[test]
#[ignore = "e2e: needs the Debian fixture and some minutes"]
fn debian_disk_is_one_image_whatever_file_holds_it_and_its_exports_boot() {
    let sandbox = Sandbox::new();
    let disk = built(Fixture::Debian12);
    let disk = disk.to_str().unwrap();

    let qcow2 = ["convert", "-c", "-m", "2", "-W", "-O", "qcow2", "-o"];
    sandbox.tool("qemu-img", qcow2.iter().chain(&["compression_type=zlib", disk, "zlib.qcow2"]));
    sandbox.tool("qemu-img", qcow2.iter().chain(&["compression_type=zstd", disk, "zstd.qcow2"]));
    sandbox.tool("qemu-img", ["convert", "-O", "vpc", "-o", "force_size=on", disk, "disk.vhd"]);

    let raw = import(&sandbox, disk, "raw");
    for (file, tag) in [("zlib.qcow2", "zlib"), ("zstd.qcow2", "zstd"), ("disk.vhd", "vhd")] {
        let other = import(&sandbox, file, tag);
        assert_eq!(other["content_digest"], raw["content_digest"], "{tag}");
        assert_eq!(other["layers"], raw["layers"], "{tag}");
        assert_eq!(other["new_bytes"], 0, "{tag}");
        std::fs::remove_file(sandbox.path(file)).unwrap();
    }
    let words = ["digest", "--compact", "--hash-alg=sha256", "--block-size=65536", disk];
    let fsverity = sandbox.tool("fsverity", words);
    assert_eq!(raw["content_digest"], format!("fsverity-sha256-64k:{}", fsverity.trim()));

    sandbox.kiln(["verify", "debian:raw"]).exits(0);
    let list = sandbox.kiln(["ls", "--json"]).exits(0).json("kiln.ls.v1");
    assert_eq!(list["images"].as_array().unwrap().len(), 4);
    sandbox.kiln(["store", "fsck", "--read-data"]).exits(0);

    for (name, qemu, words) in
        [("out.qcow2", "qcow2", &["-c"][..]), ("out.raw", "raw", &[]), ("out.vhd", "vpc", &[])]
    {
        sandbox.kiln(["export", "debian:raw", name].iter().chain(words)).exits(0);
        sandbox.tool("qemu-img", ["compare", "-f", "raw", "-F", qemu, disk, name]);
    }
    // One start is enough for what was compared; the layer as the store keeps it is started by every launch.
    let guest = Guest { firmware: Firmware::Uefi, ..Guest::new(sandbox.path("out.vhd"), "vpc") };
    let booted = guest.boot_to_login().unwrap_or_else(|error| panic!("{error}"));
    assert!(booted.console.contains("login: "));
}

#[test]
#[ignore = "e2e: needs the Debian fixture and some minutes"]
fn debian_disk_survives_a_walk_through_every_format() {
    let sandbox = Sandbox::new();
    let disk = built(Fixture::Debian12);
    let disk = disk.to_str().unwrap();
    let steps = [
        ("a.vhd", &[][..]),
        ("b.qcow2", &["-c"]),
        ("c.raw", &[]),
        ("d.qcow2", &["-c", "-o", "compression_type=zlib"]),
        ("e.vhd", &["-o", "subformat=fixed"]),
        ("f.qcow2", &["-o", "compat=0.10"]),
        ("g.raw", &[]),
    ];
    let mut from = disk.to_owned();
    for (to, words) in steps {
        sandbox.kiln(["convert", "--no-sync", &from, to].iter().chain(words)).exits(0);
        if from != disk {
            std::fs::remove_file(sandbox.path(&from)).unwrap();
        }
        from = to.to_owned();
    }
    let json = sandbox.kiln(["verify", "--json", &from, "--against", disk]).exits(0).json("kiln.verify.v1");
    assert_eq!(json["against"]["same"], true);
}
