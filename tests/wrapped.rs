//! Compressed images: every command treats them as what is inside, and an import is the same import.

use std::sync::{Arc, Mutex, Weak};

use serde_json::json;

use crate::support::{Sandbox, cut, names_in, overwrite};

/// A guest's disk, and the same disk as users get it: name, command that makes it, wrappers, format.
const FORMS: [(&str, &str, &[&str], &str); 8] = [
    ("disk.raw.gz", "gzip -1 -c disk.raw", &["gzip"], "raw"),
    ("disk.raw.xz", "xz -0 -T2 --block-size=4MiB -c disk.raw", &["xz"], "raw"),
    ("disk.raw.zst", "zstd -q -c disk.raw", &["zstd"], "raw"),
    ("disk.raw.bz2", "bzip2 -1 -c disk.raw", &["bzip2"], "raw"),
    ("disk.raw.lz4", "lz4 -q -c --content-size disk.raw", &["lz4"], "raw"),
    ("disk.qcow2.gz", "gzip -1 -c disk.qcow2", &["gzip"], "qcow2"),
    ("gcp.tar.gz", "tar --format=oldgnu -Sczf - disk.raw", &["gzip"], "tar"),
    ("bsd.tar.xz", "bsdtar --options xz:compression-level=0 -cJf - disk.qcow2", &["xz"], "tar"),
];

/// The disk and all its forms, packed once for the tests that run at the same time: that takes longer than to read them.
fn forms(sandbox: &Sandbox) -> Arc<Sandbox> {
    static PACKED: Mutex<Weak<Sandbox>> = Mutex::new(Weak::new());
    let mut packed = PACKED.lock().unwrap();
    let forms = packed.upgrade().unwrap_or_else(|| {
        let sandbox = Sandbox::new();
        sandbox.guest_disk("disk.raw");
        sandbox.tool("qemu-img", ["convert", "-O", "qcow2", "disk.raw", "disk.qcow2"]);
        for (name, command, ..) in FORMS {
            sandbox.tool("sh", ["-c", &format!("{command} > {name}")]);
        }
        Arc::new(sandbox)
    });
    *packed = Arc::downgrade(&forms);
    drop(packed);
    for name in ["disk.raw", "disk.qcow2"].into_iter().chain(FORMS.map(|(name, ..)| name)) {
        let from = forms.path(name);
        sandbox.tool("cp", ["--sparse=always", from.to_str().unwrap(), name]);
    }
    forms
}

#[test]
fn every_command_sees_what_is_inside() {
    let sandbox = Sandbox::new();
    let _forms = forms(&sandbox);
    let plain = sandbox.kiln(["verify", "--json", "disk.raw"]).exits(0).json("kiln.verify.v1");
    let map = |name: &str| sandbox.kiln(["map", name]).ok();
    for (name, _, wrappers, format) in FORMS {
        let inspected = sandbox.kiln(["inspect", "--json", name]).exits(0).json("kiln.inspect.v1");
        assert_eq!(
            (&inspected["wrappers"], &inspected["format"]),
            (&json!(wrappers), &json!(format)),
            "{name}"
        );
        let text = sandbox.kiln(["inspect", name]).ok();
        assert!(text.contains(&format!("{} > {format}", wrappers.join(" > "))), "{text}");
        sandbox.kiln(["check", "-q", name]).exits(0);
        if format == "qcow2" {
            assert_eq!(map(name), map("disk.qcow2"), "{name}");
        }
        let verified = sandbox.kiln(["verify", "--json", name]).exits(0).json("kiln.verify.v1");
        assert_eq!(verified["content_digest"], plain["content_digest"], "{name}");
        // The digest of the file is of the file as it is.
        let sha256 = sandbox.tool("sha256sum", [name]);
        let text = verified.to_string();
        assert!(text.contains(sha256.split(' ').next().unwrap()), "{name}: {text}");
        sandbox.kiln(["convert", "-q", name, "out.raw"]).exits(0);
        sandbox.tool("cmp", ["disk.raw", "out.raw"]);
        std::fs::remove_file(sandbox.path("out.raw")).unwrap();
    }
    assert_eq!(sandbox.temporary_names(), Vec::<String>::new());
}

#[test]
fn an_import_of_any_form_is_the_same_import() {
    let sandbox = Sandbox::new();
    let _forms = forms(&sandbox);
    let plain =
        sandbox.kiln(["import", "--json", "disk.raw", "--name", "plain"]).exits(0).json("kiln.import.v1");
    for (name, _, wrappers, format) in FORMS {
        let sha256 = sandbox.tool("sha256sum", [name]);
        let sha256 = sha256.split(' ').next().unwrap();
        let words = ["import", "--json", name, "--name", "x", "--replace", "--sha256", sha256];
        let done = sandbox.kiln(words).exits(0).json("kiln.import.v1");
        for key in ["content_digest", "disk_bytes", "data_bytes", "layers", "findings"] {
            assert_eq!(done[key], plain[key], "{name} {key}");
        }
        assert_eq!(
            (&done["source"]["wrappers"], &done["source"]["format"]),
            (&json!(wrappers), &json!(format)),
            "{name}"
        );
        assert_eq!(done["source"]["digests"][0], format!("sha256:{sha256}"), "{name}");
        let bytes = std::fs::read(sandbox.path(name)).unwrap();
        let piped = sandbox
            .kiln_with_input(["import", "--json", "-", "--name", "y", "--replace"], &bytes)
            .exits(0)
            .json("kiln.import.v1");
        assert_eq!(piped["content_digest"], plain["content_digest"], "{name}");
    }
    assert_eq!(sandbox.temporary_names(), Vec::<String>::new());
    assert_eq!(names_in(&sandbox.store().join("staging")), Vec::<String>::new());
    sandbox.kiln(["store", "fsck", "--read-data", "-q"]).exits(0);
}

#[test]
fn a_wrong_digest_a_cut_and_a_flipped_bit_publish_nothing() {
    let sandbox = Sandbox::new();
    let _forms = forms(&sandbox);
    let nothing = |name: &str| {
        assert_eq!(sandbox.kiln(["ls"]).ok(), "no images\n", "{name}");
        assert_eq!(names_in(&sandbox.store().join("staging")), Vec::<String>::new(), "{name}");
    };
    for (name, _, wrappers, _) in FORMS.into_iter() {
        let wrong = "0".repeat(64);
        let ran = sandbox.kiln(["import", "--json", name, "--name", "x", "--sha256", &wrong]).exits(1);
        assert_eq!(ran.error()["code"], "checksum.differs");
        nothing(name);
        let whole = std::fs::read(sandbox.path(name)).unwrap();
        let middle = whole.len() / 2;
        overwrite(&sandbox.path(name), middle as u64, &[whole[middle] ^ 0x10]);
        let ran = sandbox.kiln(["import", "--json", name, "--name", "x"]).exits(1);
        let code = ran.error()["code"].as_str().unwrap().to_owned();
        assert!(code.starts_with("wrap."), "{name}: {code}");
        nothing(name);
        std::fs::write(sandbox.path(name), &whole).unwrap();
        cut(&sandbox.path(name), 70);
        let ran = sandbox.kiln(["import", "--json", name, "--name", "x"]).exits(1);
        let code = ran.error()["code"].as_str().unwrap().to_owned();
        assert!(code.starts_with("wrap."), "{name} {wrappers:?}: {code}");
        nothing(name);
        sandbox.kiln(["check", "-q", name]).exits(1);
        sandbox.kiln(["verify", "-q", name]).exits(1);
        let ran = sandbox.kiln(["convert", "--json", name, "out.raw"]).exits(1);
        assert!(ran.error()["code"].as_str().unwrap().starts_with("wrap."), "{name}");
        assert!(!sandbox.path("out.raw").exists());
    }
    assert_eq!(sandbox.temporary_names(), Vec::<String>::new());
}

#[test]
fn a_fixed_vhd_that_begins_like_a_raw_disk_is_told_by_its_end() {
    let sandbox = Sandbox::new();
    sandbox.guest_disk("disk.raw");
    sandbox.kiln(["convert", "-q", "-O", "vhd", "-o", "subformat=fixed", "disk.raw", "disk.vhd"]).exits(0);
    let plain = sandbox.kiln(["import", "--json", "disk.vhd", "--name", "a"]).exits(0).json("kiln.import.v1");
    for command in ["xz -0", "gzip -1", "zstd -q"] {
        sandbox.tool("sh", ["-c", &format!("{command} -c disk.vhd > packed")]);
        let done = sandbox.kiln(["import", "--json", "packed", "--name", "b", "--replace"]).exits(0);
        let done = done.json("kiln.import.v1");
        assert_eq!(done["source"]["format"], "vhd", "{command}");
        assert_eq!(done["content_digest"], plain["content_digest"], "{command}");
    }
}

#[test]
fn a_disk_that_lost_its_end_is_refused_after_it_was_decoded() {
    let sandbox = Sandbox::new();
    sandbox.guest_disk("disk.raw");
    cut(&sandbox.path("disk.raw"), 50);
    sandbox.tool("xz", ["-0", "disk.raw"]);
    let ran = sandbox.kiln(["import", "--json", "disk.raw.xz", "--name", "x"]).exits(1);
    assert_eq!(ran.error()["code"], "import.findings");
    assert_eq!(sandbox.kiln(["ls"]).ok(), "no images\n");
    let done = sandbox.kiln(["import", "--json", "--force", "disk.raw.xz", "--name", "x"]).exits(0);
    assert_eq!(done.json("kiln.import.v1")["forced"], true);
}

/// Names are a claim; how much was unpacked is not: the answer says so, and is the one of a full look.
#[test]
fn inspect_unpacks_no_more_than_it_takes() {
    let sandbox = Sandbox::new();
    let _forms = forms(&sandbox);
    for (name, .., format) in FORMS {
        let quick = sandbox.kiln(["inspect", "--json", name]).exits(0).json("kiln.inspect.v1");
        let full = sandbox.kiln(["inspect", "--json", "--full", name]).exits(0).json("kiln.inspect.v1");
        assert_eq!(full["unseen"], serde_json::Value::Null, "{name}");
        for key in ["format", "variant", "disk_bytes", "unit_bytes", "details", "wrappers", "evidence"] {
            assert_eq!(quick[key], full[key], "{name} {key}");
        }
        // bzip2 tells no length, so that a raw disk in it takes all; a tar archive is a chain of headers.
        if name != "disk.raw.bz2" && format != "tar" {
            assert!(quick["unseen"].as_str().unwrap().contains("everything behind the first"), "{quick:#}");
        }
    }
}
