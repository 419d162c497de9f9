//! Tar archives in a file that can be read at any place: members by position, nothing ever unpacked.
//!
//! Specifications: POSIX.1-2017 `pax` (ustar and pax interchange formats); the GNU tar manual, "Basic Tar Format"
//! and "Storing Sparse Files". The reader is our own and not a crate's because it has to see what crates put
//! right in silence: a tar archive is the classic file about which two programs disagree.

mod gcp;
mod gcp_check;
mod header;
mod image;
mod member;
pub(crate) mod passing;
mod pax;
mod problem;
mod sparse;
mod walk;
mod write;

pub use gcp::{GcpJob, write_gcp};
pub use gcp_check::read_back_gcp;
pub use image::FORMAT;
pub(crate) use image::{HIDDEN, NO_END, check_archive};
pub(crate) use member::is_plain_path;
pub use member::{Member, MemberKind};
pub(crate) use passing::{Beginning, head_of};
pub use problem::{Checksum, TarProblem};
pub use walk::{Archive, Ending, list};
pub(crate) use walk::{Walk, first_names};
pub use write::file_header;

/// The most members that an archive may have.
pub const MAX_MEMBERS: usize = 10_000;

/// The longest name that a member may have, in bytes: Linux' own limit for a path.
pub const MAX_NAME_LEN: usize = 4096;

/// The longest content of a pax or long-name header, in bytes. The sparse map of a large disk takes some.
pub const MAX_EXTENSION_LEN: u64 = 4 << 20;
