//! `kiln import`, `ls`, `show`, `rm`, `export`, `store`, and images in place of files.

use crate::support::{Sandbox, overwrite};

fn import(sandbox: &Sandbox, file: &str, name: &str) -> serde_json::Value {
    sandbox.kiln(["import", "--json", file, "--name", name]).exits(0).json("kiln.import.v1")
}

/// The one layer file of a store that has one.
fn layer(sandbox: &Sandbox, name: &str) -> std::path::PathBuf {
    let json = sandbox.kiln(["show", "--json", name]).exits(0).json("kiln.show.v1");
    json["layer_paths"][0].as_str().unwrap().into()
}

#[test]
fn one_disk_in_three_formats_is_one_layer() {
    let sandbox = Sandbox::new();
    sandbox.guest_disk("disk.raw");
    sandbox.tool("qemu-img", ["convert", "-c", "-O", "qcow2", "disk.raw", "disk.qcow2"]);
    sandbox.tool("qemu-img", ["convert", "-O", "vpc", "-o", "force_size=on", "disk.raw", "disk.vhd"]);
    let raw = import(&sandbox, "disk.raw", "a:raw");
    let qcow2 = import(&sandbox, "disk.qcow2", "a:qcow2");
    let vhd = import(&sandbox, "disk.vhd", "a:vhd");
    assert!(raw["new_bytes"].as_u64().unwrap() > 0);
    for other in [&qcow2, &vhd] {
        assert_eq!(other["content_digest"], raw["content_digest"]);
        assert_eq!(other["layers"], raw["layers"]);
        assert_eq!(other["new_bytes"], 0);
    }
    let verified = sandbox.kiln(["verify", "--json", "disk.raw"]).exits(0).json("kiln.verify.v1");
    assert_eq!(verified["content_digest"], raw["content_digest"]);
    let list = sandbox.kiln(["ls", "--json"]).exits(0).json("kiln.ls.v1");
    let names: Vec<&str> =
        list["images"].as_array().unwrap().iter().map(|image| image["tag"].as_str().unwrap()).collect();
    assert_eq!(names.len(), 3, "{names:?}");
    assert_eq!(list["images"][0]["own_bytes"], 0);
    sandbox.kiln(["store", "fsck", "--read-data"]).exits(0);
}

#[test]
fn import_prints_all_digests_and_show_keeps_them() {
    let sandbox = Sandbox::new();
    sandbox.guest_disk("disk.raw");
    let sum = sandbox.tool("sha256sum", ["disk.raw"]);
    std::fs::write(sandbox.path("SHA256SUMS"), &sum).unwrap();
    let text = sandbox
        .kiln(["import", "disk.raw", "--name", "web:1", "--checksums", "SHA256SUMS", "--raw-digest"])
        .ok();
    let hex = sum.split_whitespace().next().unwrap();
    assert!(text.contains(&format!("vendor says   sha256:{hex} (SHA256SUMS line 1), matches\n")), "{text}");
    assert!(text.contains(&format!("raw           sha256:{hex}\n")), "{text}");
    assert!(text.contains("content       fsverity-sha256-64k:"), "{text}");
    let json = sandbox.kiln(["show", "--json", "web:1"]).exits(0).json("kiln.show.v1");
    assert_eq!(json["image"]["digests"]["raw"], format!("sha256:{hex}"));
    assert_eq!(json["image"]["source"]["digests"][0], format!("sha256:{hex}"));
    assert_eq!(json["image"]["provenance"]["checksum"]["line"], 1);
    // Found by name, by a start of its id, by each digest.
    let id = json["image"]["id"].as_str().unwrap().to_owned();
    for word in
        [&id[..], &id[..9], &format!("sha256:{hex}"), json["image"]["digests"]["content"].as_str().unwrap()]
    {
        let found = sandbox.kiln(["show", "--json", word]).exits(0).json("kiln.show.v1");
        assert_eq!(found["image"]["id"], id.as_str(), "{word}");
    }
    let ran = sandbox.kiln(["show", "--json", "web"]).exits(3);
    assert_eq!(ran.error()["code"], "store.not-found");
}

#[test]
fn wrong_checksum_imports_nothing() {
    let sandbox = Sandbox::new();
    sandbox.disk("disk.raw", 1 << 20);
    std::fs::write(sandbox.path("SUMS"), format!("{}  disk.raw\n", "0".repeat(64))).unwrap();
    let zeros = "0".repeat(64);
    for words in [&["--checksums", "SUMS"][..], &["--sha256", &zeros]] {
        let all = ["import", "--json", "disk.raw", "--name", "a"].iter().chain(words);
        assert_eq!(sandbox.kiln(all).exits(1).error()["code"], "checksum.differs");
    }
    std::fs::write(sandbox.path("SUMS"), format!("{zeros}  other.raw\n")).unwrap();
    let ran = sandbox.kiln(["import", "--json", "disk.raw", "--name", "a", "--checksums", "SUMS"]).exits(3);
    assert_eq!(ran.error()["code"], "checksum.not-listed");
    let ran = sandbox.kiln(["verify", "disk.raw", "--checksums", "SUMS", "--json"]).exits(3);
    assert_eq!(ran.error()["code"], "checksum.not-listed");
    std::fs::write(sandbox.path("SUMS"), format!("{zeros}  disk.raw\n")).unwrap();
    let json =
        sandbox.kiln(["verify", "disk.raw", "--checksums", "SUMS", "--json"]).exits(1).json("kiln.verify.v1");
    assert_eq!(json["comparisons"][0]["given_by"], "SUMS line 1");
    let json = sandbox.kiln(["ls", "--json"]).exits(0).json("kiln.ls.v1");
    assert_eq!(json["images"], serde_json::json!([]));
}

#[test]
fn names_are_judged_before_work_and_never_taken_silently() {
    let sandbox = Sandbox::new();
    sandbox.disk("disk.raw", 1 << 20);
    for bad in ["", "a b", "img-abc", "../x", "a:", "-rf", "sha256:12"] {
        let name = format!("--name={bad}");
        let ran = sandbox.kiln(["import", "--json", "disk.raw", &name]).exits(2);
        assert!(ran.error()["code"].as_str().unwrap().starts_with("name."), "{bad:?} {}", ran.stderr);
    }
    let first = import(&sandbox, "disk.raw", "web");
    let ran = sandbox.kiln(["import", "--json", "disk.raw", "--name", "web:latest"]).exits(3);
    assert_eq!(ran.error()["code"], "store.name-taken");
    let json = sandbox
        .kiln(["import", "--json", "disk.raw", "--name", "web", "--replace"])
        .exits(0)
        .json("kiln.import.v1");
    assert_eq!(json["untagged"], first["id"]);
}

#[test]
fn dry_run_import_makes_no_store() {
    let sandbox = Sandbox::new();
    sandbox.disk("disk.raw", 1 << 20);
    let ran = sandbox.kiln(["import", "--json", "--dry-run", "disk.raw", "--name", "web"]).exits(0);
    let json = ran.json("kiln.import.v1");
    assert_eq!((&json["dry_run"], &json["id"]), (&true.into(), &serde_json::Value::Null));
    assert!(!sandbox.store().exists());
    assert_eq!(sandbox.temporary_names(), Vec::<String>::new());
}

#[test]
fn standard_input_is_imported() {
    let sandbox = Sandbox::new();
    let disk = sandbox.disk("disk.raw", 3_000_320);
    let words = ["import", "--json", "-", "--name", "piped", "--source-name", "disk.raw"];
    let piped =
        sandbox.kiln_with_input(words, &std::fs::read(&disk).unwrap()).exits(0).json("kiln.import.v1");
    let file = import(&sandbox, "disk.raw", "file");
    assert_eq!(piped["content_digest"], file["content_digest"]);
    assert_eq!(piped["source"]["file_name"], "disk.raw");
}

#[test]
fn exports_hold_the_disk_for_other_programs() {
    let sandbox = Sandbox::new();
    sandbox.guest_disk("disk.raw");
    let imported = import(&sandbox, "disk.raw", "web");
    for (format, qemu) in [("raw", "raw"), ("qcow2", "qcow2"), ("vhd", "vpc")] {
        let dest = format!("out.{format}");
        let ran = sandbox.kiln(["export", "--json", "web", &dest]).exits(0);
        let json = ran.json("kiln.export.v1");
        sandbox.tool("qemu-img", ["compare", "-f", "raw", "-F", qemu, "disk.raw", &dest]);
        let sum = sandbox.tool("sha256sum", [&dest]);
        assert_eq!(json["file_digest"], format!("sha256:{}", sum.split_whitespace().next().unwrap()));
        assert_eq!(json["content_digest"], imported["content_digest"]);
        assert_eq!(json["verified"], true);
    }
    sandbox.kiln(["export", "web", "zlib.qcow2", "-c", "-o", "compression_type=zlib"]).exits(0);
    sandbox.tool("qemu-img", ["compare", "disk.raw", "zlib.qcow2"]);
    let ran = sandbox.kiln(["export", "web", "-", "-O", "raw"]).exits(0);
    assert!(ran.stdout == std::fs::read(sandbox.path("disk.raw")).unwrap());
    let ran = sandbox.kiln(["export", "--json", "web", "out.raw"]).exits(3);
    assert_eq!(ran.error()["code"], "io.exists");
    sandbox.kiln(["export", "--force", "web", "out.raw"]).exits(0);
}

#[test]
fn an_image_serves_wherever_a_file_does() {
    let sandbox = Sandbox::new();
    sandbox.guest_disk("disk.raw");
    let imported = import(&sandbox, "disk.raw", "web");
    let json = sandbox.kiln(["inspect", "--json", "web"]).exits(0).json("kiln.inspect.v1");
    assert_eq!((&json["format"], &json["disk_bytes"]), (&"qcow2".into(), &(64 << 20).into()));
    assert_eq!(sandbox.kiln(["check", "--json", "web"]).exits(0).json("kiln.check.v1")["fit"], true);
    let map = sandbox.kiln(["map", "--json", "web:latest"]).exits(0).json("kiln.map.v1");
    assert_eq!(map["disk_bytes"], 64 << 20);
    let json =
        sandbox.kiln(["verify", "--json", "web", "--against", "disk.raw"]).exits(0).json("kiln.verify.v1");
    assert_eq!(json["image"], imported["id"]);
    assert_eq!(json["against"]["same"], true);
    let json =
        sandbox.kiln(["verify", "--json", "disk.raw", "--against", "web"]).exits(0).json("kiln.verify.v1");
    assert_eq!(json["against"]["path"], "web:latest");
    let sum = sandbox.tool("sha256sum", ["disk.raw"]);
    let json = sandbox.kiln(["verify", "--json", "--raw-digest", "web"]).exits(0).json("kiln.verify.v1");
    assert_eq!(json["raw_digest"], format!("sha256:{}", sum.split_whitespace().next().unwrap()));
    let ran = sandbox.kiln(["verify", "--json", "web", "--sha256", &"0".repeat(64)]).exits(2);
    assert_eq!(ran.error()["code"], "usage.not-for-images");
}

#[test]
fn a_word_that_is_a_file_and_an_image_is_an_error_with_both_readings() {
    let sandbox = Sandbox::new();
    sandbox.disk("disk.raw", 1 << 20);
    import(&sandbox, "disk.raw", "web");
    sandbox.disk("web", 1 << 20);
    let ran = sandbox.kiln(["inspect", "--json", "web"]).exits(3);
    let error = ran.error();
    assert_eq!(error["code"], "name.ambiguous");
    assert!(error["hint"].as_str().unwrap().starts_with("write ./web for the file, img-"), "{error}");
    sandbox.kiln(["inspect", "./web"]).exits(0);
    sandbox.kiln(["inspect", "web:latest"]).exits(0);
}

#[test]
fn damage_in_the_store_is_named_by_block_and_healed_by_an_import() {
    let sandbox = Sandbox::new();
    sandbox.guest_disk("disk.raw");
    import(&sandbox, "disk.raw", "web");
    let layer = layer(&sandbox, "web");
    let map = sandbox.kiln(["map", "--json", "web"]).exits(0).json("kiln.map.v1");
    let extent = map["extents"].as_array().unwrap().iter().rfind(|extent| extent["kind"] == "data").unwrap();
    let (guest, at) = (extent["start_bytes"].as_u64().unwrap(), extent["offset_bytes"].as_u64().unwrap());
    let mut mode = std::fs::metadata(&layer).unwrap().permissions();
    #[expect(clippy::permissions_set_readonly_false, reason = "a file of this test's own store")]
    mode.set_readonly(false);
    std::fs::set_permissions(&layer, mode).unwrap();
    overwrite(&layer, at + 7, &[0x55, 0xaa, 0x55]);
    let json = sandbox.kiln(["verify", "--json", "web"]).exits(1).json("kiln.verify.v1");
    assert_eq!(json["intact"], false);
    assert_eq!(
        json["damaged"],
        serde_json::json!([{"start_bytes": guest / 65536 * 65536, "length_bytes": 65536}])
    );
    sandbox.kiln(["store", "fsck", "--read-data"]).exits(1);
    let ran = sandbox.kiln(["export", "--json", "web", "out.raw"]).exits(1);
    assert!(!sandbox.path("out.raw").exists());
    assert_eq!(ran.error()["code"], "image.damaged");
    let json = import(&sandbox, "disk.raw", "again");
    assert_eq!(json["healed"].as_array().unwrap().len(), 1);
    sandbox.kiln(["verify", "web"]).exits(0);
    sandbox.kiln(["store", "fsck", "--read-data"]).exits(0);
}

#[test]
fn removal_frees_what_nobody_else_needs() {
    let sandbox = Sandbox::new();
    sandbox.disk("disk.raw", 1 << 20);
    import(&sandbox, "disk.raw", "a");
    import(&sandbox, "disk.raw", "b");
    let plan = sandbox.kiln(["rm", "--json", "--dry-run", "a", "b"]).exits(0).json("kiln.rm.v1");
    assert_eq!(plan["dry_run"], true);
    let ran = sandbox.kiln(["rm", "--json", "a", "nosuch"]).exits(3);
    assert_eq!(ran.error()["code"], "store.not-found");
    let json = sandbox.kiln(["rm", "--json", "a"]).exits(0).json("kiln.rm.v1");
    assert_eq!(json["freed_bytes"], 0);
    sandbox.kiln(["verify", "b"]).exits(0);
    let json = sandbox.kiln(["rm", "--json", "b"]).exits(0).json("kiln.rm.v1");
    assert!(json["freed_bytes"].as_u64().unwrap() > 0);
    assert_eq!(sandbox.kiln(["ls"]).ok(), "no images\n");
    sandbox.kiln(["store", "fsck"]).exits(0);
}

#[test]
fn rebuild_gives_the_same_listing() {
    let sandbox = Sandbox::new();
    sandbox.disk("disk.raw", 1 << 20);
    import(&sandbox, "disk.raw", "a:1");
    import(&sandbox, "disk.raw", "b:2");
    let before = sandbox.kiln(["ls", "--json"]).ok();
    std::fs::remove_file(sandbox.store().join("catalog.sqlite")).unwrap();
    let _ = std::fs::remove_file(sandbox.store().join("catalog.sqlite-wal"));
    let _ = std::fs::remove_file(sandbox.store().join("catalog.sqlite-shm"));
    let ran = sandbox.kiln(["ls", "--json"]).exits(1);
    assert_eq!(ran.error()["code"], "store.index.missing");
    let json = sandbox.kiln(["store", "rebuild", "--json"]).exits(0).json("kiln.store-rebuild.v1");
    assert_eq!(json["images"], 2);
    assert_eq!(sandbox.kiln(["ls", "--json"]).ok(), before);
}

#[test]
fn no_store_is_an_empty_list_and_a_clear_error() {
    let sandbox = Sandbox::new();
    assert_eq!(sandbox.kiln(["ls"]).ok(), "no images\n");
    assert!(!sandbox.store().exists());
    assert_eq!(sandbox.kiln(["show", "--json", "web"]).exits(3).error()["code"], "store.missing");
    let ran = sandbox.kiln(["store", "fsck", "--json", "--store", "/dev/null/x"]);
    assert_eq!(ran.code, Some(3), "{ran:?}");
}

#[test]
fn damaged_source_is_refused_and_force_is_recorded() {
    let sandbox = Sandbox::new();
    let disk = sandbox.guest_disk("disk.raw");
    crate::support::cut(&disk, 75);
    let ran = sandbox.kiln(["import", "--json", "disk.raw", "--name", "cut"]).exits(1);
    assert_eq!(ran.error()["code"], "import.findings");
    let json = sandbox
        .kiln(["import", "--json", "disk.raw", "--name", "cut", "--force"])
        .exits(0)
        .json("kiln.import.v1");
    assert_eq!(json["forced"], true);
    let json = sandbox.kiln(["show", "--json", "cut"]).exits(0).json("kiln.show.v1");
    assert_eq!(json["image"]["checks"]["forced"], true);
}
