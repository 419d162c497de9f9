//! Archives as the tools write them, and hostile ones.

use std::io::Write;
use std::process::{Command, Stdio};

use super::*;

/// An archive of newc, without trailer.
fn files(all: &[(&str, &[u8])]) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, data) in all {
        member(&mut out, name, data);
    }
    out
}

fn member(out: &mut Vec<u8>, name: &str, data: &[u8]) {
    let fields = [1, 0o100_644, 0, 0, 1, 0, data.len(), 0, 0, 0, 0, name.len() + 1, 0];
    out.extend_from_slice(b"070701");
    for field in fields {
        out.extend_from_slice(format!("{field:08x}").as_bytes());
    }
    out.extend_from_slice(name.as_bytes());
    out.push(0);
    out.resize(out.len().next_multiple_of(4), 0);
    out.extend_from_slice(data);
    out.resize(out.len().next_multiple_of(4), 0);
}

fn archive(all: &[(&str, &[u8])]) -> Vec<u8> {
    let mut out = files(all);
    member(&mut out, "TRAILER!!!", b"");
    out.resize(out.len().next_multiple_of(512), 0);
    out
}

/// What a compressor of the system makes of it.
fn packed(command: &[&str], data: &[u8]) -> Vec<u8> {
    let mut child = Command::new(command[0])
        .args(&command[1..])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{} (make setup installs it): {error}", command[0]));
    let mut stdin = child.stdin.take().unwrap();
    let data = data.to_vec();
    let writer = std::thread::spawn(move || stdin.write_all(&data).unwrap());
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    assert!(output.status.success());
    output.stdout
}

fn system() -> Vec<u8> {
    archive(&[
        ("init", b"#!/bin/sh\n"),
        ("scripts/functions", b""),
        ("usr/lib/modules/6.1.0-1/kernel/drivers/block/virtio_blk.ko.xz", b"x"),
        ("usr/lib/modules/6.1.0-1/kernel/drivers/nvme/host/nvme-core.ko", b"x"),
        ("usr/lib/modules/6.1.0-1/modules.builtin", b"kernel/fs/ext4/ext4.ko\nkernel/drivers/a/b-c.ko\n"),
        ("etc/modprobe.d/x.conf", b"blacklist hv-vmbus\ninstall nvme /bin/false\n"),
        ("sbin/lvm", b""),
    ])
}

#[test]
fn every_compression_shows_the_same_content() {
    let early = archive(&[("kernel/x86/microcode/GenuineIntel.bin", b"abc")]);
    let plain = system();
    for (name, command) in [
        ("gzip", &["gzip", "-c"][..]),
        ("xz", &["xz", "-c", "--check=crc32"]),
        ("lzma", &["xz", "-c", "--format=lzma"]),
        ("zstd", &["zstd", "-q", "-19", "-c"]),
        ("bzip2", &["bzip2", "-c"]),
        ("lz4", &["lz4", "-l", "-c"]),
        ("none", &["cat"]),
    ] {
        let mut image = early.clone();
        image.extend(packed(command, &plain));
        image.resize(image.len().next_multiple_of(512), 0);
        let found = read(image.as_slice());
        assert_eq!(found.fault, None, "{name}");
        let kinds: Vec<_> = found.segments.iter().map(|s| (s.compression, s.members)).collect();
        assert_eq!(kinds, [("none", 1), (name, 7)]);
        assert!(found.microcode && found.init && found.has_lvm && !found.has_mdadm);
        assert_eq!(found.maker, Maker::InitramfsTools);
        assert_eq!(found.modules.iter().map(String::as_str).collect::<Vec<_>>(), ["nvme_core", "virtio_blk"]);
        assert_eq!(found.builtin.iter().map(String::as_str).collect::<Vec<_>>(), ["b_c", "ext4"]);
        assert_eq!(found.blacklist.iter().map(String::as_str).collect::<Vec<_>>(), ["hv_vmbus", "nvme"]);
        assert_eq!(found.releases.iter().map(String::as_str).collect::<Vec<_>>(), ["6.1.0-1"]);
    }
}

#[test]
fn xz_with_a_check_that_the_kernel_does_not_know_is_a_fault() {
    for (check, words) in [("crc64", Some("CRC64")), ("sha256", Some("SHA-256")), ("none", None)] {
        let found = read(packed(&["xz", "-c", &format!("--check={check}")], &system()).as_slice());
        let fault = words.map(|words| {
            format!(
                "the archive at byte 0 (xz) is checked with {words}, and the kernel knows CRC32 only (xz --check=crc32)"
            )
        });
        assert_eq!((found.fault, found.init), (fault, words.is_none()), "{check}");
    }
}

#[test]
fn cut_anywhere_is_a_fault_and_never_a_panic() {
    let whole = packed(&["gzip", "-c"], &system());
    for len in (0..whole.len()).step_by(7) {
        let found = read(&whole[..len]);
        assert!(found.fault.is_some() || found.tail.is_some(), "{len} of {}", whole.len());
    }
    let plain = files(&[("init", b"abc")]);
    assert_eq!(
        read(plain.as_slice()).fault.as_deref(),
        Some("the archive at byte 0 (none): it ends after 1 files, without its trailer")
    );
}

#[test]
fn hostile_headers_are_refused_before_they_cost() {
    for (field, value, words) in [
        (11, "00000000", "a cpio name of 0 bytes"),
        (11, "ffffffff", "a cpio name of 4294967295 bytes"),
        (6, "ffffffff", "more files or bytes than an initramfs has"),
        (6, "zzzzzzzz", "a cpio header whose fields are no numbers"),
    ] {
        let mut image = archive(&[("init", b"abc")]);
        image[6 + field * 8..14 + field * 8].copy_from_slice(value.as_bytes());
        let fault = read(image.as_slice()).fault.unwrap();
        assert!(fault.ends_with(words), "{fault}");
    }
}

#[test]
fn bombs_and_endless_lists_are_cut() {
    let zeros = vec![0_u8; 1 << 20];
    let mut bomb = Vec::new();
    for index in 0..40 {
        member(&mut bomb, &format!("f{index}"), &zeros);
    }
    member(&mut bomb, "TRAILER!!!", b"");
    let found = read(packed(&["gzip", "-c"], &bomb).as_slice());
    assert_eq!((found.fault, found.segments[0].members), (None, 40));
    // One more segment than is read.
    let many: Vec<u8> = (0..80).flat_map(|_| archive(&[("a", b"")])).collect();
    assert_eq!(read(many.as_slice()).segments.len(), MAX_SEGMENTS);
}

#[test]
fn flipped_bytes_never_panic() {
    let good = packed(&["zstd", "-q", "-c"], &system());
    let plain = system();
    let mut state = 99_u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state >> 8
    };
    for round in 0..1500 {
        let mut image = if round % 2 == 0 { good.clone() } else { plain.clone() };
        for _ in 0..3 {
            let at = next() as usize % image.len();
            image[at] = next() as u8;
        }
        let _ = read(image.as_slice());
    }
}

#[test]
fn name_of_one_byte_and_endless_members_have_their_answers() {
    // A name of one byte is its NUL: the empty name.
    let mut image = archive(&[("", b"abc"), ("init", b"x")]);
    assert_eq!(&image[94..102], b"00000001");
    let found = read(image.as_slice());
    assert_eq!((found.fault.as_deref(), found.segments[0].members, found.init), (None, 2, true));
    // The same, and the byte is none.
    image[110] = b'x';
    assert_eq!(read(image.as_slice()).segments.len(), 1);
    // A million files: more than are counted.
    let mut one = Vec::new();
    member(&mut one, "f", b"");
    let many = one.repeat(1_000_000);
    let started = std::time::Instant::now();
    let fault = read(many.as_slice()).fault.unwrap();
    assert!(fault.ends_with("more files or bytes than an initramfs has"), "{fault}");
    assert!(started.elapsed() < std::time::Duration::from_secs(20));
}

#[test]
fn fifty_archives_in_a_row_are_all_read() {
    let parts: Vec<u8> =
        (0..49).flat_map(|index| archive(&[(format!("d/{index}").as_str(), b"x")])).collect();
    let image = [parts, packed(&["gzip", "-c"], &system())].concat();
    let found = read(image.as_slice());
    assert_eq!((found.fault, found.segments.len(), found.init), (None, 50, true));
}

#[test]
fn bombs_of_every_compression_are_cut_at_the_same_place() {
    // Eight files of 32 MiB of zeros, of which each codec makes little; 200 MiB may come out.
    let zeros = vec![0_u8; 32 << 20];
    let mut bomb = Vec::new();
    for index in 0..8 {
        member(&mut bomb, &format!("zeros{index}"), &zeros);
    }
    for (name, command) in [
        ("gzip", &["gzip", "-1", "-c"][..]),
        ("xz", &["xz", "-0", "-c", "--check=crc32"]),
        ("lzma", &["xz", "-0", "-c", "--format=lzma"]),
        ("zstd", &["zstd", "-q", "-1", "-c"]),
        ("bzip2", &["bzip2", "-1", "-c"]),
        ("lz4", &["lz4", "-l", "-1", "-c"]),
    ] {
        let small = packed(command, &bomb);
        assert!(small.len() < 2 << 20, "{name}: {}", small.len());
        let started = std::time::Instant::now();
        let found = read_within(small.as_slice(), 200 << 20);
        assert!(started.elapsed() < std::time::Duration::from_secs(30), "{name}: {:?}", started.elapsed());
        let fault = format!("the archive at byte 0 ({name}): more files or bytes than an initramfs has");
        assert_eq!(found.fault.as_deref(), Some(fault.as_str()), "{name}");
    }
}
