//! Second opinions on VMDK, VHD and VHDX: other implementations than QEMU's read what Kiln writes, and Kiln reads
//! what a writer of streamOptimized disks makes that shares no code with QEMU.
//!
//! What each of them cannot do is asserted as well, so that a new release that can is noticed.

use std::io::Read;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use kiln_disk::{Budget, ByteSink, FileSink, FileSource, Silent};
use kiln_format::transfer::{Job, write_container};
use kiln_format::{CheckScope, Choice, OpenContext, Options, by_name};
use kiln_testkit::ModelDisk;
use kiln_testkit::laws::{Random, check_disk};
use kiln_testkit::oracle::{assert_qemu_identical, qemu_img, text};
use tempfile::TempDir;

const LEN: usize = 9 << 20;

/// Text, noise and zeros, with edges inside grains and blocks.
fn content() -> Vec<u8> {
    let mut random = Random(0x76_6d64_6b76);
    let mut bytes = vec![0; LEN];
    for (n, byte) in bytes[700_000..2_500_000].iter_mut().enumerate() {
        *byte = (n / 300 % 97) as u8;
    }
    bytes[3_000_001..3_400_000].iter_mut().for_each(|byte| *byte = random.number() as u8);
    bytes[LEN - 1000..].fill(0x55);
    bytes
}

fn write_by_kiln(path: &Path, format: &str, pairs: &[(&str, &str)]) {
    let format = by_name(format).unwrap();
    let given = pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    let options = Options::new(format.create.unwrap().options, given).unwrap();
    let sink: Arc<dyn ByteSink> = Arc::new(FileSink::new(std::fs::File::create(path).unwrap(), text(path)));
    let job = Job {
        disk: &ModelDisk::new(content(), 4096),
        format,
        options: &options,
        threads: 2,
        content_digest: false,
        raw_digest: false,
        fingerprint: false,
        leaves: None,
        budget: &Budget::default(),
    };
    write_container(job, &sink, &Silent).unwrap();
}

/// Runs Debian's Python, which sees the bindings that Debian packages; its output is the disk.
#[track_caller]
fn python(program: &str, args: &[&str]) -> Vec<u8> {
    let output = Command::new("timeout").args(["60", "/usr/bin/python3", "-c", program]).args(args).output();
    let output = output.unwrap_or_else(|error| panic!("cannot run timeout (coreutils): {error}"));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

const READ_ALL: &str = "
handle.open(sys.argv[1])
left = handle.get_media_size()
while left:
    piece = handle.read_buffer(min(left, 1 << 20))
    assert piece, left
    sys.stdout.buffer.write(piece)
    left -= len(piece)
";

fn read_by_libvhdi(path: &Path) -> Vec<u8> {
    python(&format!("import sys, pyvhdi\nhandle = pyvhdi.file()\n{READ_ALL}"), &[text(path)])
}

fn read_by_vmdk_core(path: &Path) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut reader = vmdk::VmdkReader::open(std::fs::File::open(path).unwrap()).unwrap();
    assert_eq!(reader.virtual_disk_size(), LEN as u64);
    reader.read_to_end(&mut bytes).unwrap();
    bytes
}

fn read_by_vhdx_core(path: &Path) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut reader = vhdx::VhdxReader::open(path).unwrap();
    assert_eq!(reader.virtual_disk_size(), LEN as u64);
    reader.read_to_end(&mut bytes).unwrap();
    bytes
}

#[test]
fn vmdk_core_reads_sparse_extents_and_streams() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("disk.vmdk");
    for subformat in ["monolithicSparse", "streamOptimized"] {
        write_by_kiln(&path, "vmdk", &[("subformat", subformat)]);
        assert!(read_by_vmdk_core(&path) == content(), "{subformat}");
        std::fs::remove_file(&path).unwrap();
    }
}

#[test]
fn vhdx_core_and_libvhdi_read_dynamic_vhdx_of_every_block_size() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("disk.vhdx");
    for block in ["1M", "4M", "32M", "256M"] {
        write_by_kiln(&path, "vhdx", &[("block_size", block)]);
        assert!(read_by_vhdx_core(&path) == content(), "vhdx-core, {block}");
        assert!(read_by_libvhdi(&path) == content(), "libvhdi, {block}");
        std::fs::remove_file(&path).unwrap();
    }
}

#[test]
fn libvhdi_reads_dynamic_and_fixed_vhd() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("disk.vhd");
    for subformat in ["dynamic", "fixed"] {
        write_by_kiln(&path, "vhd", &[("subformat", subformat)]);
        assert!(read_by_libvhdi(&path) == content(), "{subformat}");
        std::fs::remove_file(&path).unwrap();
    }
}

/// Debian's python3-vmdkstream, made for Image Factory: a stream with its directory behind the grains and a footer.
#[test]
fn kiln_reads_streams_that_python_vmdkstream_writes() {
    let dir = TempDir::new().unwrap();
    let (raw, stream) = (dir.path().join("disk.raw"), dir.path().join("disk.vmdk"));
    std::fs::write(&raw, content()).unwrap();
    python(
        "import sys, VMDKstream\nVMDKstream.convert_to_stream(sys.argv[1], sys.argv[2])",
        &[text(&raw), text(&stream)],
    );
    let source = Arc::new(FileSource::open(&stream).unwrap());
    let image = kiln_format::open(source, Choice::Detect, &OpenContext::new()).unwrap();
    assert_eq!((image.format().id, image.facts().variant.as_str()), ("vmdk", "streamOptimized"));
    check_disk(image.as_ref(), &content());
    let findings = image.check(CheckScope::Data, &Silent).unwrap();
    assert!(!findings.fails(), "{:?}", findings.list());
    assert_qemu_identical(&stream, "vmdk", &raw, "raw");
}

/// What QEMU writes is read by those others as by Kiln: they are no judges of one side only.
#[test]
fn the_others_read_what_qemu_writes() {
    let dir = TempDir::new().unwrap();
    let raw = dir.path().join("disk.raw");
    std::fs::write(&raw, content()).unwrap();
    let made = |name: &str, format: &str, option: &str| {
        let path = dir.path().join(name);
        qemu_img(&["convert", "-f", "raw", "-O", format, "-o", option, text(&raw), text(&path)]);
        path
    };
    let stream = made("stream.vmdk", "vmdk", "subformat=streamOptimized");
    assert!(read_by_vmdk_core(&stream) == content());
    let dynamic = made("dynamic.vhdx", "vhdx", "subformat=dynamic");
    assert!(read_by_vhdx_core(&dynamic) == content());
    assert!(read_by_libvhdi(&dynamic) == content());
}
