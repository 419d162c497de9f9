//! The descriptor: text that says of which extents a disk consists, alone in a file or inside its only extent.
//!
//! VMware, "Virtual Disk Format 5.0", "The Descriptor File". Lines end in LF or CRLF; a line is empty, a comment,
//! `key=value` with the value in quotes or not, or an extent: access, sectors, type, name in quotes, offset. The
//! text ends at the first NUL, where every reader stops.

use kiln_disk::{Error, FileOffset, Result};

use super::problem::VmdkProblem;

/// The most that is read: some thousand extents.
pub(super) const MAX_LEN: u64 = 256 << 10;
/// The most extents: a disk of 4 TiB in files of 2 GiB. Each is an open file.
const MAX_EXTENTS: usize = 2048;
/// A parentCID that says "no parent".
pub(super) const NO_PARENT: u32 = u32::MAX;

/// What an extent is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Flat,
    Sparse,
    Zero,
    Vmfs,
    VmfsSparse,
}

impl Kind {
    pub(super) const fn word(self) -> &'static str {
        match self {
            Self::Flat => "FLAT",
            Self::Sparse => "SPARSE",
            Self::Zero => "ZERO",
            Self::Vmfs => "VMFS",
            Self::VmfsSparse => "VMFSSPARSE",
        }
    }

    pub(super) const fn is_flat(self) -> bool {
        matches!(self, Self::Flat | Self::Vmfs)
    }

    const fn is_sparse(self) -> bool {
        matches!(self, Self::Sparse | Self::VmfsSparse)
    }
}

/// A line that describes an extent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) sectors: u64,
    pub(super) kind: Kind,
    /// Empty for [`Kind::Zero`].
    pub(super) name: String,
    /// Sectors of a flat extent's file before the extent.
    pub(super) offset: u64,
    /// Where the line starts in the file.
    pub(super) at: FileOffset,
}

/// A descriptor, taken apart. Names are the specification's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Descriptor {
    pub(super) cid: Option<u32>,
    pub(super) parent_cid: u32,
    pub(super) parent_file_name_hint: Option<String>,
    pub(super) create_type: String,
    pub(super) extents: Vec<Line>,
    /// The disk data base: names without `ddb.`, in the order of the file.
    pub(super) ddb: Vec<(String, String)>,
    /// Where the text starts in the file.
    pub(super) at: FileOffset,
}

/// Where a descriptor was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// Inside the extent that it describes.
    Embedded,
    /// In a file of its own.
    Alone,
}

impl Descriptor {
    /// Takes the text apart that starts at `at` of its file.
    ///
    /// # Errors
    /// [`Error::Malformed`] with the line's place, [`Error::Unsupported`] for kinds of disks, extents and
    /// characters that are not read.
    pub(super) fn parse(raw: &[u8], at: FileOffset, place: Place) -> Result<Self> {
        let bad = |problem| Error::malformed("descriptor", at, problem);
        let end = raw.iter().position(|byte| *byte == 0).unwrap_or(raw.len());
        let (text, behind) = raw.split_at_checked(end).unwrap_or_default();
        if is_hidden_descriptor(behind) {
            return Err(bad(VmdkProblem::DescriptorHidden));
        }
        let mut parser = Parser { encoding: encoding_of(text), ..Parser::default() };
        let mut line_at = 0_u64;
        for (number, line) in (1_u32..).zip(text.split(|byte| *byte == b'\n')) {
            parser.line(line, number, at.saturating_add(line_at))?;
            let len = u64::try_from(line.len()).unwrap_or(u64::MAX);
            line_at = line_at.saturating_add(len).saturating_add(1);
        }
        let descriptor = Self {
            cid: parser.cid,
            parent_cid: parser.parent_cid.unwrap_or(NO_PARENT),
            parent_file_name_hint: parser.parent_file_name_hint,
            create_type: parser
                .create_type
                .ok_or_else(|| bad(VmdkProblem::DescriptorIncomplete("createType")))?,
            extents: parser.extents,
            ddb: parser.ddb,
            at,
        };
        descriptor.confirm_kind(place)?;
        Ok(descriptor)
    }

    /// Whether there is a disk under this one.
    pub(super) const fn has_parent(&self) -> bool {
        self.parent_cid != NO_PARENT
    }

    /// Sectors of all extents.
    pub(super) fn sectors(&self) -> Option<u64> {
        self.extents.iter().try_fold(0_u64, |sum, line| sum.checked_add(line.sectors))
    }

    /// Holds the extents against the kind of disk that the descriptor says it is. Two readers that go by different
    /// lines would otherwise read two disks.
    fn confirm_kind(&self, place: Place) -> Result<()> {
        let sparse = |line: &Line| line.kind.is_sparse();
        let sparse_or_zero = |line: &Line| line.kind.is_sparse() || line.kind == Kind::Zero;
        let flat_or_zero = |line: &Line| line.kind.is_flat() || line.kind == Kind::Zero;
        let kind = self.create_type.as_str();
        let fits = match (place, kind) {
            (Place::Embedded, "monolithicSparse" | "streamOptimized") => {
                matches!(self.extents.as_slice(), [line] if line.kind == Kind::Sparse)
            }
            (Place::Alone, "streamOptimized") => self.extents.iter().all(sparse),
            (Place::Alone, "monolithicSparse" | "twoGbMaxExtentSparse" | "vmfsSparse") => {
                self.extents.iter().all(sparse_or_zero)
            }
            (
                Place::Alone,
                "monolithicFlat"
                | "twoGbMaxExtentFlat"
                | "vmfs"
                | "vmfsPreallocated"
                | "vmfsEagerZeroedThick"
                | "vmfsThin",
            ) => self.extents.iter().all(flat_or_zero),
            (Place::Alone, "custom") => true,
            (
                Place::Embedded,
                "twoGbMaxExtentSparse"
                | "vmfsSparse"
                | "monolithicFlat"
                | "twoGbMaxExtentFlat"
                | "vmfs"
                | "custom",
            ) => false,
            _ => {
                return Err(Error::Unsupported {
                    code: "vmdk.create-type",
                    feature: format!("a VMDK of kind {kind:?}"),
                    hint: "convert it where it was made, to streamOptimized or monolithicSparse",
                });
            }
        };
        if fits && !self.extents.is_empty() {
            return Ok(());
        }
        let mut words: Vec<&str> = self.extents.iter().map(|line| line.kind.word()).collect();
        words.dedup();
        words.truncate(8);
        let found = match words.as_slice() {
            [] => "no extents".to_owned(),
            words => format!("{} extents: {}", self.extents.len(), words.join(", ")),
        };
        let at = self.extents.first().map_or(self.at, |line| line.at);
        Err(Error::malformed("descriptor", at, VmdkProblem::Extents { kind: kind.to_owned(), found }))
    }
}

/// Text behind the first NUL is passed over by every reader: leftovers of a longer text are harmless, a second
/// descriptor is a trap for whoever does not stop there.
fn is_hidden_descriptor(behind: &[u8]) -> bool {
    let has = |word: &[u8]| behind.windows(word.len()).any(|window| window == word);
    has(b"createType") || has(b"\nRW ") || has(b"\nRDONLY ") || has(b"# Disk Descriptor")
}

/// How bytes above 127 are meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Encoding {
    #[default]
    Utf8,
    Windows1252,
    Other,
}

/// The encoding that the text names; its name is ASCII in all of them.
fn encoding_of(text: &[u8]) -> Encoding {
    let value = text.split(|byte| *byte == b'\n').find_map(|line| {
        let (key, value) = std::str::from_utf8(line).ok()?.split_once('=')?;
        key.trim().eq_ignore_ascii_case("encoding").then(|| unquoted(value).to_ascii_lowercase())
    });
    match value.as_deref() {
        None | Some("utf-8" | "us-ascii") => Encoding::Utf8,
        Some("windows-1252" | "iso-8859-1") => Encoding::Windows1252,
        Some(_) => Encoding::Other,
    }
}

#[derive(Default)]
struct Parser {
    encoding: Encoding,
    cid: Option<u32>,
    parent_cid: Option<u32>,
    parent_file_name_hint: Option<String>,
    create_type: Option<String>,
    version: Option<String>,
    extents: Vec<Line>,
    ddb: Vec<(String, String)>,
}

impl Parser {
    fn line(&mut self, raw: &[u8], number: u32, at: FileOffset) -> Result<()> {
        let raw = if number == 1 { raw.strip_prefix(b"\xef\xbb\xbf").unwrap_or(raw) } else { raw };
        let line = self.decode(raw)?;
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            return Ok(());
        }
        let bad = || {
            let text = line.chars().take(80).collect();
            Error::malformed("descriptor", at, VmdkProblem::DescriptorLine { line: number, text })
        };
        if let Some(access) = line.split_ascii_whitespace().next()
            && matches!(access, "RW" | "RDONLY" | "NOACCESS")
        {
            let rest = line.get(access.len()..).unwrap_or_default();
            let extent = extent_line(access, rest, at)?.ok_or_else(bad)?;
            if self.extents.len() >= MAX_EXTENTS {
                return Err(Error::Refused {
                    code: "vmdk.extents",
                    what: "number of extents of a VMDK".to_owned(),
                    asked: u64::try_from(self.extents.len()).unwrap_or(u64::MAX).saturating_add(1),
                    allowed: u64::try_from(MAX_EXTENTS).unwrap_or(u64::MAX),
                    hint: "convert it where it was made, to one file",
                });
            }
            self.extents.push(extent);
            return Ok(());
        }
        let (key, value) = line.split_once('=').ok_or_else(bad)?;
        let (key, value) = (key.trim(), unquoted(value));
        let hex = || u32::from_str_radix(value, 16).map_err(|_| bad());
        match key {
            "version" => once(&mut self.version, "version", value.to_owned(), at)?,
            "CID" => once(&mut self.cid, "CID", hex()?, at)?,
            "parentCID" => once(&mut self.parent_cid, "parentCID", hex()?, at)?,
            "createType" => once(&mut self.create_type, "createType", value.to_owned(), at)?,
            "parentFileNameHint" => {
                once(&mut self.parent_file_name_hint, "parentFileNameHint", value.to_owned(), at)?;
            }
            _ => {
                if let Some(name) = key.strip_prefix("ddb.") {
                    self.ddb.push((name.to_owned(), value.to_owned()));
                }
            }
        }
        if key == "version" && !matches!(value, "1" | "2" | "3" | "4") {
            return Err(Error::Unsupported {
                code: "vmdk.descriptor.version",
                feature: format!("a VMDK descriptor of version {value:?}"),
                hint: "convert it where it was made, to streamOptimized or monolithicSparse",
            });
        }
        Ok(())
    }

    fn decode(&self, line: &[u8]) -> Result<String> {
        if let Ok(text) = std::str::from_utf8(line) {
            return Ok(text.to_owned());
        }
        match self.encoding {
            // What says UTF-8 and is not was written by a program that does not know its own encoding.
            Encoding::Utf8 | Encoding::Windows1252 => {
                Ok(line.iter().map(|byte| windows_1252(*byte)).collect())
            }
            Encoding::Other => Err(Error::Unsupported {
                code: "vmdk.descriptor.encoding",
                feature: "a VMDK descriptor in this character encoding".to_owned(),
                hint: "save the descriptor as UTF-8 and set encoding=\"UTF-8\" in it",
            }),
        }
    }
}

fn once<T: PartialEq>(slot: &mut Option<T>, key: &'static str, value: T, at: FileOffset) -> Result<()> {
    match slot {
        Some(known) if *known != value => {
            Err(Error::malformed("descriptor", at, VmdkProblem::DescriptorTwice { key }))
        }
        _ => {
            *slot = Some(value);
            Ok(())
        }
    }
}

fn unquoted(value: &str) -> &str {
    let value = value.trim();
    value.strip_prefix('"').and_then(|value| value.strip_suffix('"')).unwrap_or(value)
}

/// The rest of an extent's line; `None` when it is not made as the specification says.
fn extent_line(access: &str, rest: &str, at: FileOffset) -> Result<Option<Line>> {
    let rest = rest.trim_start();
    let Some((sectors, rest)) = rest.split_once(|c: char| c.is_ascii_whitespace()) else { return Ok(None) };
    let rest = rest.trim_start();
    let (kind, rest) = rest.split_once(|c: char| c.is_ascii_whitespace()).unwrap_or((rest, ""));
    let kind = match kind {
        "FLAT" => Kind::Flat,
        "SPARSE" => Kind::Sparse,
        "ZERO" => Kind::Zero,
        "VMFS" => Kind::Vmfs,
        "VMFSSPARSE" => Kind::VmfsSparse,
        other => {
            return Err(Error::Unsupported {
                code: "vmdk.extent.kind",
                feature: format!("a VMDK extent of type {other:?}"),
                hint: "convert the disk where it was made, to streamOptimized or monolithicSparse",
            });
        }
    };
    if access == "NOACCESS" && kind != Kind::Zero {
        return Err(Error::Unsupported {
            code: "vmdk.extent.no-access",
            feature: "a VMDK extent whose data must not be read (NOACCESS)".to_owned(),
            hint: "convert the disk where it was made, with all of its extents readable",
        });
    }
    let Some(sectors) = sectors.parse::<u64>().ok().filter(|sectors| *sectors > 0) else { return Ok(None) };
    let line = |name: &str, offset| Some(Line { sectors, kind, name: name.to_owned(), offset, at });
    let rest = rest.trim();
    if kind == Kind::Zero {
        return Ok(if rest.is_empty() { line("", 0) } else { None });
    }
    let Some((name, behind)) = rest.strip_prefix('"').and_then(|rest| rest.split_once('"')) else {
        return Ok(None);
    };
    let offset = match behind.trim() {
        "" if kind != Kind::Flat => Some(0),
        number if kind.is_flat() => number.parse::<u64>().ok(),
        _ => None,
    };
    Ok(offset.and_then(|offset| line(name, offset)))
}

/// A character of Windows code page 1252; where it has none, that of ISO 8859-1.
fn windows_1252(byte: u8) -> char {
    const FROM_80: [char; 32] = [
        '\u{20ac}', '\u{81}', '\u{201a}', '\u{192}', '\u{201e}', '\u{2026}', '\u{2020}', '\u{2021}',
        '\u{2c6}', '\u{2030}', '\u{160}', '\u{2039}', '\u{152}', '\u{8d}', '\u{17d}', '\u{8f}', '\u{90}',
        '\u{2018}', '\u{2019}', '\u{201c}', '\u{201d}', '\u{2022}', '\u{2013}', '\u{2014}', '\u{2dc}',
        '\u{2122}', '\u{161}', '\u{203a}', '\u{153}', '\u{9d}', '\u{17e}', '\u{178}',
    ];
    let index = usize::from(byte).checked_sub(0x80);
    index.and_then(|index| FROM_80.get(index)).copied().unwrap_or(char::from(byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &[u8]) -> Result<Descriptor> {
        Descriptor::parse(text, FileOffset::new(512), Place::Alone)
    }

    #[test]
    fn the_specifications_own_example_is_taken_apart() {
        let text = b"# Disk DescriptorFile\r\nversion=1\r\nCID=fffffffe\r\nparentCID=ffffffff\r\n\
            createType=\"twoGbMaxExtentSparse\"\r\n\r\n# Extent description\r\n\
            RW 4192256 SPARSE \"test-s001.vmdk\"\r\nRW 2101248 SPARSE \"test s002.vmdk\"\r\nRW 64 ZERO\r\n\r\n\
            # The Disk Data Base\r\n#DDB\r\n\r\nddb.adapterType = \"ide\"\r\nddb.virtualHWVersion = \"14\"\r\n";
        let descriptor = parse(text).unwrap();
        assert_eq!((descriptor.cid, descriptor.has_parent()), (Some(0xffff_fffe), false));
        assert_eq!(descriptor.sectors(), Some(4_192_256 + 2_101_248 + 64));
        let second = &descriptor.extents[1];
        assert_eq!((second.name.as_str(), second.kind), ("test s002.vmdk", Kind::Sparse));
        let place = (second.at.get() - 512) as usize;
        assert!(text[place..].starts_with(b"RW 2101248"));
        assert_eq!(descriptor.ddb[0], ("adapterType".to_owned(), "ide".to_owned()));
    }

    #[test]
    fn names_come_out_in_unicode() {
        let with = |encoding: &str, name: &[u8]| {
            let mut text = format!("encoding=\"{encoding}\"\ncreateType=\"vmfs\"\nRW 8 VMFS \"").into_bytes();
            text.extend_from_slice(name);
            text.extend_from_slice(b"\"\n");
            parse(&text).map(|descriptor| descriptor.extents[0].name.clone())
        };
        assert_eq!(with("UTF-8", "gr\u{fc}n \u{20ac}".as_bytes()).unwrap(), "gr\u{fc}n \u{20ac}");
        assert_eq!(with("windows-1252", b"gr\xfcn \x80").unwrap(), "gr\u{fc}n \u{20ac}");
        assert_eq!(with("GBK", b"plain").unwrap(), "plain");
        assert_eq!(with("GBK", b"\xc4\xe3").unwrap_err().code(), "vmdk.descriptor.encoding");
    }

    #[test]
    fn extents_are_what_their_type_says_or_refused() {
        let with = |line: &str| parse(format!("createType=\"custom\"\n{line}\n").as_bytes());
        let extent = |line: &str| with(line).unwrap().extents[0].clone();
        assert_eq!(extent("RW 63 FLAT \"a\" 0").offset, 0);
        assert_eq!(extent("RDONLY 63 FLAT \"a\" 128").offset, 128);
        assert_eq!(extent("RW 63 VMFS \"a\"").kind, Kind::Vmfs);
        assert_eq!(extent("NOACCESS 63 ZERO").kind, Kind::Zero);
        for line in [
            "RW 63 FLAT \"a\"",
            "RW 63 SPARSE \"a\" 1",
            "RW 63 SPARSE a",
            "RW 63 ZERO \"a\"",
            "RW 0 FLAT \"a\" 0",
            "RW -1 FLAT \"a\" 0",
            "RW 1 FLAT \"a\" -1",
            "RW",
            "RW 18446744073709551616 ZERO",
            "what is this",
            "RW 63 SPARSE \"a",
        ] {
            assert_eq!(with(line).unwrap_err().code(), "vmdk.descriptor.line", "{line}");
        }
        assert_eq!(with("NOACCESS 63 FLAT \"a\" 0").unwrap_err().code(), "vmdk.extent.no-access");
        for kind in ["SESPARSE", "VMFSRDM", "VMFSRAW", "flat"] {
            assert_eq!(with(&format!("RW 63 {kind} \"a\"")).unwrap_err().code(), "vmdk.extent.kind");
        }
    }
}
