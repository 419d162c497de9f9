//! The error of making and running instances.

use std::path::PathBuf;
use std::time::Duration;

use kiln_catalog::Family;

use crate::seed::UserDataProblem;

/// Shorthand for results of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why something was not done with an instance.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Files, disks and containers.
    #[error(transparent)]
    Disk(#[from] kiln_disk::Error),
    /// The store.
    #[error(transparent)]
    Catalog(#[from] kiln_catalog::Error),
    /// A running machine, or its guest agent.
    #[error(transparent)]
    Qemu(#[from] kiln_qemu::Error),
    /// A rule of launching said no.
    #[error("refused: {0}")]
    Refused(Refusal),
    /// The machine did not do what it should.
    #[error("{0}")]
    Failed(Failure),
}

/// One way in which a rule says no.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// A number or size that no machine can have.
    #[error("{what} would be {asked}, {least} to {most} are possible")]
    Amount {
        /// What it is.
        what: &'static str,
        /// What was asked for.
        asked: u64,
        /// The least.
        least: u64,
        /// The most.
        most: u64,
    },
    /// A disk smaller than its image.
    #[error("the disk would have {asked} bytes, the image has {image}")]
    Shrink {
        /// What was asked for.
        asked: u64,
        /// What the image has.
        image: u64,
    },
    /// The image's checks found damage.
    #[error("{image} is known to be damaged: {}", findings.join(", "))]
    Unsound {
        /// The image.
        image: String,
        /// Ids of what was found.
        findings: Vec<String>,
    },
    /// The image's guest is known not to start on a machine of this host.
    #[error("the guest of {image} will not boot: {because}")]
    Guest {
        /// The image.
        image: String,
        /// What keeps it from starting.
        because: String,
    },
    /// A guest of another architecture than the machine.
    #[error("{asked} machines are not run, only {}", known.join(", "))]
    Architecture {
        /// What was asked for, or what the image is for.
        asked: String,
        /// What there is.
        known: Vec<&'static str>,
    },
    /// A port that cannot be led into the guest.
    #[error("port {port} of 127.0.0.1 {why}")]
    Port {
        /// The port.
        port: u16,
        /// Why not.
        why: &'static str,
    },
    /// Words about the network that contradict each other, or name no device.
    #[error("{what}")]
    Network {
        /// What is wrong.
        what: &'static str,
    },
    /// User data that cloud-init would not take.
    #[error("the user data cannot be used: {0}")]
    UserData(UserDataProblem),
    /// A file that holds no public keys.
    #[error("line {line} of the key file {why}")]
    Key {
        /// Counted from 1.
        line: usize,
        /// What is wrong with it.
        why: &'static str,
    },
    /// It runs, and must not.
    #[error("{name} is running")]
    Running {
        /// The instance.
        name: String,
    },
    /// It does not run, and must.
    #[error("{name} is not running")]
    NotRunning {
        /// The instance.
        name: String,
    },
    /// Nothing leads to the guest's ssh server.
    #[error("no port of this host leads to port 22 of {name}")]
    NoSshPort {
        /// The instance.
        name: String,
    },
    /// There is nothing to go back to.
    #[error("{name} has no disk put aside")]
    NothingAside {
        /// The instance.
        name: String,
    },
    /// The disk to write to is in use.
    #[error("{} is in use: {why}", path.display())]
    InUse {
        /// The disk.
        path: PathBuf,
        /// By whom.
        why: &'static str,
    },
    /// The disk to write to is too small.
    #[error("{} has {len} bytes, the image needs {needed}", path.display())]
    TooSmall {
        /// The disk.
        path: PathBuf,
        /// Its length.
        len: u64,
        /// What is needed.
        needed: u64,
    },
    /// Neither a file nor a block device.
    #[error("{} is neither a file nor a block device", path.display())]
    NotADisk {
        /// What it is about.
        path: PathBuf,
    },
}

/// One way in which a machine does not do what it should.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Failure {
    /// A program that is needed is not there.
    #[error("{name} is not there")]
    NoProgram {
        /// Its name.
        name: &'static str,
        /// The Debian package that has it.
        package: &'static str,
    },
    /// A firmware file that is needed is not there.
    #[error("there is no UEFI firmware for {architecture}")]
    NoFirmware {
        /// For what.
        architecture: &'static str,
    },
    /// QEMU ended before it spoke.
    #[error("QEMU ended at once ({status}): {said}")]
    Exited {
        /// How it ended.
        status: String,
        /// The end of what it said.
        said: String,
    },
    /// Something did not happen in time.
    #[error("{what} did not come within {} s", after.as_secs())]
    TimedOut {
        /// What was waited for.
        what: &'static str,
        /// How long.
        after: Duration,
    },
    /// The machine ended while something was waited for.
    #[error("{name} ended before {what}")]
    Ended {
        /// The instance.
        name: String,
        /// What was waited for.
        what: &'static str,
    },
    /// The guest's own report says that setting it up failed.
    #[error("cloud-init reports {} errors", count)]
    CloudInit {
        /// How many.
        count: usize,
    },
    /// A picture that is none.
    #[error("QEMU gave no PNG picture")]
    NoPicture,
    /// What was written reads back otherwise.
    #[error("{} reads back as {found}, the image is {expected}", path.display())]
    ReadsBackOtherwise {
        /// The disk.
        path: PathBuf,
        /// What the image is.
        expected: kiln_disk::digest::ContentDigest,
        /// What was read.
        found: kiln_disk::digest::ContentDigest,
    },
}

impl Error {
    /// The stable code that scripts branch on.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Disk(error) => error.code(),
            Self::Catalog(error) => error.code(),
            Self::Qemu(error) => error.code(),
            Self::Refused(refusal) => refusal.code(),
            Self::Failed(failure) => failure.code(),
        }
    }

    /// What to do next, when there is something better than the message.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Disk(error) => error.hint().map(str::to_owned),
            Self::Catalog(error) => error.hint(),
            Self::Qemu(error) if error.is_gone() => {
                Some("kiln ps shows whether it runs, kiln logs what it said".to_owned())
            }
            Self::Qemu(_) => None,
            Self::Refused(refusal) => refusal.hint(),
            Self::Failed(failure) => failure.hint(),
        }
    }

    /// Who should look at it.
    #[must_use]
    pub fn family(&self) -> Family {
        match self {
            Self::Catalog(error) => error.family(),
            Self::Disk(kiln_disk::Error::Cancelled) => Family::Cancelled,
            Self::Refused(_) | Self::Disk(kiln_disk::Error::Refused { .. }) => Family::Refused,
            Self::Disk(kiln_disk::Error::Malformed { .. }) => Family::Malformed,
            Self::Disk(kiln_disk::Error::Unsupported { .. }) => Family::Unsupported,
            _ => Family::Io,
        }
    }
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

impl Refusal {
    /// The stable code.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Amount { .. } => "instance.amount",
            Self::Shrink { .. } => "instance.disk.shrink",
            Self::Unsound { .. } => "instance.image.unsound",
            Self::Guest { .. } => "instance.image.guest",
            Self::Architecture { .. } => "instance.architecture",
            Self::Port { .. } => "instance.port",
            Self::Network { .. } => "instance.network",
            Self::UserData(_) => "instance.user-data",
            Self::Key { .. } => "instance.ssh-key",
            Self::Running { .. } => "instance.running",
            Self::NotRunning { .. } => "instance.not-running",
            Self::NoSshPort { .. } => "instance.no-ssh-port",
            Self::NothingAside { .. } => "instance.nothing-aside",
            Self::InUse { .. } => "restore.in-use",
            Self::TooSmall { .. } => "restore.too-small",
            Self::NotADisk { .. } => "restore.not-a-disk",
        }
    }

    /// Whether the words of the command line are at fault, and nothing else.
    #[must_use]
    pub fn is_usage(&self) -> bool {
        matches!(self, Self::Amount { .. } | Self::Network { .. })
    }

    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Unsound { image, .. } => {
                format!("kiln show {image} tells what was found; --force starts it all the same")
            }
            Self::Guest { image, .. } => {
                format!("kiln check --for kvm {image} tells how to mend it; --force starts it all the same")
            }
            Self::Shrink { .. } => "leave --disk out, or give a larger size".to_owned(),
            Self::Port { .. } => "choose another port, or leave --forward out and have one chosen".to_owned(),
            Self::UserData(UserDataProblem::UnknownKind) => {
                "begin the file with #cloud-config, or #! for a script".to_owned()
            }
            Self::Key { .. } => "give the public half, for example ~/.ssh/id_ed25519.pub".to_owned(),
            Self::Running { name } => format!("kiln stop {name}"),
            Self::NotRunning { name } => format!("kiln start {name}"),
            Self::NoSshPort { .. } => "launch it with --network user, or --forward PORT:22".to_owned(),
            Self::InUse { .. } => "stop whoever uses it, or unmount it, and try again".to_owned(),
            Self::TooSmall { .. } => "choose a larger disk".to_owned(),
            _ => return None,
        })
    }
}

impl Failure {
    /// The stable code.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::NoProgram { .. } => "instance.no-program",
            Self::NoFirmware { .. } => "instance.no-firmware",
            Self::Exited { .. } => "instance.qemu",
            Self::TimedOut { .. } => "instance.timeout",
            Self::Ended { .. } => "instance.ended",
            Self::CloudInit { .. } => "instance.cloud-init",
            Self::NoPicture => "instance.screenshot",
            Self::ReadsBackOtherwise { .. } => "output.differs",
        }
    }

    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::NoProgram { package, .. } => format!("apt install {package}"),
            Self::NoFirmware { .. } => "apt install ovmf, or start it with --firmware bios".to_owned(),
            Self::Ended { name, .. } => format!("kiln logs {name}"),
            Self::TimedOut { .. } => {
                "kiln logs shows what the guest printed; --timeout waits longer".to_owned()
            }
            Self::CloudInit { .. } => "kiln logs, and in the guest: cloud-init status --long".to_owned(),
            Self::ReadsBackOtherwise { .. } => "check the disk and its cable, then try again".to_owned(),
            Self::Exited { .. } | Self::NoPicture => return None,
        })
    }
}

/// An [`enum@Error`] for a failed file operation.
pub(crate) fn io(
    operation: &'static str,
    path: &std::path::Path,
    source: impl Into<std::io::Error>,
) -> Error {
    kiln_disk::Error::io(operation, path.display().to_string(), source).into()
}
