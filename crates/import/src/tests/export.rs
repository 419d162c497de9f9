//! Exports.

use std::io::Write;
use std::sync::Mutex;

use kiln_catalog::Family;

use super::*;

fn request(format: &str, options: &[(&str, &str)]) -> ExportRequest {
    let mut request = ExportRequest::new(by_name(format).unwrap());
    request.options = options.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect();
    request
}

#[test]
fn every_format_gives_the_content_back_and_says_its_sha256() {
    let bench = Bench::new();
    let manifest = bench.import(&bench.file("disk.raw", &disk(1)), "a").manifest;
    let rows = [
        (request("raw", &[]), How::Convert),
        (request("qcow2", &[]), How::Copy),
        (request("qcow2", &[("compress", "on")]), How::Convert),
        (request("vhd", &[]), How::Convert),
    ];
    for (number, (request, how)) in rows.into_iter().enumerate() {
        let path = bench.path(&format!("out-{number}"));
        let format = request.format.id;
        let plan = plan_export(&bench.store, &manifest, request).unwrap();
        let outcome = plan.to_file(&path, Existing::Keep, &Silent).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        assert_eq!((outcome.how, outcome.content), (how, manifest.digests.content));
        assert_eq!((outcome.transport.hex(), outcome.byte_len), (sha256_of(&bytes), bytes.len() as u64));
        let source = Arc::new(FileSource::open(&path).unwrap());
        let image = kiln_format::open(source, Choice::Detect, &OpenContext::new()).unwrap();
        assert_eq!(image.format().id, format);
        assert_eq!(bytes_of(image.as_ref()), disk(1));
    }
}

#[test]
fn default_qcow2_is_the_layer_itself() {
    let bench = Bench::new();
    let manifest = bench.import(&bench.file("disk.raw", &disk(1)), "a").manifest;
    let path = bench.path("out.qcow2");
    let plan = plan_export(&bench.store, &manifest, request("qcow2", &[])).unwrap();
    let outcome = plan.to_file(&path, Existing::Keep, &Silent).unwrap();
    assert_eq!(outcome.transport.to_string(), manifest.layers[0].digest.to_string());
    assert_eq!(
        std::fs::read(&path).unwrap(),
        std::fs::read(bench.store.layer_path(&manifest.layers[0])).unwrap()
    );
}

#[test]
fn zstd_layer_is_written_anew_when_plain_is_asked_for_and_copied_when_zstd_is() {
    let bench = Bench::new();
    let mut import = bench.request(&bench.file("disk.raw", &disk(1)), "a");
    import.style = LayerStyle::Zstd;
    let manifest = bench.run(import).unwrap().manifest;
    let plain = plan_export(&bench.store, &manifest, request("qcow2", &[])).unwrap();
    assert_eq!(plain.how(), How::Convert);
    let zstd = [("compress", "on"), ("compression_type", "zstd")];
    let copied = plan_export(&bench.store, &manifest, request("qcow2", &zstd)).unwrap();
    assert_eq!(copied.how(), How::Copy);
    let outcome = copied.to_file(&bench.path("out.qcow2"), Existing::Keep, &Silent).unwrap();
    assert_eq!(outcome.transport.to_string(), manifest.layers[0].digest.to_string());
}

#[test]
fn existing_file_is_kept_unless_it_may_be_replaced() {
    let bench = Bench::new();
    let manifest = bench.import(&bench.file("disk.raw", &disk(1)), "a").manifest;
    let path = bench.file("out", b"precious");
    for format in ["raw", "qcow2"] {
        let plan = plan_export(&bench.store, &manifest, request(format, &[])).unwrap();
        assert_eq!(plan.to_file(&path, Existing::Keep, &Silent).unwrap_err().code(), "io.exists");
        assert_eq!(std::fs::read(&path).unwrap(), b"precious");
    }
    let plan = plan_export(&bench.store, &manifest, request("raw", &[])).unwrap();
    plan.to_file(&path, Existing::Replace, &Silent).unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), disk(1));
}

#[test]
fn damaged_layer_is_never_exported() {
    let bench = Bench::new();
    let manifest = bench.import(&bench.file("disk.raw", &disk(1)), "a").manifest;
    damage(&bench.store, &manifest, 1, 5);
    let path = bench.path("out");
    for (format, code) in [("qcow2", "output.differs"), ("raw", "image.damaged"), ("vhd", "image.damaged")] {
        let plan = plan_export(&bench.store, &manifest, request(format, &[])).unwrap();
        let error = plan.to_file(&path, Existing::Keep, &Silent).unwrap_err();
        assert_eq!((error.code(), error.family()), (code, Family::Malformed));
        assert!(!path.exists());
    }
}

#[derive(Clone, Default)]
struct Sink(Arc<Mutex<Vec<u8>>>);

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn pipe_gets_the_same_bytes_as_a_file() {
    let bench = Bench::new();
    let manifest = bench.import(&bench.file("disk.raw", &disk(1)), "a").manifest;
    for format in ["raw", "qcow2", "vhd"] {
        let sink = Sink::default();
        let plan = plan_export(&bench.store, &manifest, request(format, &[])).unwrap();
        let outcome = plan.to_stream(Box::new(sink.clone()), bench.dir.path(), &Silent).unwrap();
        let piped = sink.0.lock().unwrap().clone();
        assert_eq!((outcome.transport.hex(), outcome.byte_len), (sha256_of(&piped), piped.len() as u64));
        let path = bench.path(&format!("out.{format}"));
        let plan = plan_export(&bench.store, &manifest, request(format, &[])).unwrap();
        plan.to_file(&path, Existing::Keep, &Silent).unwrap();
        assert!(std::fs::read(&path).unwrap() == piped, "{format}");
    }
}

#[test]
fn unknown_option_is_refused_before_anything_is_written() {
    let bench = Bench::new();
    let manifest = bench.import(&bench.file("disk.raw", &disk(1)), "a").manifest;
    let plan = plan_export(&bench.store, &manifest, request("qcow2", &[("compresion", "on")]));
    assert_eq!(plan.err().unwrap().code(), "option.unknown");
}
