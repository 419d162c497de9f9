//! What is asked for.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use kiln_catalog::{IfTaken, InstanceRecord, NameTag};
use kiln_disk::pipeline;
use kiln_format::layer::LayerStyle;
use kiln_format::{Choice, DenyAll, Resolver};
use kiln_guest::Reader;
use serde::Serialize;

/// Whether the guest's file systems are made to stand still.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Quiesce {
    /// When the guest's agent answers.
    #[default]
    Auto,
    /// Always; else no capture.
    Require,
    /// Never.
    None,
}

/// Which disks of a machine.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Which {
    /// The one that it starts from.
    #[default]
    Root,
    /// All, at one point in time.
    All,
    /// This one, by its id or its number from 0.
    One(String),
}

/// What is to be captured.
#[derive(Debug)]
pub enum Subject {
    /// An instance of this store, running or not.
    Instance(Box<InstanceRecord>),
    /// A disk file in any format, or a block device, that nobody writes to.
    Path {
        /// Where.
        path: PathBuf,
        /// How it is to be read.
        choice: Choice,
    },
    /// A running QEMU, by the socket of its machine protocol, and that of its guest's agent.
    Qmp {
        /// QMP.
        socket: PathBuf,
        /// `org.qemu.guest_agent.0`.
        agent: Option<PathBuf>,
    },
    /// A running domain of libvirt.
    Libvirt {
        /// Its name or UUID.
        domain: String,
    },
}

/// How long the guest's file systems may stand still.
pub(crate) const FREEZE_LIMIT: Duration = Duration::from_secs(10);

/// A wish for a capture.
pub struct Request {
    /// Name and tag of the image; of several disks, that of the root disk. The others' names end in their ids.
    pub name: NameTag,
    /// Free text.
    pub description: String,
    /// What to do when the name is taken.
    pub if_taken: IfTaken,
    /// How the layer is stored; by default as the layer below, and without one plain.
    pub style: Option<LayerStyle>,
    /// Threads to use, at least one.
    pub threads: usize,
    /// The program and its version.
    pub tool: String,
    /// About the guest's file systems.
    pub quiesce: Quiesce,
    /// Shut the machine down first.
    pub stop: bool,
    /// How long a shutdown may take.
    pub patience: Duration,
    /// The longest that the guest's file systems may stand still.
    pub freeze_limit: Duration,
    /// Which disks.
    pub which: Which,
    /// The way to other files, for disk files of several.
    pub resolver: Arc<dyn Resolver>,
    /// The program that watches over a live capture: itself and the first words of its command line. None: nobody
    /// does, which is for tests of this library alone.
    pub watchdog: Option<Vec<String>>,
    /// Where the guest's old data is kept while the disk is read; where the store is when none. It may need as much room
    /// as the guest overwrites meanwhile.
    pub scratch: Option<PathBuf>,
    /// Who reads the file systems of the captured disks.
    pub reader: Reader,
    /// For tests of faults.
    #[doc(hidden)]
    pub sabotage: Sabotage,
}

/// What tests break on purpose.
#[doc(hidden)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Sabotage {
    /// Every copy before a write fails with this error number.
    pub broken_copy: Option<i32>,
    /// A copy that cannot be made fails the guest's write, as in a plain backup: the fault that the tests have to find.
    pub guest_pays: bool,
}

impl Request {
    /// A request with the defaults.
    #[must_use]
    pub fn new(name: NameTag) -> Self {
        Self {
            name,
            description: String::new(),
            if_taken: IfTaken::Refuse,
            style: None,
            threads: pipeline::default_threads(),
            tool: format!("kiln {}", env!("CARGO_PKG_VERSION")),
            quiesce: Quiesce::Auto,
            stop: false,
            patience: Duration::from_secs(120),
            freeze_limit: FREEZE_LIMIT,
            which: Which::Root,
            resolver: Arc::new(DenyAll),
            watchdog: None,
            scratch: None,
            reader: Reader::default(),
            sabotage: Sabotage::default(),
        }
    }

    pub(crate) fn style_word(&self, below: Option<&str>) -> LayerStyle {
        self.style.unwrap_or_else(|| below.and_then(|word| word.parse().ok()).unwrap_or_default())
    }
}
