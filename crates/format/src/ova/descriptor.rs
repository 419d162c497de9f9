//! The OVF descriptor: DSP0243 versions 1.0 to 2.1, as far as it says which disks there are and what machine they
//! belong to.

use std::collections::HashSet;

use kiln_disk::{Error, FileOffset, Result};
use roxmltree::Node;
use serde::Serialize;

use super::hardware::Hardware;
use super::problem::OvaProblem;
use super::units::{bytes_of, digits};
use super::xml;
use crate::tar::is_plain_path;

const ENVELOPE: &str = "http://schemas.dmtf.org/ovf/envelope/";
/// VMware's name space from before the standard.
const ENVELOPE_0_9: &str = "http://www.vmware.com/schema/ovf/1/envelope";
const VMWARE: &str = "http://www.vmware.com/schema/ovf";

/// What a descriptor says. Texts are as stored; whoever prints them escapes control characters.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Descriptor {
    /// Major version of OVF: 1 or 2.
    pub version: u8,
    /// The files that belong to the appliance.
    pub files: Vec<FileRef>,
    /// Its disks, in order.
    pub disks: Vec<DiskEntry>,
    /// Its machines.
    pub systems: Vec<System>,
}

/// A file of the appliance (`References/File`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FileRef {
    /// Its id.
    pub id: String,
    /// Its name: plain, relative to the descriptor; never a way out.
    pub href: String,
    /// Its length in bytes, as declared.
    pub size_bytes: Option<u64>,
    /// `gzip`, or a word or URI of the writer's own; none when the file is as it is.
    pub compression: Option<String>,
    /// It is cut into pieces of this many bytes.
    pub chunk_bytes: Option<u64>,
    /// Byte of the element in the descriptor.
    pub at: u64,
}

/// A disk (`DiskSection/Disk`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DiskEntry {
    /// Its id.
    pub id: String,
    /// Id of its file; none for a disk that is made empty when the machine is.
    pub file: Option<String>,
    /// Its length; none when the installer of the appliance decides it.
    pub capacity_bytes: Option<u64>,
    /// Data in it, as declared.
    pub populated_bytes: Option<u64>,
    /// URI of its format.
    pub format: Option<String>,
    /// Byte of the element in the descriptor.
    pub at: u64,
}

/// A machine (`VirtualSystem`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct System {
    /// Its id.
    pub id: String,
    /// Its name, for people.
    pub name: Option<String>,
    /// Vendor, product and version.
    pub product: Option<String>,
    /// What is installed: number of the CIM operating system table.
    pub os_id: Option<u64>,
    /// What is installed, in the word of the program that wrote the descriptor: `debian11_64Guest`, `Debian_64`.
    pub os_type: Option<String>,
    /// What is installed, for people.
    pub os_description: Option<String>,
    /// What the machine is made of.
    pub hardware: Option<Hardware>,
}

impl Descriptor {
    /// Reads a descriptor, which begins at byte `at` of the user's file.
    ///
    /// # Errors
    /// [`Error::Malformed`] with an [`OvaProblem`]; [`Error::Refused`] (`ovf.length`, `ovf.depth`, `ovf.nodes`,
    /// `ovf.attributes`, `ovf.namespaces`, `ovf.files`, `ovf.disks`, `ovf.systems`); [`Error::Unsupported`] (`ovf.version`, `ovf.parent`).
    pub fn parse(bytes: &[u8], at: FileOffset) -> Result<Self> {
        let len = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        if len > xml::MAX_LEN {
            return Err(Error::Refused {
                code: "ovf.length",
                what: "bytes of the OVF descriptor".to_owned(),
                asked: len,
                allowed: xml::MAX_LEN,
                hint: "a descriptor of a real machine is far from that; the file was made to harm",
            });
        }
        let document = xml::parse(bytes, at)?;
        let root = document.root_element();
        let place = Place { base: at };
        let name = root.tag_name();
        let version = match (name.name(), name.namespace().unwrap_or_default()) {
            ("Envelope", ENVELOPE_0_9) => return Err(old_version()),
            ("Envelope", space) => match space.strip_prefix(ENVELOPE) {
                Some("2") => 2,
                // Some writers name no version, or no name space at all.
                _ => 1,
            },
            (found, _) => {
                return Err(place.wrong(root, OvaProblem::Root { found: clipped(found) }));
            }
        };
        let mut descriptor = Self { version, files: Vec::new(), disks: Vec::new(), systems: Vec::new() };
        for section in elements(root) {
            match section.tag_name().name() {
                "References" => {
                    for node in elements(section).filter(|node| node.tag_name().name() == "File") {
                        at_most(descriptor.files.len(), MOST_FILES, "ovf.files", "files")?;
                        descriptor.files.push(file(node, place)?);
                    }
                }
                "DiskSection" | "SharedDiskSection" => {
                    let is_disk =
                        |node: &Node<'_, '_>| matches!(node.tag_name().name(), "Disk" | "SharedDisk");
                    for node in elements(section).filter(is_disk) {
                        at_most(descriptor.disks.len(), MOST_DISKS, "ovf.disks", "disks")?;
                        descriptor.disks.push(disk(node, place)?);
                    }
                }
                "Section" if attribute(section, "type").is_some() => return Err(old_version()),
                _ => {}
            }
        }
        for node in root.descendants().filter(|node| node.tag_name().name() == "VirtualSystem") {
            at_most(descriptor.systems.len(), MOST_DISKS, "ovf.systems", "machines")?;
            descriptor.systems.push(system(node, place)?);
        }
        unique("File", descriptor.files.iter().map(|file| (file.id.as_str(), file.at)), place)?;
        unique("Disk", descriptor.disks.iter().map(|disk| (disk.id.as_str(), disk.at)), place)?;
        for disk in &descriptor.disks {
            if let Some(file) = &disk.file
                && descriptor.files.iter().all(|known| known.id != *file)
            {
                let problem = OvaProblem::UnknownFile { disk: disk.id.clone(), file: file.clone() };
                return Err(Error::malformed("OVF descriptor", at.saturating_add(disk.at), problem));
            }
        }
        Ok(descriptor)
    }
}

/// The most files of an appliance.
const MOST_FILES: usize = 1_024;
/// The most disks, and the most machines.
const MOST_DISKS: usize = 256;

/// Refuses one more than `allowed`.
fn at_most(count: usize, allowed: usize, code: &'static str, what: &str) -> Result<()> {
    if count < allowed {
        return Ok(());
    }
    let allowed = u64::try_from(allowed).unwrap_or(u64::MAX);
    Err(Error::Refused {
        code,
        what: format!("{what} of the appliance"),
        asked: allowed.saturating_add(1),
        allowed,
        hint: "an appliance of real machines is far from that; the file was made to harm",
    })
}

fn old_version() -> Error {
    Error::Unsupported {
        code: "ovf.version",
        feature: "an OVF descriptor of version 0.9".to_owned(),
        hint: "export the appliance again with a program of 2009 or later, or import its disk file alone",
    }
}

/// Where the descriptor is in the user's file.
#[derive(Clone, Copy)]
pub(super) struct Place {
    base: FileOffset,
}

impl Place {
    /// The error for an element.
    pub(super) fn wrong(self, node: Node<'_, '_>, problem: OvaProblem) -> Error {
        Error::malformed("OVF descriptor", self.base.saturating_add(offset(node)), problem)
    }
}

fn offset(node: Node<'_, '_>) -> u64 {
    u64::try_from(node.range().start).unwrap_or(u64::MAX)
}

/// Texts are shown and recorded: a length that does neither harm.
pub(super) fn clipped(text: &str) -> String {
    text.trim().chars().take(256).collect()
}

/// The child elements.
pub(super) fn elements<'a, 'i>(node: Node<'a, 'i>) -> impl Iterator<Item = Node<'a, 'i>> {
    node.children().filter(Node::is_element)
}

/// An attribute of OVF, or one without a name space: writers leave the prefix out.
pub(super) fn attribute<'a>(node: Node<'a, '_>, name: &str) -> Option<&'a str> {
    node.attributes()
        .find(|attribute| {
            attribute.name() == name
                && attribute.namespace().is_none_or(|space| {
                    space.starts_with(ENVELOPE) || space == "http://www.w3.org/2001/XMLSchema-instance"
                })
        })
        .map(|attribute| attribute.value().trim())
}

/// An attribute of VMware's extensions.
pub(super) fn vmware<'a>(node: Node<'a, '_>, name: &str) -> Option<&'a str> {
    node.attribute((VMWARE, name)).map(str::trim)
}

/// The first child element of this name.
pub(super) fn child<'a, 'i>(node: Node<'a, 'i>, name: &str) -> Option<Node<'a, 'i>> {
    elements(node).find(|child| child.tag_name().name() == name)
}

/// The text of the first child element of this name.
pub(super) fn child_text(node: Node<'_, '_>, name: &str) -> Option<String> {
    child(node, name)?.text().map(clipped).filter(|text| !text.is_empty())
}

fn required<'a>(
    node: Node<'a, '_>,
    element: &'static str,
    name: &'static str,
    place: Place,
) -> Result<&'a str> {
    attribute(node, name)
        .filter(|value| !value.is_empty())
        .ok_or_else(|| place.wrong(node, OvaProblem::Missing { element, attribute: name }))
}

/// An id. Those of files and disks are compared, so they are kept whole, within reason.
fn id(node: Node<'_, '_>, element: &'static str, name: &'static str, place: Place) -> Result<String> {
    let value = required(node, element, name, place)?;
    if value.len() > 256 {
        return Err(place.wrong(node, OvaProblem::Number { attribute: name, value: clipped(value) }));
    }
    Ok(value.to_owned())
}

fn number(node: Node<'_, '_>, name: &'static str, place: Place) -> Result<Option<u64>> {
    let wrong = |value| place.wrong(node, OvaProblem::Number { attribute: name, value: clipped(value) });
    attribute(node, name).map(|value| digits(value).ok_or_else(|| wrong(value))).transpose()
}

fn file(node: Node<'_, '_>, place: Place) -> Result<FileRef> {
    let href = required(node, "File", "href", place)?;
    if let Some(why) = way_out(href) {
        return Err(place.wrong(node, OvaProblem::Href { href: clipped(href), why }));
    }
    Ok(FileRef {
        id: id(node, "File", "id", place)?,
        href: href.strip_prefix("./").unwrap_or(href).to_owned(),
        size_bytes: number(node, "size", place)?,
        compression: attribute(node, "compression")
            .filter(|word| !matches!(*word, "" | "identity"))
            .map(clipped),
        chunk_bytes: number(node, "chunkSize", place)?,
        at: offset(node),
    })
}

/// Why a file reference is no plain name of a file beside the descriptor.
fn way_out(href: &str) -> Option<&'static str> {
    let scheme = href.split_once(':').is_some_and(|(scheme, _)| {
        scheme.starts_with(|c: char| c.is_ascii_alphabetic())
            && scheme.chars().all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c))
    });
    let plain = |name: &str| is_plain_path(name.strip_prefix("./").unwrap_or(name));
    if scheme {
        Some("is a URL")
    } else if href.starts_with(['/', '\\']) {
        Some("is absolute")
    } else if href.len() > crate::tar::MAX_NAME_LEN {
        Some("is longer than any name")
    } else if !plain(href) || !plain(&percent_decoded(href)) {
        Some("is no plain path beside the descriptor")
    } else {
        None
    }
}

/// The text that percent codes stand for; what is no code stays.
pub(super) fn percent_decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, behind)) = rest.split_first() {
        let code = (*first == b'%').then(|| behind.get(..2)).flatten();
        let value = code
            .filter(|code| code.iter().all(u8::is_ascii_hexdigit))
            .and_then(|code| std::str::from_utf8(code).ok())
            .and_then(|code| u8::from_str_radix(code, 16).ok());
        match value {
            Some(byte) => {
                bytes.push(byte);
                rest = behind.get(2..).unwrap_or_default();
            }
            None => {
                bytes.push(*first);
                rest = behind;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn disk(node: Node<'_, '_>, place: Place) -> Result<DiskEntry> {
    if attribute(node, "parentRef").is_some() {
        return Err(Error::Unsupported {
            code: "ovf.parent",
            feature: "a disk of an appliance that is made of another (parentRef)".to_owned(),
            hint: "export the machine again with its snapshots merged",
        });
    }
    let capacity = required(node, "Disk", "capacity", place)?;
    let units = attribute(node, "capacityAllocationUnits").filter(|units| !units.is_empty());
    // A property of the appliance, asked for when it is installed.
    let capacity_bytes =
        if capacity.starts_with("${") {
            None
        } else {
            let unit = match units {
                Some(units) => {
                    bytes_of(units).ok_or_else(|| place.wrong(node, OvaProblem::Units(clipped(units))))?
                }
                None => 1,
            };
            let bytes = digits(capacity).and_then(|count| count.checked_mul(unit));
            let value = || clipped(capacity);
            Some(bytes.ok_or_else(|| {
                place.wrong(node, OvaProblem::Number { attribute: "capacity", value: value() })
            })?)
        };
    Ok(DiskEntry {
        id: id(node, "Disk", "diskId", place)?,
        file: attribute(node, "fileRef").filter(|file| !file.is_empty()).map(str::to_owned),
        capacity_bytes,
        populated_bytes: number(node, "populatedSize", place)?,
        format: attribute(node, "format").map(clipped),
        at: offset(node),
    })
}

fn system(node: Node<'_, '_>, place: Place) -> Result<System> {
    let section = |name: &str| child(node, name);
    let product = section("ProductSection").map(|product| {
        let part = |name| child_text(product, name);
        let parts = [part("Vendor"), part("Product"), part("FullVersion").or_else(|| part("Version"))];
        parts.into_iter().flatten().collect::<Vec<_>>().join(" ")
    });
    let os = section("OperatingSystemSection");
    Ok(System {
        id: attribute(node, "id").map(clipped).unwrap_or_default(),
        name: child_text(node, "Name"),
        product: product.filter(|product| !product.is_empty()),
        os_id: os.and_then(|os| attribute(os, "id")).and_then(digits),
        os_type: os.and_then(|os| {
            let vbox = || child_text(os, "OSType");
            vmware(os, "osType").map(clipped).or_else(vbox)
        }),
        os_description: os.and_then(|os| child_text(os, "Description")),
        hardware: section("VirtualHardwareSection")
            .map(|section| Hardware::parse(section, node, place))
            .transpose()?,
    })
}

fn unique<'a>(element: &'static str, ids: impl Iterator<Item = (&'a str, u64)>, place: Place) -> Result<()> {
    let mut known = HashSet::new();
    for (id, at) in ids {
        if !known.insert(id) {
            let problem = OvaProblem::SameId { element, id: id.to_owned() };
            return Err(Error::malformed("OVF descriptor", place.base.saturating_add(at), problem));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn t_ext_10_references_that_lead_out_are_refused() {
        for (href, why) in [
            ("http://127.0.0.1/x.vmdk", "is a URL"),
            ("https://2130706433/", "is a URL"),
            ("file:///etc/passwd", "is a URL"),
            ("FILE:/etc/passwd", "is a URL"),
            ("c:\\x.vmdk", "is a URL"),
            ("data:,x", "is a URL"),
            ("/etc/passwd", "is absolute"),
            ("//host/x", "is absolute"),
            ("\\\\host\\x", "is absolute"),
            ("../x", "is no plain path beside the descriptor"),
            ("a/../../x", "is no plain path beside the descriptor"),
            ("a\\..\\x", "is no plain path beside the descriptor"),
            ("%2e%2e/x", "is no plain path beside the descriptor"),
            ("%2E%2E%2Fx", "is no plain path beside the descriptor"),
            ("%2fetc/passwd", "is no plain path beside the descriptor"),
            ("a%00b", "is no plain path beside the descriptor"),
            ("a\u{0}b", "is no plain path beside the descriptor"),
            (".", "is no plain path beside the descriptor"),
            ("a/", "is no plain path beside the descriptor"),
        ] {
            assert_eq!(way_out(href), Some(why), "{href:?}");
        }
        for href in
            ["disk.vmdk", "./disk.vmdk", "sub/disk.vmdk", "a%20b.vmdk", "100%.vmdk", "a b", "..a", "ü:x"]
        {
            assert_eq!(way_out(href), None, "{href:?}");
        }
        assert_eq!(percent_decoded("a%20b%2Fc%zz%"), "a b/c%zz%");
    }
}
