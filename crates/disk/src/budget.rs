//! What a file from a stranger may cost: charged before it is spent.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// What a [`Budget`] counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cost {
    /// Bytes of tables and headers read.
    MetadataBytes,
    /// Bytes held in memory at once; given back with [`Budget::release`].
    Memory,
    /// Table entries, chain links and other nodes visited.
    Nodes,
    /// Bytes of output that are not zero.
    NonZeroOutput,
}

/// The most that each [`Cost`] may reach.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// For [`Cost::MetadataBytes`].
    pub metadata_bytes: u64,
    /// For [`Cost::Memory`].
    pub memory: u64,
    /// For [`Cost::Nodes`].
    pub nodes: u64,
    /// For [`Cost::NonZeroOutput`].
    pub non_zero_output: u64,
    /// Files behind the first one (backing files, data files): a chain may be this deep.
    pub depth: u8,
    /// Wall time for looking at metadata (opening, checking).
    pub time: Duration,
}

impl Limits {
    /// For disks of ordinary use: 64 MiB of tables in memory at once, chains four deep.
    ///
    /// Metadata and nodes are bounded by what a 64 TiB disk in 64 KiB clusters honestly needs.
    pub const STANDARD: Self = Self {
        metadata_bytes: 64 << 30,
        memory: 64 << 20,
        nodes: 8 << 30,
        non_zero_output: u64::MAX,
        depth: 4,
        time: Duration::from_secs(24 * 3600),
    };

    /// For looking only (`inspect`, fuzzing): answers in seconds or not at all.
    pub const INSPECT: Self = Self {
        metadata_bytes: 1 << 30,
        memory: 32 << 20,
        nodes: 64 << 20,
        non_zero_output: 1 << 30,
        depth: 4,
        time: Duration::from_secs(10),
    };
}

impl Default for Limits {
    fn default() -> Self {
        Self::STANDARD
    }
}

/// Running totals against [`Limits`]; shared by everything that works on one image.
#[derive(Debug)]
pub struct Budget {
    limits: Limits,
    started: Instant,
    metadata_bytes: AtomicU64,
    memory: AtomicU64,
    nodes: AtomicU64,
    non_zero_output: AtomicU64,
}

impl Budget {
    /// A fresh budget; its clock starts now.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            started: Instant::now(),
            metadata_bytes: AtomicU64::new(0),
            memory: AtomicU64::new(0),
            nodes: AtomicU64::new(0),
            non_zero_output: AtomicU64::new(0),
        }
    }

    /// The limits it was made with.
    #[must_use]
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Takes `amount` of `cost`, or nothing at all.
    ///
    /// # Errors
    /// [`Error::Refused`] with code `budget.metadata`, `budget.memory`, `budget.nodes`, `budget.output`.
    pub fn charge(&self, cost: Cost, amount: u64) -> Result<()> {
        let (counter, allowed, code, what) = match cost {
            Cost::MetadataBytes => {
                (&self.metadata_bytes, self.limits.metadata_bytes, "budget.metadata", "bytes of tables read")
            }
            Cost::Memory => (&self.memory, self.limits.memory, "budget.memory", "bytes of tables in memory"),
            Cost::Nodes => (&self.nodes, self.limits.nodes, "budget.nodes", "table entries visited"),
            Cost::NonZeroOutput => (
                &self.non_zero_output,
                self.limits.non_zero_output,
                "budget.output",
                "bytes of data produced",
            ),
        };
        counter
            .try_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
                used.checked_add(amount).filter(|total| *total <= allowed)
            })
            .map(|_| ())
            .map_err(|used| Error::Refused {
                code,
                what: what.to_owned(),
                asked: used.saturating_add(amount),
                allowed,
                hint: "the file asks for more than an honest image of its kind needs",
            })
    }

    /// Gives memory back.
    pub fn release(&self, amount: u64) {
        let _ = self
            .memory
            .try_update(Ordering::Relaxed, Ordering::Relaxed, |used| Some(used.saturating_sub(amount)));
    }

    /// Confirms that a chain of `depth` files behind the first is allowed.
    ///
    /// # Errors
    /// [`Error::Refused`] with code `budget.depth`.
    pub fn check_depth(&self, depth: u8) -> Result<()> {
        if depth <= self.limits.depth {
            return Ok(());
        }
        Err(Error::Refused {
            code: "budget.depth",
            what: "files in the backing chain".to_owned(),
            asked: depth.into(),
            allowed: self.limits.depth.into(),
            hint: "flatten the chain first: kiln convert its upper half into one file",
        })
    }

    /// Confirms that there is time left.
    ///
    /// # Errors
    /// [`Error::Refused`] with code `budget.time`, in seconds.
    pub fn check_time(&self) -> Result<()> {
        let used = self.started.elapsed();
        if used <= self.limits.time {
            return Ok(());
        }
        Err(Error::Refused {
            code: "budget.time",
            what: "seconds of work".to_owned(),
            asked: used.as_secs(),
            allowed: self.limits.time.as_secs(),
            hint: "the file costs more than an honest image of its kind",
        })
    }
}

impl Default for Budget {
    fn default() -> Self {
        Self::new(Limits::STANDARD)
    }
}
