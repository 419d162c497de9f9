//! Descriptor, manifest and disks put together.

use std::sync::Arc;

use kiln_disk::digest::Digest;
use kiln_disk::{Budget, ByteSource, Cost, Error, FileOffset, Result};

use super::descriptor::{Descriptor, DiskEntry, FileRef};
use super::files::{Files, Members, Part, part};
use super::manifest::{self, Manifest};
use super::problem::OvaProblem;
use super::xml;
use crate::identify::{self, Choice};
use crate::image::{Image, OpenContext, Tolerance};
use crate::nested::{Nested, moved};
use crate::raw;
use crate::scratch::{Inside, no_room};
use crate::tar::{self, Archive, Member};

/// A machine in a file: its descriptor, and the disks that belong to it.
pub struct Appliance {
    /// What the descriptor says.
    pub descriptor: Descriptor,
    /// The manifest, when there is one.
    pub manifest: Option<Manifest>,
    /// Name of the certificate, when there is one. Kiln does not verify it.
    pub certificate: Option<String>,
    /// Name of the descriptor.
    pub name: String,
    /// Where the descriptor begins in the user's file.
    pub(super) descriptor_at: FileOffset,
    /// Name and place of the manifest.
    pub(super) manifest_part: Option<Part>,
    pub(super) files: Files,
    /// A second descriptor, passed over.
    pub(super) other_descriptor: Option<(String, FileOffset)>,
    /// Digests of the file that begins there, of an appliance that came once: it cannot be read again.
    pub(super) hashed: Option<(FileOffset, Vec<Digest>)>,
}

/// What a disk's file may be longer than its disk, beyond an eighth: tables of a small one.
const UNPACK_SLACK: u64 = 64 << 20;

/// Reads a whole small file.
fn read_small(source: &dyn ByteSource, limit: u64, what: &str, budget: &Budget) -> Result<Vec<u8>> {
    let len = source.byte_len();
    if len > limit {
        return Err(Error::Refused {
            code: "ovf.length",
            what: format!("bytes of the {what} {}", source.label()),
            asked: len,
            allowed: limit,
            hint: "that of a real machine is far from it; the file was made to harm",
        });
    }
    budget.charge(Cost::MetadataBytes, len)?;
    budget.charge(Cost::Memory, len)?;
    let mut bytes = vec![0; usize::try_from(len).unwrap_or(0)];
    source.read_bytes(FileOffset::ZERO, &mut bytes)?;
    Ok(bytes)
}

/// The last component of a path, and what is before it, with its slash.
fn split_folder(path: &str) -> (&str, &str) {
    path.rfind('/').and_then(|slash| path.split_at_checked(slash.saturating_add(1))).unwrap_or(("", path))
}

/// Whether a name has this ending, in any case.
pub(super) fn ends_with(name: &str, ending: &str) -> bool {
    let start = name.len().checked_sub(ending.len());
    start.and_then(|start| name.get(start..)).is_some_and(|tail| tail.eq_ignore_ascii_case(ending))
}

/// Whether a member is a file of this ending; those that macOS makes of extended attributes are not.
pub(super) fn is_named(member: &Member, ending: &str) -> bool {
    member.is_file()
        && member
            .plain_name()
            .is_some_and(|name| ends_with(name, ending) && !split_folder(name).1.starts_with("._"))
}

impl Appliance {
    /// Opens an OVA: a tar archive with a descriptor.
    ///
    /// # Errors
    /// As [`tar::list`] and [`Descriptor::parse`]; [`Error::Malformed`] with an [`OvaProblem`].
    pub fn open_archive(source: &Arc<dyn ByteSource>, context: &OpenContext) -> Result<Self> {
        Self::open_listed(tar::list(source, &context.budget)?, context)
    }

    /// [`Appliance::open_archive`] for an archive whose members are known.
    pub(super) fn open_listed(archive: Archive, context: &OpenContext) -> Result<Self> {
        let mut found = archive.members.iter().filter(|member| is_named(member, ".ovf"));
        let none = || Error::malformed("appliance", FileOffset::ZERO, OvaProblem::NoDescriptor);
        let member = found.next().ok_or_else(none)?;
        let path = member.plain_name().unwrap_or_default().to_owned();
        let other_descriptor = found.next().map(|other| (other.name(), other.header_at));
        if let (Some((other, at)), Tolerance::Strict) = (&other_descriptor, context.tolerance) {
            let problem = OvaProblem::Descriptors { one: path, other: other.clone() };
            return Err(Error::malformed("appliance", *at, problem));
        }
        let (folder, name) = split_folder(&path);
        let (folder, name) = (folder.to_owned(), name.to_owned());
        let stem = name.get(..name.len().saturating_sub(4)).unwrap_or_default();
        // The manifest of this descriptor, else the only one there is.
        let beside = |ending: &str| {
            let own = format!("{folder}{stem}{ending}");
            let mut all = archive.members.iter().filter(|member| is_named(member, ending));
            let exact = all
                .clone()
                .find(|member| member.plain_name().is_some_and(|name| name.eq_ignore_ascii_case(&own)));
            exact.or_else(|| all.next().filter(|_| all.next().is_none())).cloned()
        };
        let text = read_small(member.source().as_ref(), xml::MAX_LEN, "descriptor", &context.budget)?;
        let descriptor = Descriptor::parse(&text, member.data_at)?;
        let manifest_part = beside(".mf").map(|member| part(&member, &member.name()));
        let manifest = manifest_part.as_ref().map(|part| read_manifest(part, &context.budget)).transpose()?;
        Ok(Self {
            descriptor,
            manifest,
            certificate: beside(".cert").map(|member| member.name()),
            name,
            descriptor_at: member.data_at,
            manifest_part,
            other_descriptor,
            hashed: None,
            files: Files::Archive(Members::new(archive, &folder)),
        })
    }

    /// Opens a descriptor that is a file of its own. Its disks and manifest are found by `context`'s resolver.
    ///
    /// # Errors
    /// As [`Descriptor::parse`].
    pub fn open_descriptor(source: &Arc<dyn ByteSource>, context: &OpenContext) -> Result<Self> {
        let text = read_small(source.as_ref(), xml::MAX_LEN, "descriptor", &context.budget)?;
        let descriptor = Descriptor::parse(&text, FileOffset::ZERO)?;
        let files = Files::Beside(Arc::clone(&context.resolver));
        let name = split_folder(source.label()).1.to_owned();
        let stem = if ends_with(&name, ".ovf") { name.get(..name.len().saturating_sub(4)) } else { None };
        let beside = |ending: &str| {
            let name = format!("{}{ending}", stem?);
            // A neighbour that may not be looked at is as good as none.
            files.find(&name, FileOffset::ZERO).ok().flatten()
        };
        let manifest_part = beside(".mf");
        let manifest = manifest_part.as_ref().map(|part| read_manifest(part, &context.budget)).transpose()?;
        Ok(Self {
            descriptor,
            manifest,
            certificate: beside(".cert").map(|part| part.name),
            name,
            descriptor_at: FileOffset::ZERO,
            manifest_part,
            other_descriptor: None,
            hashed: None,
            files,
        })
    }

    /// The disks that have a file, in the order of the descriptor.
    pub fn disks(&self) -> impl Iterator<Item = (&DiskEntry, &FileRef)> {
        self.descriptor.disks.iter().filter_map(|disk| Some((disk, self.file_of(disk)?)))
    }

    fn file_of(&self, disk: &DiskEntry) -> Option<&FileRef> {
        let id = disk.file.as_deref()?;
        self.descriptor.files.iter().find(|file| file.id == id)
    }

    /// The disk that a user means by `part`: its number from 1, its id or the name of its file; without one, the
    /// only disk there is.
    ///
    /// # Errors
    /// [`Error::Refused`] (`ova.which-disk`, `ova.no-such-disk`), which list the disks;
    /// [`OvaProblem::NoDisk`].
    pub fn choose(&self, part: Option<&str>) -> Result<usize> {
        let count = self.disks().count();
        let listed = || {
            self.disks()
                .enumerate()
                .map(|(index, (disk, file))| {
                    let size = disk.capacity_bytes.map_or_else(String::new, |len| format!(", {len} bytes"));
                    format!("{} is {}{size}", index.saturating_add(1), file.href)
                })
                .collect::<Vec<_>>()
                .join("; ")
        };
        let refused = |code, what| {
            Err(Error::Refused {
                code,
                what,
                asked: 0,
                allowed: 0,
                hint: "choose one with --disk N, or with --disk and the name of its file",
            })
        };
        let Some(part) = part else {
            return match count {
                0 => Err(Error::malformed("appliance", self.descriptor_at, OvaProblem::NoDisk)),
                1 => Ok(0),
                _ => refused("ova.which-disk", format!("{} has {count} disks: {}", self.name, listed())),
            };
        };
        let by_number = part.parse::<usize>().ok().and_then(|number| number.checked_sub(1));
        let by_name = self.disks().position(|(disk, file)| disk.id == part || file.href == part);
        match by_number.filter(|index| *index < count).or(by_name) {
            Some(index) => Ok(index),
            None => refused("ova.no-such-disk", format!("{} has no disk {part:?}: {}", self.name, listed())),
        }
    }

    /// The file of a disk, without its compression. What it is in is found by its content; what the descriptor says
    /// of it must not be wrong.
    fn disk_part(&self, index: usize, context: &OpenContext) -> Result<Part> {
        let none =
            || Error::malformed("appliance", self.descriptor_at, OvaProblem::FileMissing(String::new()));
        let (disk, file) = self.disks().nth(index).ok_or_else(none)?;
        let at = self.descriptor_at.saturating_add(file.at);
        let part = self.files.get(file, at)?;
        let is_packed = identify::is_wrapped(part.source.as_ref())?;
        match (&file.compression, is_packed, &context.scratch) {
            (None, false, _) => Ok(part),
            (Some(word), false, _) => Err(no_room(format!(
                "the file {:?}, which the descriptor says is compressed with {word:?} and which is not,",
                file.href
            ))),
            (_, true, None) => Err(no_room(format!("the file {:?}, which is compressed,", file.href))),
            (_, true, Some(scratch)) => {
                // A container is little longer than the disk in it.
                let most = disk.capacity_bytes.map_or(u64::MAX, |capacity| {
                    capacity.saturating_add(capacity / 8).saturating_add(UNPACK_SLACK)
                });
                match scratch.unpack(&file.href, &part.source, most)? {
                    Some(Inside { source, wrappers }) => {
                        Ok(Part { source, at: None, is_sparse: false, wrappers, name: part.name })
                    }
                    None => Ok(part),
                }
            }
        }
    }

    /// Opens a disk. What it asks for it gets from the appliance itself, else from `context`'s resolver.
    ///
    /// # Errors
    /// Whatever its format says, with places that count in the user's file; [`OvaProblem::FileMissing`],
    /// [`OvaProblem::DiskFormat`].
    pub(super) fn open_disk(&self, index: usize, context: &OpenContext) -> Result<Nested> {
        let part = self.disk_part(index, context)?;
        let mut inner = context.deeper()?;
        inner.resolver = self.files.resolver(&context.resolver);
        let open = || {
            let format = identify::select(part.source.as_ref(), Choice::Detect)?;
            if *format == super::FORMAT || *format == super::OVF || *format == tar::FORMAT {
                return Err(Error::Unsupported {
                    code: "ova.nested",
                    feature: format!("{:?}, an appliance as the disk of another,", part.name),
                    hint: "unpack the outer one with tar and import the inner one",
                });
            }
            let declared = self.disks().nth(index).and_then(|(disk, _)| disk.format.clone());
            if let Some(declared) = declared.filter(|uri| *format == raw::FORMAT && names_a_container(uri)) {
                let problem = OvaProblem::DiskFormat { file: part.name.clone(), declared };
                return Err(Error::malformed("disk", FileOffset::ZERO, problem));
            }
            (format.open)(Arc::clone(&part.source), &inner)
        };
        let image: Result<Box<dyn Image>> = open();
        let image = image.map_err(|error| moved(error, part.at))?;
        Ok(Nested::new(image, part.at).packed_in(part.wrappers))
    }
}

/// Whether a format URI means a container whose first bytes would be known.
pub(super) fn names_a_container(uri: &str) -> bool {
    let uri = uri.to_ascii_lowercase();
    ["vmdk", "qcow", "vhd", "vdi"].iter().any(|word| uri.contains(word))
}

fn read_manifest(part: &Part, budget: &Budget) -> Result<Manifest> {
    Ok(Manifest::parse(&read_small(part.source.as_ref(), manifest::MAX_LEN, "manifest", budget)?))
}
