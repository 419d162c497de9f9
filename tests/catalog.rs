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
        serde_json::json!([{
            "start_bytes": guest / 65536 * 65536,
            "length_bytes": 65536,
            "partition": "outside the partitions (where the backup of the GPT is)",
        }])
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

/// `kiln` on behalf of an account.
fn by(sandbox: &Sandbox, account: &str, words: &[&str]) -> crate::support::Ran {
    sandbox.kiln(["--account", account].iter().chain(words))
}

#[test]
fn life_of_one_image_runs_from_import_to_its_last_byte() {
    let sandbox = Sandbox::new();
    sandbox.guest_disk("disk.raw");
    let imported = by(&sandbox, "ann", &["import", "--json", "disk.raw", "--name", "web:1"])
        .exits(0)
        .json("kiln.import.v1");
    let id = imported["id"].as_str().unwrap();
    let bytes = imported["new_bytes"].as_u64().unwrap();
    by(&sandbox, "ann", &["check", "disk.raw"]).exits(0);
    by(&sandbox, "ann", &["set", "web:1", "--description", "nginx", "--label", "team=shop"]).exits(0);
    // Nobody else sees it; shared, it is seen but not used before its source is acknowledged.
    let denied = by(&sandbox, "ben", &["show", "--json", id]).exits(3);
    assert_eq!(denied.error()["code"], "store.not-found");
    by(&sandbox, "ann", &["share", "web:1", "--with", "ben"]).exits(0);
    let early = by(&sandbox, "ben", &["copy", "--json", "web:1", "--name", "mine"]).exits(1);
    assert_eq!(early.error()["code"], "rights.not-accepted");
    let accepted = by(&sandbox, "ben", &["accept", "--json", "web:1"]).exits(0).json("kiln.accept.v1");
    assert_eq!(
        (&accepted["owner"], &accepted["content_digest"]),
        (&"ann".into(), &imported["content_digest"])
    );
    by(&sandbox, "ben", &["verify", "web:1"]).exits(0);
    for (words, code) in [
        (&["set", "--json", "web:1", "--description", "x"][..], "rights.received"),
        (&["share", "--json", "web:1", "--with", "eve"], "rights.received"),
        (&["export", "--json", "web:1", "x.qcow2"], "rights.received"),
        (&["rm", "--json", "web:1"], "rights.received"),
    ] {
        assert_eq!(by(&sandbox, "ben", words).exits(1).error()["code"], code, "{words:?}");
    }
    let refused = by(&sandbox, "ann", &["set", "--json", "web:1", "--description", "x"]).exits(1);
    assert_eq!(refused.error()["code"], "rights.shared");
    assert!(refused.error()["hint"].as_str().unwrap().contains("--revoke"));
    let copy =
        by(&sandbox, "ben", &["copy", "--json", "web:1", "--name", "mine"]).exits(0).json("kiln.copy.v1");
    assert_eq!((&copy["new_bytes"], &copy["origin"]["image"]), (&0.into(), &id.into()));
    let kept = by(&sandbox, "ann", &["rm", "--json", "web:1"]).exits(1);
    assert_eq!(kept.error()["code"], "rights.shared");
    by(&sandbox, "ann", &["share", "web:1", "--revoke", "ben"]).exits(0);
    by(&sandbox, "ann", &["set", "web:1", "--deprecate"]).exits(0);
    let tree = by(&sandbox, "ann", &["tree"]).ok();
    assert!(tree.contains("web:1") && !tree.contains("mine"), "{tree}");
    let history = by(&sandbox, "ann", &["history", "--json", "web:1"]).exits(0).json("kiln.history.v1");
    let words: Vec<&str> =
        history["events"].as_array().unwrap().iter().map(|event| event["what"].as_str().unwrap()).collect();
    assert_eq!(words, ["published", "changed", "shared", "accepted", "verified", "revoked", "deprecated"]);
    // The index can be made again at any time, and says the same.
    let before = by(&sandbox, "ann", &["ls", "--json"]).ok();
    std::fs::remove_file(sandbox.store().join("catalog.sqlite")).unwrap();
    by(&sandbox, "ann", &["store", "rebuild"]).exits(0);
    assert_eq!(by(&sandbox, "ann", &["ls", "--json"]).ok(), before);
    by(&sandbox, "ann", &["rm", "web:1"]).exits(0);
    let removed = by(&sandbox, "ben", &["rm", "--json", "mine"]).exits(0).json("kiln.rm.v1");
    assert_eq!(removed["freed_bytes"], bytes);
    let collected = sandbox.kiln(["gc", "--json"]).exits(0).json("kiln.gc.v1");
    assert_eq!(collected["freed_bytes"], 0);
    sandbox.kiln(["store", "fsck", "--read-data"]).exits(0);
}

#[test]
fn image_is_made_public_only_with_an_audit_and_then_seen_by_all() {
    let sandbox = Sandbox::new();
    sandbox.guest_disk("disk.raw");
    by(&sandbox, "ann", &["import", "disk.raw", "--name", "base"]).exits(0);
    let early = by(&sandbox, "ann", &["set", "--json", "base", "--public"]).exits(1);
    assert_eq!(early.error()["code"], "rights.unaudited");
    by(&sandbox, "ann", &["audit", "base", "--note", "boots"]).exits(0);
    by(&sandbox, "ann", &["set", "base", "--public"]).exits(0);
    let list = by(&sandbox, "eve", &["ls", "--json", "--type", "public"]).exits(0).json("kiln.ls.v1");
    assert_eq!(
        (&list["images"][0]["owner"], &list["images"][0]["relation"]),
        (&"ann".into(), &"everyone".into())
    );
    assert_eq!(by(&sandbox, "eve", &["rm", "--json", "base"]).exits(1).error()["code"], "rights.not-owner");
    let csv = by(&sandbox, "eve", &["ls", "--csv"]).ok();
    assert!(csv.lines().nth(1).unwrap().contains(",base,latest,public,ann,normal,"), "{csv}");
}

#[test]
fn settings_come_from_file_environment_and_flags_and_say_so() {
    let sandbox = Sandbox::new();
    std::fs::write(sandbox.path("c.toml"), "account = 'ann'\n[quota]\nimages = 1\n").unwrap();
    sandbox.disk("disk.raw", 1 << 20);
    let kiln = |words: &[&str]| sandbox.kiln(["--config", "c.toml"].iter().chain(words));
    kiln(&["import", "disk.raw", "--name", "a"]).exits(0);
    assert_eq!(
        kiln(&["import", "--json", "disk.raw", "--name", "b"]).exits(1).error()["code"],
        "store.quota"
    );
    let text = kiln(&["--account", "ben", "config", "show", "--origin"]).ok();
    assert!(text.lines().any(|line| line.split_whitespace().eq(["account", "ben", "--account"])), "{text}");
    assert!(text.lines().any(|line| line.split_whitespace().eq(["quota.images", "1", "c.toml"])), "{text}");
    std::fs::write(sandbox.path("c.toml"), "acount = 'ann'\n").unwrap();
    assert_eq!(kiln(&["ls", "--json"]).exits(2).error()["code"], "config.value");
    let doctor = sandbox.kiln(["doctor", "--json"]);
    let rows = doctor.json("kiln.doctor.v1");
    let ids: Vec<&str> =
        rows["rows"].as_array().unwrap().iter().map(|row| row["id"].as_str().unwrap()).collect();
    for id in ["store.open", "store.lock", "store.index", "store.filesystem", "store.space", "host.kvm"] {
        assert!(ids.contains(&id), "{ids:?}");
    }
}

#[test]
fn copies_prunes_and_scrubs_are_wired() {
    let sandbox = Sandbox::new();
    sandbox.disk("disk.raw", 1 << 20);
    sandbox.disk("two.raw", 3 << 20);
    import(&sandbox, "disk.raw", "a:1");
    import(&sandbox, "two.raw", "a:2");
    let copy = sandbox.kiln(["copy", "--json", "a:1", "--to", "other"]).exits(0).json("kiln.copy.v1");
    assert_eq!(copy["name"], "a:1");
    sandbox.kiln(["--store", "other", "verify", "a:1"]).exits(0);
    let plan = sandbox.kiln(["prune", "--json", "--keep", "1", "--dry-run"]).exits(0).json("kiln.prune.v1");
    let goes: Vec<bool> =
        plan["images"].as_array().unwrap().iter().map(|image| image["goes"].as_bool().unwrap()).collect();
    assert_eq!(goes, [true, false]);
    let usage = sandbox.kiln(["usage", "--json", "--price", "2"]).exits(0).json("kiln.usage.v1");
    assert_eq!(usage["images"].as_array().unwrap().len(), 2);
    assert!(usage["accounts"][0]["cost_per_month"].as_f64().unwrap() > 0.0);
    sandbox.kiln(["store", "scrub"]).exits(0);
    overwrite(&layer(&sandbox, "a:2"), 400_000, b"rot");
    let scrub = sandbox.kiln(["store", "scrub", "--json"]).exits(1).json("kiln.store-scrub.v1");
    assert!(scrub["damaged"][0]["images"][0].as_str().unwrap().ends_with("a:2"));
    let list = sandbox.kiln(["ls", "--json", "a:2"]).exits(0).json("kiln.ls.v1");
    assert_eq!(list["images"][0]["verified_intact"], false);
    sandbox.kiln(["tag", "a:1", "b:7"]).exits(0);
    sandbox.kiln(["store", "upgrade", "--all"]).exits(1);
    assert_eq!(sandbox.kiln(["jobs"]).ok(), "no jobs\n");
    assert_eq!(sandbox.kiln(["cancel", "--json", "1-1"]).exits(3).error()["code"], "store.no-job");
}
