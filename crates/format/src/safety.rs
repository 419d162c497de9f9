//! The verdict that OpenStack gives on an image: what `oslo_utils.imageutils.format_inspector` 10.2 asks, rule by rule.
//!
//! Glance, Nova, Cinder and Ironic refuse what fails here. The rules are about trust, not about damage, and they
//! are kept as they are there, where Kiln itself would say more (a fixed VHD is "raw" to them) or less: this is for
//! comparison. Rules are only those of the formats that the file matches; a file that matches two is refused.

use kiln_disk::{ByteSource, FileOffset, Result};
use serde::Serialize;

use crate::wire::{be32, be64, bytes, in_memory, le16, le32, le64};

/// A rule, kept or broken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// `qcow2.backing_file`: format and check as OpenStack calls them.
    pub rule: &'static str,
    /// Whether the file keeps it.
    pub safe: bool,
    /// What was seen.
    pub seen: String,
    /// Where in the file.
    pub offset_bytes: u64,
}

/// What OpenStack would say.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Safety {
    /// Formats that match, by OpenStack's names; `raw` when none does.
    pub formats: Vec<&'static str>,
    /// The rules that were asked.
    pub rules: Vec<Verdict>,
}

impl Safety {
    /// Whether the image would be accepted.
    #[must_use]
    pub fn is_safe(&self) -> bool {
        self.rules.iter().all(|verdict| verdict.safe)
    }
}

/// Bytes at the beginning that any rule looks at, but for the descriptor of a VMDK.
const HEAD_LEN: u64 = 0x8001 + 2048;
/// DESC_MAX_SIZE.
const MAX_DESCRIPTOR: u64 = (1 << 20) - 1;

/// What a file begins with, and how its formats are told.
struct Look<'a> {
    source: &'a dyn ByteSource,
    head: Vec<u8>,
    rules: Vec<Verdict>,
}

/// Asks the rules. Reads at most about a megabyte.
///
/// # Errors
/// [`kiln_disk::Error::Io`].
pub fn check(source: &dyn ByteSource) -> Result<Safety> {
    let mut look = Look { source, head: part(source, 0, HEAD_LEN)?, rules: Vec::new() };
    let mut formats = Vec::new();
    let descriptor = look.descriptor()?;
    for (name, matches) in [
        ("qcow2", look.begins(512, 0, b"QFI\xfb")),
        ("vhd", look.begins(512, 0, b"conectix")),
        ("vhdx", look.begins(512, 0, b"vhdxfile")),
        ("vmdk", descriptor.is_some()),
        ("vdi", look.begins(512, 0x40, &0xbeda_107f_u32.to_le_bytes())),
        ("qed", look.begins(512, 0, b"QED\0")),
        ("iso", look.begins(0x8001 + 5, 0x8001, b"CD001")),
        ("gpt", look.is_boot_record()),
        ("luks", look.begins(592, 0, b"LUKS\xba\xbe")),
    ] {
        if matches {
            formats.push(name);
        }
    }
    if formats.len() > 1 {
        look.rule("format.single", false, format!("matches {} at once", formats.join(" and ")), 0);
    }
    for format in &formats {
        match *format {
            "qcow2" => look.qcow2(),
            "qed" => look.rule("qed.banned", false, "this format is not allowed".to_owned(), 0),
            "vmdk" => look.vmdk(descriptor.as_ref())?,
            "gpt" => look.boot_record(),
            "luks" => {
                let version = look.head.get(6..8).and_then(|at| at.first_chunk().copied());
                let version = version.map_or(0, u16::from_be_bytes);
                look.rule("luks.version", version == 1, format!("version {version}, 1 is allowed"), 6);
            }
            _ => {}
        }
    }
    if formats.is_empty() {
        formats.push("raw");
    }
    if look.rules.is_empty() {
        let name = formats.first().copied().unwrap_or("raw");
        look.rule("null", true, format!("{name} has no rules"), 0);
    }
    Ok(Safety { formats, rules: look.rules })
}

/// A VMDK's text and where it is; the text is empty when it cannot be read.
struct Descriptor {
    text: String,
    at: u64,
    has_footer: bool,
}

impl Look<'_> {
    /// Whether the bytes are at `at` of a file of at least `len` bytes.
    fn begins(&self, len: u64, at: usize, magic: &[u8]) -> bool {
        self.source.byte_len() >= len && self.head.get(at..).is_some_and(|rest| rest.starts_with(magic))
    }

    fn rule(&mut self, rule: &'static str, safe: bool, seen: String, offset_bytes: u64) {
        self.rules.push(Verdict { rule, safe, seen, offset_bytes });
    }

    fn qcow2(&mut self) {
        let backing = be64(&self.head, 8).unwrap_or(0);
        let features = be64(&self.head, 72).unwrap_or(0);
        let version = be32(&self.head, 4).unwrap_or(0);
        let seen = if backing == 0 { "none".to_owned() } else { format!("named at byte {backing:#x}") };
        self.rule("qcow2.backing_file", backing == 0, seen, 8);
        let data_file = features & 4 != 0;
        // The inspector reads the field in version 2 as well, where it is something else: so it is asked.
        let seen = if data_file { "incompatible feature bit 2 is set" } else { "none" };
        self.rule("qcow2.data_file", !data_file, seen.to_owned(), 72);
        let unknown = features & !0xf;
        let (safe, seen) = match version {
            2 => (true, "version 2 has no features".to_owned()),
            3 => (unknown == 0, format!("incompatible features {features:#x}, bits 0 to 3 are known")),
            other => (false, format!("version {other}")),
        };
        self.rule("qcow2.unknown_features", safe, seen, if version == 3 { 72 } else { 4 });
    }

    /// The descriptor of what matches as VMDK: a sparse header, or text with a createType.
    fn descriptor(&self) -> Result<Option<Descriptor>> {
        let lower = |raw: &[u8]| {
            let end = raw.iter().position(|byte| *byte == 0).unwrap_or(raw.len());
            let text = raw.get(..end).unwrap_or_default();
            if text.is_ascii() { String::from_utf8_lossy(text).to_ascii_lowercase() } else { String::new() }
        };
        if self.begins(64, 0, b"KDMV") {
            let (sector, sectors) = (le64(&self.head, 28).unwrap_or(0), le64(&self.head, 36).unwrap_or(0));
            let has_footer = le64(&self.head, 56) == Some(u64::MAX);
            let known = matches!(le32(&self.head, 4), Some(1..=3)) && sector == 1;
            let len = if known { sectors.saturating_mul(512).min(MAX_DESCRIPTOR) } else { 0 };
            let text = lower(&part(self.source, 512, len)?);
            return Ok(Some(Descriptor { text, at: 512, has_footer }));
        }
        let first = self.head.get(..self.head.len().min(512)).unwrap_or_default();
        let printable = |byte: &u8| byte.is_ascii_graphic() || byte.is_ascii_whitespace() || *byte == 0x0b;
        if first.is_empty() || !first.iter().all(printable) {
            return Ok(None);
        }
        let text = lower(&part(self.source, 0, MAX_DESCRIPTOR)?);
        Ok(create_type(&text).is_some().then_some(Descriptor { text, at: 0, has_footer: false }))
    }

    fn vmdk(&mut self, descriptor: Option<&Descriptor>) -> Result<()> {
        let Some(descriptor) = descriptor else { return Ok(()) };
        let verdict = descriptor_verdict(&descriptor.text);
        let seen = verdict.clone().unwrap_or_else(|fault| fault);
        self.rule("vmdk.descriptor", verdict.is_ok(), seen, descriptor.at);
        if descriptor.has_footer {
            let at = self.source.byte_len().saturating_sub(1536);
            let end = part(self.source, at, 1536)?;
            let fault = footer_fault(&self.head, &end);
            let seen = fault.unwrap_or("as the header").to_owned();
            self.rule("vmdk.footer", fault.is_none(), seen, at);
        }
        Ok(())
    }

    /// A boot record that is none of a FAT volume.
    fn is_boot_record(&self) -> bool {
        let is_fat = bytes(&self.head, 0x10) == Some([2_u8]) && bytes(&self.head, 0x15) == Some([0xf8_u8]);
        le16(&self.head, 510) == Some(0xaa55) && !is_fat
    }

    fn boot_record(&mut self) {
        let (mut used, mut fault) = (Vec::new(), None);
        let mut protective = false;
        for (number, entry) in (0_u64..).zip(self.head.get(446..510).unwrap_or_default().chunks_exact(16)) {
            let at = number.saturating_mul(16).saturating_add(446);
            let mut found = |is_fault: bool, words: &str| {
                if is_fault && fault.is_none() {
                    fault = Some((format!("entry {number}: {words}"), at));
                }
            };
            let ([boot], [kind]) = (bytes::<1>(entry, 0).unwrap_or([0]), bytes::<1>(entry, 4).unwrap_or([0]));
            found(!matches!(boot, 0 | 0x80), "boot flag is neither 0x00 nor 0x80");
            if kind != 0 {
                used.push(number);
            }
            if kind == 0xee {
                protective = true;
                found(
                    bytes(entry, 1) != Some([0_u8, 2, 0]),
                    "the protective entry begins at another CHS than 0/2/0",
                );
                found(le32(entry, 8) != Some(1), "the protective entry begins at another sector than 1");
            }
        }
        if fault.is_none() && protective && used != [0] {
            fault = Some(("a protective entry beside others".to_owned(), 446));
        }
        if fault.is_none() && used.is_empty() {
            fault = Some(("no partition is defined".to_owned(), 446));
        }
        let safe = fault.is_none();
        let (seen, at) = fault.unwrap_or_else(|| (format!("{} partitions in the MBR", used.len()), 446));
        self.rule("gpt.mbr", safe, seen, at);
    }
}

/// The value of createType in a lower-case descriptor.
fn create_type(text: &str) -> Option<&str> {
    let (_, rest) = text.split_once("createtype=\"")?;
    let (value, _) = rest.split_once('"')?;
    (value.len() < 64).then_some(value)
}

/// What was seen when it is allowed, else what is wrong. `text` is in lower case.
fn descriptor_verdict(text: &str) -> std::result::Result<String, String> {
    if text.is_empty() {
        return Err("no descriptor".to_owned());
    }
    let kind = create_type(text).unwrap_or("none");
    if !matches!(kind, "monolithicsparse" | "streamoptimized") {
        return Err(format!("createType {kind:?}: only monolithicSparse and streamOptimized are allowed"));
    }
    let mut extents = 0_u64;
    for line in text.split('\n').map(str::trim) {
        let is_field = line.split_once('=').is_some_and(|(name, _)| !name.contains(' '));
        let first = line.split(' ').next().unwrap_or_default();
        if line.is_empty() || line.starts_with('#') || line.starts_with("ddb") || is_field {
            continue;
        }
        if !matches!(first, "rw" | "rdonly" | "noaccess") {
            return Err(format!("line {line:?} is nothing that is known"));
        }
        if line.contains('/') {
            return Err(format!("extent {line:?} has a slash in it"));
        }
        extents = extents.saturating_add(1);
    }
    if extents == 0 {
        return Err("no extents".to_owned());
    }
    Ok(format!("createType {kind:?}, {extents} extents"))
}

/// What is wrong with the last 1536 bytes: footer marker, footer, end-of-stream marker.
fn footer_fault(header: &[u8], end: &[u8]) -> Option<&'static str> {
    let footer = end.get(512..1024).unwrap_or_default();
    let same = |at: usize, len: usize| {
        let of = |from: &[u8]| from.get(at..at.saturating_add(len)).map(<[u8]>::to_vec);
        of(header) == of(footer)
    };
    let marker = |from: usize, kind: u32| {
        let raw = end.get(from..).unwrap_or_default();
        le32(raw, 8) == Some(0)
            && le32(raw, 12) == Some(kind)
            && raw.get(16..512).is_some_and(kiln_disk::zero::is_zero)
    };
    if !same(0, 4) {
        Some("the footer's signature is not the header's")
    } else if !same(4, 4) {
        Some("the footer's version is not the header's")
    } else if !same(28, 16) {
        Some("the footer names another descriptor than the header")
    } else if le64(footer, 56) == Some(u64::MAX) {
        Some("the footer points to another footer")
    } else if !marker(0, 3) {
        Some("the footer's marker is wrong")
    } else if le64(end, 1024) != Some(0) || !marker(1024, 0) {
        Some("the end-of-stream marker is wrong")
    } else {
        None
    }
}

/// Up to `len` bytes from `at`.
fn part(source: &dyn ByteSource, at: u64, len: u64) -> Result<Vec<u8>> {
    let len = source.byte_len().saturating_sub(at).min(len);
    let mut found = vec![0; in_memory(len)];
    source.read_bytes(FileOffset::new(at), &mut found)?;
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use kiln_disk::MemorySource;

    fn broken(bytes: Vec<u8>) -> (Vec<&'static str>, Vec<(&'static str, u64)>) {
        let safety = check(&MemorySource::new(bytes)).unwrap();
        let broken = safety.rules.iter().filter(|rule| !rule.safe).map(|rule| (rule.rule, rule.offset_bytes));
        let broken = broken.collect();
        (safety.formats, broken)
    }

    fn qcow2(version: u32, backing: u64, features: u64) -> Vec<u8> {
        let mut bytes = vec![0; 1024];
        bytes[..4].copy_from_slice(b"QFI\xfb");
        bytes[4..8].copy_from_slice(&version.to_be_bytes());
        bytes[8..16].copy_from_slice(&backing.to_be_bytes());
        bytes[72..80].copy_from_slice(&features.to_be_bytes());
        bytes
    }

    #[test]
    fn qcow2_rules_are_the_inspectors() {
        assert_eq!(broken(qcow2(3, 0, 0xb)), (vec!["qcow2"], vec![]));
        assert_eq!(broken(qcow2(3, 99, 0)).1, [("qcow2.backing_file", 8)]);
        assert_eq!(broken(qcow2(3, 0, 4)).1, [("qcow2.data_file", 72)]);
        assert_eq!(broken(qcow2(3, 0, 16)).1, [("qcow2.unknown_features", 72)]);
        assert_eq!(broken(qcow2(1, 0, 0)).1, [("qcow2.unknown_features", 4)]);
    }

    #[test]
    fn two_formats_at_once_and_odd_boot_records_are_refused() {
        let mut both = qcow2(3, 0, 0);
        both[510..512].copy_from_slice(&[0x55, 0xaa]);
        let (formats, rules) = broken(both);
        assert_eq!(formats, ["qcow2", "gpt"]);
        assert_eq!(rules, [("format.single", 0), ("gpt.mbr", 446)]);
        let mut mbr = vec![0; 512];
        mbr[510..].copy_from_slice(&[0x55, 0xaa]);
        mbr[446..458].copy_from_slice(&[0, 0, 2, 0, 0xee, 0, 0, 0, 1, 0, 0, 0]);
        assert_eq!(broken(mbr.clone()).1, []);
        mbr[462 + 4] = 0x83;
        assert_eq!(broken(mbr).1, [("gpt.mbr", 446)]);
    }

    #[test]
    fn descriptor_lines_must_be_known_and_name_no_path() {
        let text = |kind: &str, line: &str| {
            format!("# disk\nversion=1\ncid=1\ncreatetype=\"{kind}\"\n\n{line}\nddb.adaptertype = \"ide\"\n")
        };
        let good = "rw 8 sparse \"a.vmdk\"";
        assert!(descriptor_verdict(&text("monolithicsparse", good)).is_ok());
        assert!(descriptor_verdict(&text("monolithicflat", good)).is_err());
        assert!(descriptor_verdict(&text("streamoptimized", "rw 8 sparse \"/etc/a\"")).is_err());
        assert!(descriptor_verdict(&text("streamoptimized", "open sesame")).is_err());
        assert!(descriptor_verdict(&text("streamoptimized", "")).is_err());
        assert!(descriptor_verdict("").is_err());
    }

    #[test]
    fn anything_else_is_raw_without_rules() {
        for len in [0, 1, 63, 64, 511, 512, 40_000] {
            assert_eq!(broken(vec![0xff; len]), (vec!["raw"], vec![]), "{len}");
        }
    }
}
