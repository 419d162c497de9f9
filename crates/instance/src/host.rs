//! What this host can do: where programs are, and whether KVM runs guests.

use std::ffi::{OsStr, OsString};
use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use kiln_catalog::Store;
use kiln_catalog::kvm::{self, Verdict};
use kiln_disk::{Durability, Event, Existing, Observer, StagedFile};
use serde::{Deserialize, Serialize};

use crate::arch;
use crate::command::Accelerator;
use crate::error::{Result, io};

/// In the store: the last probe of KVM.
pub const PROBE_FILE: &str = "kvm.json";

/// What is known about this host.
#[derive(Debug, Clone)]
pub struct Host {
    path: Option<OsString>,
    accelerator: Accelerator,
    keeper: Vec<String>,
}

/// The answer of a probe, and for which host it holds.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Probed {
    schema: String,
    /// The kernel's own id of this boot.
    boot: String,
    /// Identity of the emulator's file: path, inode, length, time.
    emulator: String,
    /// Whether a guest booted.
    kvm: bool,
}

const SCHEMA: &str = "kiln.kvm.v1";

impl Host {
    /// Looks at the host. `path` is where programs are looked for. KVM is only used after a guest really booted with
    /// it; that is tried once a boot of the host, kept in the store, and said when it was tried.
    ///
    /// # Errors
    /// [`crate::Failure::NoProgram`]; I/O.
    pub fn look(store: &Store, path: Option<&OsStr>, observer: &dyn Observer) -> Result<Self> {
        let emulator = arch::find(None)?.emulator_in(path)?;
        let wanted = Probed {
            schema: SCHEMA.to_owned(),
            boot: std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default(),
            emulator: identity_of(&emulator)?,
            kvm: false,
        };
        let host = |kvm| Self {
            path: path.map(OsStr::to_owned),
            accelerator: if kvm { Accelerator::Kvm } else { Accelerator::Tcg },
            keeper: Vec::new(),
        };
        let file = store.path().join(PROBE_FILE);
        let kept = std::fs::read(&file).ok().and_then(|bytes| serde_json::from_slice::<Probed>(&bytes).ok());
        if let Some(kept) =
            kept.filter(|kept| (&kept.boot, &kept.emulator) == (&wanted.boot, &wanted.emulator))
        {
            return Ok(host(kept.kvm));
        }
        let verdict = kvm::probe(&emulator, store.path())?;
        let text = match &verdict {
            Verdict::Works => "KVM: a probe guest booted, guests run on the processor itself".to_owned(),
            Verdict::Absent => {
                "no KVM on this host: guests are translated (TCG), about ten times slower".to_owned()
            }
            Verdict::Broken(why) => format!("KVM is there, but {why}: guests are translated (TCG)"),
        };
        observer.event(Event::Note { text: &text });
        let probed = Probed { kvm: verdict == Verdict::Works, ..wanted };
        // Two at once write the same. A store that cannot be written would have failed anyway.
        let _ = keep(&file, &probed);
        Ok(host(probed.kvm))
    }

    /// A host that is told what to run guests with, and not asked.
    ///
    /// # Errors
    /// [`crate::Failure::NoProgram`].
    pub fn told(accelerator: Accelerator, path: Option<&OsStr>) -> Result<Self> {
        arch::find(None)?.emulator_in(path)?;
        Ok(Self { path: path.map(OsStr::to_owned), accelerator, keeper: Vec::new() })
    }

    /// The same, with a program and its words that keep the logs of consoles within bounds ([`crate::log`]). Without
    /// one, QEMU writes them, and a guest may print without end.
    #[must_use]
    pub fn with_keeper(self, keeper: Vec<String>) -> Self {
        Self { keeper, ..self }
    }

    /// The program that keeps the logs of consoles; empty when there is none.
    pub(crate) fn keeper(&self) -> &[String] {
        &self.keeper
    }

    /// Where programs are looked for.
    #[must_use]
    pub fn path(&self) -> Option<&OsStr> {
        self.path.as_deref()
    }

    /// What runs guests.
    #[must_use]
    pub fn accelerator(&self) -> Accelerator {
        self.accelerator
    }
}

fn keep(file: &Path, probed: &Probed) -> Result<()> {
    let staged = StagedFile::beside(file)?;
    let text = serde_json::to_string_pretty(probed).unwrap_or_default();
    let mut place = staged.file();
    writeln!(place, "{text}").map_err(|source| io("write", file, source))?;
    Ok(staged.commit(Existing::Replace, Durability::Unsynced)?)
}

fn identity_of(program: &Path) -> Result<String> {
    let meta = std::fs::metadata(program).map_err(|source| io("stat", program, source))?;
    // A device that may be used now and not an hour ago (a group, a module) is another host to us.
    let usable = OpenOptions::new().read(true).write(true).custom_flags(0).open("/dev/kvm").is_ok();
    Ok(format!("{} {} {} {} {usable}", program.display(), meta.ino(), meta.len(), meta.mtime()))
}
