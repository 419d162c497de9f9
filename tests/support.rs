//! A place of its own for every test, and ways to run things in it.

use std::ffi::OsStr;
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use kiln_testkit::fixtures::Fixture;
use serde_json::Value;

/// A directory with a home, a temporary directory and a working directory of its own; gone at the end.
pub(crate) struct Sandbox {
    dir: tempfile::TempDir,
}

/// How a program ended, and what it said.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Ran {
    /// The exit code; the number of a signal, negative.
    pub(crate) code: Option<i32>,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: String,
}

impl Sandbox {
    pub(crate) fn new() -> Self {
        let base = std::env::var_os("KILN_TEST_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
        let dir = tempfile::Builder::new().prefix("kiln-e2e-").tempdir_in(base).unwrap();
        for sub in ["home", "tmp", "work"] {
            std::fs::create_dir(dir.path().join(sub)).unwrap();
        }
        Self { dir }
    }

    /// The working directory.
    pub(crate) fn work(&self) -> PathBuf {
        self.dir.path().join("work")
    }

    /// A file in the working directory.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.work().join(name)
    }

    /// The store of this test.
    pub(crate) fn store(&self) -> PathBuf {
        self.dir.path().join("home/.local/share/kiln")
    }

    /// Any program, in this place, with nothing of the environment but the path.
    pub(crate) fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        command
            .current_dir(self.work())
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", self.dir.path().join("home"))
            .env("TMPDIR", self.dir.path().join("tmp"))
            .env("LC_ALL", "C.UTF-8")
            .env("TZ", "UTC")
            .stdin(Stdio::null());
        command
    }

    /// `kiln` with these words.
    pub(crate) fn kiln_command<S: AsRef<OsStr>>(&self, words: impl IntoIterator<Item = S>) -> Command {
        let mut command = self.command(env!("CARGO_BIN_EXE_kiln"));
        command.args(words);
        command
    }

    /// Runs `kiln`.
    #[must_use = "assert how it ended"]
    pub(crate) fn kiln<S: AsRef<OsStr>>(&self, words: impl IntoIterator<Item = S>) -> Ran {
        run(&mut self.kiln_command(words))
    }

    /// Runs `kiln` with bytes on its standard input, through a pipe.
    #[must_use = "assert how it ended"]
    pub(crate) fn kiln_with_input<S: AsRef<OsStr>>(
        &self,
        words: impl IntoIterator<Item = S>,
        input: &[u8],
    ) -> Ran {
        let mut child = self
            .kiln_command(words)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let input = input.to_vec();
        let writer = std::thread::spawn(move || {
            // A program that refuses its input closes the pipe: that is for the caller to judge.
            let _ = stdin.write_all(&input);
        });
        let output = child.wait_with_output().unwrap();
        writer.join().unwrap();
        Ran::from(output)
    }

    /// Runs a program that must be there and must succeed; answers its standard output.
    pub(crate) fn tool<S: AsRef<OsStr>>(&self, program: &str, words: impl IntoIterator<Item = S>) -> String {
        let output = self
            .command(program)
            .args(words)
            .output()
            .unwrap_or_else(|error| panic!("{program} is needed ({error}); `make setup` installs it"));
        assert!(
            output.status.success(),
            "{program} failed: {}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).unwrap()
    }

    /// Names in the working directory, hidden ones included, sorted.
    pub(crate) fn names(&self) -> Vec<String> {
        names_in(&self.work())
    }

    /// Names in the temporary directory.
    pub(crate) fn temporary_names(&self) -> Vec<String> {
        names_in(&self.dir.path().join("tmp"))
    }

    /// A raw disk `name` of `len` bytes with data at the start, in the middle and at the end, holes between.
    pub(crate) fn disk(&self, name: &str, len: u64) -> PathBuf {
        let path = self.path(name);
        let file = File::create(&path).unwrap();
        file.set_len(len).unwrap();
        for (seed, at) in [(1, 0), (2, len / 3), (3, len - len.min(200_000))] {
            let take = usize::try_from((len - at).min(200_000)).unwrap();
            file.write_all_at(&noise(seed, take), at).unwrap();
        }
        path
    }

    /// A GPT disk of 64 MiB with an ext4 that holds files: a guest's disk, in small.
    pub(crate) fn guest_disk(&self, name: &str) -> PathBuf {
        let tree = self.path("tree");
        std::fs::create_dir_all(tree.join("etc")).unwrap();
        std::fs::write(tree.join("etc/hostname"), "kiln-test\n").unwrap();
        for file in 0..24_u64 {
            std::fs::write(tree.join(format!("data-{file}")), noise(100 + file, 300_000)).unwrap();
        }
        let path = self.path(name);
        File::create(&path).unwrap().set_len(64 << 20).unwrap();
        let disk = path.to_str().unwrap();
        self.tool("sgdisk", ["--clear", "--new=1:2048:126975", "--typecode=1:8300", disk]);
        let options = ["-q", "-F", "-t", "ext4", "-O", "^has_journal", "-E", "offset=1048576", "-d"];
        let rest = [tree.to_str().unwrap(), disk, "61440k"];
        self.tool("mke2fs", options.iter().chain(&rest));
        std::fs::remove_dir_all(tree).unwrap();
        path
    }
}

impl Ran {
    /// Standard output as text.
    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.stdout).unwrap()
    }

    /// Standard output as JSON; the first key must be the schema.
    #[track_caller]
    pub(crate) fn json(&self, schema: &str) -> Value {
        let text = self.text();
        let value: Value = serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {self:?}"));
        assert_eq!(value["schema"], schema, "{text}");
        assert!(text.starts_with("{\n  \"schema\":"), "schema is not the first key: {text}");
        value
    }

    /// The one JSON error on standard error.
    #[track_caller]
    pub(crate) fn error(&self) -> Value {
        let lines: Vec<&str> = self.stderr.lines().filter(|line| line.contains("kiln.error.v1")).collect();
        assert_eq!(lines.len(), 1, "{self:?}");
        assert!(lines[0].starts_with("{\"schema\":\"kiln.error.v1\",\"code\":"), "{}", lines[0]);
        serde_json::from_str(lines[0]).unwrap()
    }

    /// Asserts success and answers standard output.
    #[track_caller]
    pub(crate) fn ok(self) -> String {
        let ran = self.exits(0);
        String::from_utf8(ran.stdout).unwrap()
    }

    /// Asserts the exit code.
    #[track_caller]
    pub(crate) fn exits(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{}\n{}", String::from_utf8_lossy(&self.stdout), self.stderr);
        self
    }
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        use std::os::unix::process::ExitStatusExt;
        let code = output.status.code().or_else(|| output.status.signal().map(|signal| -signal));
        Self { code, stdout: output.stdout, stderr: String::from_utf8(output.stderr).unwrap() }
    }
}

/// Runs a command to its end.
#[must_use = "assert how it ended"]
pub(crate) fn run(command: &mut Command) -> Ran {
    Ran::from(command.output().unwrap())
}

/// Names in a directory, sorted.
pub(crate) fn names_in(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// Bytes that do not compress, the same for the same seed (xorshift64*).
pub(crate) fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        bytes.extend_from_slice(&state.wrapping_mul(0x2545_f491_4f6c_dd1d).to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// Changes bytes of a file in place.
pub(crate) fn overwrite(path: &Path, at: u64, bytes: &[u8]) {
    std::fs::OpenOptions::new().write(true).open(path).unwrap().write_all_at(bytes, at).unwrap();
}

/// Cuts a file to a percentage of its length; answers the new length.
pub(crate) fn cut(path: &Path, percent: u64) -> u64 {
    let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
    let len = file.metadata().unwrap().len() * percent / 100;
    file.set_len(len).unwrap();
    len
}

/// A large fixture; absent is a failure, never a pass.
pub(crate) fn built(fixture: Fixture) -> PathBuf {
    let path = fixture.path().unwrap();
    assert!(path.exists(), "{} is absent: `cargo xtask fixtures` builds it", path.display());
    path
}
