//! Imports that succeed.

use kiln_catalog::{Checksum, IfTaken};
use kiln_disk::digest::Digest;

use super::*;

#[test]
fn one_disk_in_five_containers_is_one_content_and_one_layer() {
    let bench = Bench::new();
    let raw = bench.file("disk.raw", &disk(1));
    let files = [
        raw.clone(),
        bench.container(&raw, "plain.qcow2", "qcow2", &[]),
        bench.container(&raw, "zlib.qcow2", "qcow2", &[("compress", "on"), ("compression_type", "zlib")]),
        bench.container(&raw, "zstd.qcow2", "qcow2", &[("compress", "on"), ("compression_type", "zstd")]),
        bench.container(&raw, "dynamic.vhd", "vhd", &[]),
    ];
    let first = bench.import(&files[0], "image:0");
    assert!(first.new_bytes > 0);
    for (number, file) in files.iter().enumerate().skip(1) {
        let outcome = bench.import(file, &format!("image:{number}"));
        assert_eq!(outcome.manifest.digests.content, first.manifest.digests.content, "{}", file.display());
        assert_eq!(outcome.manifest.layers, first.manifest.layers);
        assert_eq!(outcome.new_bytes, 0);
        let bytes = std::fs::read(file).unwrap();
        let digests: Vec<_> = outcome.manifest.source.digests.iter().map(ToString::to_string).collect();
        assert_eq!(digests, [format!("sha256:{}", sha256_of(&bytes))]);
    }
    let image = open_image(&bench.store, &first.manifest).unwrap();
    assert_eq!(bytes_of(image.as_ref()), disk(1));
    bench.assert_clean();
}

#[test]
fn manifest_records_the_source_and_what_was_proved() {
    let bench = Bench::new();
    let bytes = disk(2);
    let path = bench.file("disk.raw", &bytes);
    let sums =
        bench.file("SHA256SUMS", format!("# list\n{}  other/disk.raw\n", sha256_of(&bytes)).as_bytes());
    let mut request = bench.request(&path, "a");
    request.expect = Expect::List(sums);
    request.raw_digest = true;
    request.description = "my disk".to_owned();
    let manifest = bench.run(request).unwrap().manifest;
    let digest = format!("sha256:{}", sha256_of(&bytes)).parse().unwrap();
    assert_eq!(
        manifest.provenance.checksum,
        Checksum::Listed { digest, file: "SHA256SUMS".to_owned(), line: 2 }
    );
    assert_eq!(manifest.source.file_name.as_deref(), Some("disk.raw"));
    assert_eq!((manifest.source.format.as_str(), manifest.source.byte_len), ("raw", bytes.len() as u64));
    assert_eq!(manifest.source.digests.len(), 1);
    assert_eq!(manifest.digests.raw.as_ref().map(Digest::hex), Some(sha256_of(&bytes)));
    assert_eq!(manifest.disk_bytes, bytes.len() as u64);
    assert_eq!(manifest.description, "my disk");
    assert_eq!(bench.store.find("a").unwrap(), manifest);
}

#[test]
fn source_has_its_sha256_except_a_raw_file_of_holes_unless_asked_for() {
    let bench = Bench::new();
    let path = bench.file("disk.raw", &disk(3));
    let digests = bench.import(&path, "a").manifest.source.digests;
    assert_eq!(digests.iter().map(Digest::hex).collect::<Vec<_>>(), [sha256_of(&disk(3))]);
    let long = bench.path("long.raw");
    let file = std::fs::File::create(&long).unwrap();
    file.set_len(HASHED_HOLE_BYTES).unwrap();
    assert_eq!(bench.import(&long, "b").manifest.source.digests.len(), 1);
    file.set_len(HASHED_HOLE_BYTES + 512).unwrap();
    assert_eq!(bench.import(&long, "c").manifest.source.digests, []);
    let mut request = Request::new(Input::File(long), "d".parse().unwrap());
    request.source_digest = SourceDigest::Always;
    assert_eq!(bench.run(request).unwrap().manifest.source.digests.len(), 1);
}

#[test]
fn pipe_gives_the_same_image_as_the_file() {
    let bench = Bench::new();
    let raw = bench.file("disk.raw", &disk(4));
    let qcow2 = bench.container(&raw, "disk.qcow2", "qcow2", &[]);
    let from_file = bench.import(&qcow2, "file").manifest;
    let reader = Box::new(std::io::Cursor::new(std::fs::read(&qcow2).unwrap()));
    let input = Input::Stream { reader, file_name: None, byte_len: None };
    let from_pipe = bench.run(Request::new(input, "pipe".parse().unwrap())).unwrap().manifest;
    assert_eq!(from_pipe.layers, from_file.layers);
    assert_eq!(from_pipe.source.digests, from_file.source.digests);
    assert_eq!(from_pipe.source.file_name, None);
    bench.assert_clean();
}

#[test]
fn zstd_layer_is_smaller_and_holds_the_same_disk() {
    let bench = Bench::new();
    let path = bench.file("disk.raw", &disk(5));
    let plain = bench.import(&path, "plain").manifest;
    let mut request = bench.request(&path, "zstd");
    request.style = LayerStyle::Zstd;
    let zstd = bench.run(request).unwrap().manifest;
    assert_eq!(zstd.digests, plain.digests);
    assert_eq!((plain.layers[0].style.as_str(), zstd.layers[0].style.as_str()), ("plain", "zstd"));
    assert!(zstd.stored_bytes() < plain.stored_bytes());
    let image = open_image(&bench.store, &zstd).unwrap();
    assert_eq!(content_of(image.as_ref()), plain.digests.content);
}

#[test]
fn layer_bytes_do_not_depend_on_the_number_of_threads() {
    let bench = Bench::new();
    let path = bench.file("disk.raw", &disk(6));
    let mut layers = Vec::new();
    for threads in [1, 2, 5] {
        let mut request = bench.request(&path, &format!("t{threads}"));
        request.threads = threads;
        request.style = LayerStyle::Zstd;
        layers.push(bench.run(request).unwrap().manifest.layers);
    }
    assert_eq!(layers[0], layers[1]);
    assert_eq!(layers[0], layers[2]);
}

#[test]
fn replaced_tag_points_at_the_new_image() {
    let bench = Bench::new();
    let old = bench.import(&bench.file("1.raw", &disk(7)), "a").manifest;
    let mut request = bench.request(&bench.file("2.raw", &disk(8)), "a");
    request.if_taken = IfTaken::MoveTag;
    let outcome = bench.run(request).unwrap();
    assert_eq!(outcome.untagged, Some(old.id));
    assert_eq!(bench.store.find("a").unwrap(), outcome.manifest);
}

#[test]
fn verification_of_a_real_layer_names_the_damaged_block() {
    let bench = Bench::new();
    let manifest = bench.import(&bench.file("disk.raw", &disk(9)), "a").manifest;
    assert!(verify_image(&bench.store, &manifest, &Silent).unwrap().intact());
    damage(&bench.store, &manifest, 9, 5);
    let verdict = verify_image(&bench.store, &manifest, &Silent).unwrap();
    let ids: Vec<_> = verdict.findings.list().iter().map(|finding| finding.check.id).collect();
    assert_eq!(ids, ["store.layer.digest", "store.content.blocks"]);
    assert_eq!(verdict.damaged.len(), 1);
    assert_eq!((verdict.damaged[0].start.get(), verdict.damaged[0].len), (5 * 65_536, 65_536));
}
