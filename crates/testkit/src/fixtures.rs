//! Large fixtures: built by the recipes in `fixtures/recipes`, kept outside the repository.
//!
//! A fixture is one file or directory in the cache, named by the hash of its recipe, so a changed recipe is
//! a new file and two checkouts never disturb each other. It appears complete or not at all.

use std::ffi::OsStr;
use std::fmt;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};

use sha2::{Digest, Sha256};

/// A fixture that a recipe builds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fixture {
    /// Bootable Debian 12 disk: 8 GiB, GPT, BIOS and UEFI loaders, ext4 root, about 1 GiB of data.
    /// Built as root from Debian's packages in some minutes.
    Debian12,
    /// 128 MiB disk: GPT, one ext4 with some ten MiB of fixed files. No root needed, a second to build.
    Small,
    /// Directory of the sample images of QEMU's own test suite, from Debian's source package of QEMU. Which
    /// they are and what they hold: `fixtures/qemu-samples.json`.
    QemuSamples,
    /// Directory of the sample volumes of util-linux's own tests of libblkid, `NAME.img`, and `NAME.blkid` with what
    /// blkid must say of it.
    BlkidSamples,
    /// Directory of a guest that starts in seconds and says on its console what it wrote: `vmlinuz`, `initrd.img`,
    /// and disks `ext4.raw`, `xfs.raw`, `btrfs.raw`. No root needed, half a minute to build. See [`crate::micro`].
    MicroGuest,
    /// Directory of small Debian disks that differ in where the root lies (XFS, btrfs, LVM, ext4) and what starts it
    /// (GRUB, systemd-boot, extlinux), some broken. Built as root in some minutes: `fixtures/recipes/layouts.sh`.
    Layouts,
}

/// Why a fixture cannot be had.
#[derive(Debug)]
pub enum FixtureError {
    /// Neither `KILN_FIXTURE_CACHE`, `XDG_CACHE_HOME` nor `HOME` says where to keep it.
    NoCache,
    /// A file of the recipe or of the cache cannot be used.
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The recipe failed; its own words went to standard error.
    Recipe {
        /// The recipe.
        script: PathBuf,
        /// How it ended.
        status: ExitStatus,
    },
}

impl fmt::Display for FixtureError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoCache => write!(f, "no place for fixtures: set KILN_FIXTURE_CACHE"),
            Self::Io { path, .. } => write!(f, "cannot use {}", path.display()),
            Self::Recipe { script, status } => {
                write!(f, "{} failed ({status}); `make setup` installs what it needs", script.display())
            }
        }
    }
}

impl std::error::Error for FixtureError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io { source, .. } => Some(source),
            _ => None,
        }
    }
}

impl Fixture {
    /// Every fixture, cheapest first.
    pub const ALL: [Self; 6] =
        [Self::Small, Self::QemuSamples, Self::BlkidSamples, Self::MicroGuest, Self::Layouts, Self::Debian12];

    /// The name it is asked for by.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Debian12 => "debian-12",
            Self::Small => "small",
            Self::QemuSamples => "qemu-samples",
            Self::BlkidSamples => "blkid-samples",
            Self::MicroGuest => "micro-guest",
            Self::Layouts => "layouts",
        }
    }

    /// The scripts whose text decides what the fixture is; the first is run.
    fn scripts(self) -> &'static [&'static str] {
        match self {
            Self::Debian12 => &["debian-12.sh", "apt-env.sh"],
            Self::Small => &["small.sh"],
            Self::QemuSamples => &["qemu-samples.sh", "apt-env.sh"],
            Self::BlkidSamples => &["blkid-samples.sh", "apt-env.sh"],
            Self::MicroGuest => &["micro-guest.sh", "apt-env.sh"],
            Self::Layouts => &["layouts.sh", "apt-env.sh"],
        }
    }

    /// Where the fixture is or will be: `<cache>/<name>.<first 16 hex digits of the recipe's hash>`,
    /// with `.raw` behind it when it is a disk.
    ///
    /// # Errors
    /// [`FixtureError::NoCache`], or [`FixtureError::Io`] when a recipe cannot be read.
    pub fn path(self) -> Result<PathBuf, FixtureError> {
        let mut hash = Sha256::new();
        for script in self.scripts() {
            let path = recipes().join(script);
            hash.update(fs::read(&path).map_err(|source| FixtureError::Io { path, source })?);
        }
        let digest: String = hash.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        let is_dir =
            matches!(self, Self::QemuSamples | Self::BlkidSamples | Self::MicroGuest | Self::Layouts);
        let suffix = if is_dir { "" } else { ".raw" };
        Ok(cache_dir()?.join(format!("{}.{digest}{suffix}", self.name())))
    }

    /// The path of the fixture, built first when absent. Concurrent callers wait for one build.
    ///
    /// # Errors
    /// [`FixtureError`]: no cache, files that cannot be used, or a recipe that failed. Never a partial file.
    pub fn ensure(self) -> Result<PathBuf, FixtureError> {
        let path = self.path()?;
        if !path.exists() {
            let script = self.scripts().first().map(|name| recipes().join(name)).unwrap_or_default();
            build_once(&path, &script)?;
        }
        Ok(path)
    }
}

/// Runs `script TEMP` under a lock and publishes TEMP as `path`, unless another process already has.
fn build_once(path: &Path, script: &Path) -> Result<(), FixtureError> {
    let io_at = |at: &Path| {
        let path = at.to_owned();
        move |source| FixtureError::Io { path, source }
    };
    let dir = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(dir).map_err(io_at(dir))?;
    let lock_path = beside(path, ".lock");
    let lock = File::create(&lock_path).map_err(io_at(&lock_path))?;
    lock.lock().map_err(io_at(&lock_path))?;
    if path.exists() {
        return Ok(());
    }
    let temporary = beside(path, ".partial");
    let status = Command::new("bash")
        .args([script.as_os_str(), temporary.as_os_str()] as [&OsStr; 2])
        .stdin(Stdio::null())
        .stdout(io::stderr())
        .status()
        .map_err(io_at(script))?;
    if !status.success() {
        // The failure is the news; what is left over, the next build removes.
        let _ = if temporary.is_dir() { fs::remove_dir_all(&temporary) } else { fs::remove_file(&temporary) };
        return Err(FixtureError::Recipe { script: script.to_owned(), status });
    }
    // Nothing may change the fixture: a test that tries is told.
    let mut permissions = fs::metadata(&temporary).map_err(io_at(&temporary))?.permissions();
    permissions.set_readonly(true);
    fs::set_permissions(&temporary, permissions).map_err(io_at(&temporary))?;
    fs::rename(&temporary, path).map_err(io_at(path))
}

/// `path` with `suffix` put behind its name.
fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

/// The directory that keeps fixtures between runs: `$KILN_FIXTURE_CACHE`, else `kiln-fixtures` in
/// `$XDG_CACHE_HOME` or `~/.cache`.
///
/// # Errors
/// [`FixtureError::NoCache`] when the environment names none of them.
pub fn cache_dir() -> Result<PathBuf, FixtureError> {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    set("KILN_FIXTURE_CACHE")
        .or_else(|| set("XDG_CACHE_HOME").map(|dir| dir.join("kiln-fixtures")))
        .or_else(|| set("HOME").map(|home| home.join(".cache/kiln-fixtures")))
        .ok_or(FixtureError::NoCache)
}

/// The repository's `fixtures` directory: the small committed fixtures and the recipes.
#[must_use]
pub fn committed_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures")
}

fn recipes() -> PathBuf {
    committed_dir().join("recipes")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch(name: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("kiln-fixtures-{}-{name}", std::process::id()));
        fs::create_dir_all(&dir).expect("a scratch directory");
        dir
    }

    #[test]
    fn recipe_that_fails_publishes_nothing() {
        let dir = scratch("fails");
        let (path, script) = (dir.join("disk.raw"), dir.join("recipe.sh"));
        fs::write(&script, "echo half >\"$1\"; exit 9").expect("the recipe is written");
        let error = build_once(&path, &script).expect_err("the recipe fails");
        let left: Vec<_> = fs::read_dir(&dir)
            .expect("the directory is read")
            .map(|entry| entry.expect("an entry").file_name())
            .filter(|name| name != "recipe.sh" && name != "disk.raw.lock")
            .collect();
        fs::remove_dir_all(&dir).expect("the scratch directory is removed");
        assert!(matches!(error, FixtureError::Recipe { status, .. } if status.code() == Some(9)));
        assert_eq!(left, Vec::<std::ffi::OsString>::new());
    }

    #[test]
    fn concurrent_callers_get_one_build() {
        let dir = scratch("once");
        let (path, script) = (dir.join("disk.raw"), dir.join("recipe.sh"));
        fs::write(&script, "echo ran >>\"$(dirname \"$1\")/log\"; sleep 0.3; echo whole >\"$1\"")
            .expect("the recipe is written");
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| build_once(&path, &script).expect("built or found"));
            }
        });
        let (log, built) = (fs::read_to_string(dir.join("log")), fs::read_to_string(&path));
        fs::remove_dir_all(&dir).expect("the scratch directory is removed");
        assert_eq!(log.expect("the recipe ran"), "ran\n");
        assert_eq!(built.expect("the fixture is there"), "whole\n");
    }

    #[test]
    fn small_disk_is_built_once_and_has_a_partition_table() {
        let path = Fixture::Small.ensure().expect("the recipe succeeds");
        assert_eq!(fs::metadata(&path).expect("the disk").len(), 128 << 20);
        let again = Fixture::Small.ensure().expect("it is found");
        assert_eq!(again, path);
        let mut head = [0; 520];
        io::Read::read_exact(&mut File::open(&path).expect("the disk opens"), &mut head)
            .expect("it is long enough");
        assert_eq!(&head[510..520], b"\x55\xaaEFI PART");
    }
}
