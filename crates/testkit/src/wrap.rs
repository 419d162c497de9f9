//! Compressed files, made by the programs that users have.

use std::io::Write;
use std::process::{Command, Stdio};

/// Packs bytes as one of `gzip`, `xz`, `zstd`, `bzip2`, `lz4` (wrapper ids, which are the programs' names too).
///
/// # Panics
/// As [`through`].
#[must_use]
#[track_caller]
pub fn packed(id: &str, bytes: &[u8]) -> Vec<u8> {
    match id {
        // Checksums of everything, and a length where the program can.
        "lz4" => through("lz4", &["-q", "-c", "-BX"], bytes),
        "zstd" => through("zstd", &["-q", "-c"], bytes),
        other => through(other, &["-c"], bytes),
    }
}

/// What a program makes of bytes on its standard input.
///
/// # Panics
/// When the program is missing (`make setup` installs it) or fails.
#[must_use]
#[track_caller]
pub fn through(program: &str, words: &[&str], bytes: &[u8]) -> Vec<u8> {
    let child = Command::new(program).args(words).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
    let mut child = child.unwrap_or_else(|error| panic!("{program} is needed ({error}): make setup"));
    let mut input = child.stdin.take().expect("it was asked for");
    let bytes = bytes.to_vec();
    // A program that gives up early closes the pipe: its status tells.
    let writer = std::thread::spawn(move || drop(input.write_all(&bytes)));
    let output = child.wait_with_output().expect("the child is ours");
    writer.join().expect("the writer does not panic");
    assert!(output.status.success(), "{program} {words:?}: {}", output.status);
    output.stdout
}

/// A disk to wrap: `len` bytes with noise, text that compresses, and holes, the same for the same seed.
#[must_use]
pub fn sample(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = vec![0_u8; len];
    for (number, part) in bytes.chunks_mut(40_000).enumerate() {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        match number % 4 {
            0 => {
                let mut noise = state;
                for byte in part.iter_mut() {
                    noise =
                        noise.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    *byte = noise.to_le_bytes()[7];
                }
            }
            1 => part.iter_mut().enumerate().for_each(|(at, byte)| *byte = b"kiln "[at % 5]),
            _ => {}
        }
    }
    bytes
}
