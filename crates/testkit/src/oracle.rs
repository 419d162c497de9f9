//! Other programs that know the formats: what they say is what our output and our reading are compared with.

use std::path::Path;
use std::process::{Command, Output};

/// Runs `qemu-img` and gives its standard output.
///
/// Under `timeout`: an oracle fed with odd files can run for ever.
///
/// # Panics
/// When the program is missing (install qemu-utils), fails, or takes more than a minute.
#[track_caller]
pub fn qemu_img(args: &[&str]) -> String {
    let output = qemu_img_output(args);
    assert!(
        output.status.success(),
        "qemu-img {args:?}: {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Runs `qemu-img`, whatever it answers.
///
/// # Panics
/// When it cannot be run; a missing oracle fails the test.
#[track_caller]
pub fn qemu_img_output(args: &[&str]) -> Output {
    let output = Command::new("timeout").arg("60").arg("qemu-img").args(args).output();
    let output = output.unwrap_or_else(|error| panic!("cannot run timeout (coreutils): {error}"));
    assert_ne!(output.status.code(), Some(127), "qemu-img is missing: install qemu-utils");
    assert_ne!(output.status.code(), Some(124), "qemu-img {args:?} ran for a minute");
    output
}

/// Runs `qemu-io` and gives its standard output.
///
/// # Panics
/// When the program is missing (install qemu-utils), fails, or takes more than a minute.
#[track_caller]
pub fn qemu_io(args: &[&str]) -> String {
    let output = Command::new("timeout").arg("60").arg("qemu-io").args(args).output();
    let output = output.unwrap_or_else(|error| panic!("cannot run timeout (coreutils): {error}"));
    assert!(
        output.status.success(),
        "qemu-io {args:?}: {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A number field of `qemu-img info`, or of another flat answer in JSON.
///
/// # Panics
/// When it is not there.
#[must_use]
#[track_caller]
pub fn json_number(json: &str, field: &str) -> u64 {
    let key = format!("\"{field}\":");
    // The image's own fields come after those of the protocol layer, which repeat some names.
    let start = json.rfind(&key).unwrap_or_else(|| panic!("no {field} in {json}")) + key.len();
    let digits: String = json[start..].trim_start().chars().take_while(char::is_ascii_digit).collect();
    digits.parse().unwrap_or_else(|_| panic!("{field} is no number in {json}"))
}

/// Length of the disk in a file, as `qemu-img info -f format` says.
///
/// # Panics
/// As [`qemu_img`].
#[must_use]
#[track_caller]
pub fn qemu_disk_len(path: &Path, format: &str) -> u64 {
    json_number(&qemu_img(&["info", "--output=json", "-f", format, text(path)]), "virtual-size")
}

/// Asserts that two files hold the same disk by `qemu-img compare`: the same bytes and the same length.
///
/// # Panics
/// When they do not.
#[track_caller]
pub fn assert_qemu_identical(one: &Path, one_format: &str, other: &Path, other_format: &str) {
    let said = qemu_img(&["compare", "-f", one_format, "-F", other_format, text(one), text(other)]);
    // For disks of different length it prints a warning and still says "identical" with status 0.
    assert_eq!(said.trim(), "Images are identical.");
}

/// A path as text: those of tests are.
///
/// # Panics
/// When it is not.
#[must_use]
pub fn text(path: &Path) -> &str {
    path.to_str().expect("a path of a test is UTF-8")
}

/// Debian's Python. What else is called so may be a version manager's wrapper, which takes longer to start it than the
/// test takes.
pub const PYTHON: &str = "/usr/bin/python3";

/// The most memory that this process ever held, in bytes (`VmHWM`).
///
/// # Panics
/// When the kernel does not say.
#[must_use]
pub fn peak_memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("/proc/self/status");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("VmHWM");
    let kib: u64 = line.trim().trim_end_matches("kB").trim().parse().expect("a number of KiB");
    kib * 1024
}
