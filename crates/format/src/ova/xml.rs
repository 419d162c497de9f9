//! XML from a stranger: measured before it is taken apart.
//!
//! The parser behind this is safe but not cheap: a tree is several times as long as its text, and attributes and
//! name spaces of one element are compared with each other. So a scan of the text bounds them first.

use kiln_disk::{Error, FileOffset, Result};

use super::problem::OvaProblem;

/// The longest descriptor, in bytes.
pub(super) const MAX_LEN: u64 = 8 << 20;
/// Elements inside elements.
const MAX_DEPTH: u64 = 64;
/// Elements, texts and comments in all.
const MAX_NODES: u32 = 100_000;
/// Attributes of one element.
const MAX_ATTRIBUTES: u64 = 64;
/// Declarations of name spaces in all.
const MAX_NAMESPACES: u64 = 1_000;

/// Reads the bytes of a document that begins at byte `at` of the user's file.
pub(super) fn parse(bytes: &[u8], at: FileOffset) -> Result<roxmltree::Document<'_>> {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let text = std::str::from_utf8(bytes).map_err(|error| {
        let place = at.saturating_add(u64::try_from(error.valid_up_to()).unwrap_or(0));
        Error::malformed("OVF descriptor", place, OvaProblem::Encoding)
    })?;
    // ISO-8859-1 and the like would be read as UTF-8 and give other names.
    let head = text.get(..text.find("?>").unwrap_or(0)).unwrap_or_default().to_ascii_lowercase();
    if head.contains("encoding") && !head.contains("utf-8") && !head.contains("us-ascii") {
        return Err(Error::malformed("OVF descriptor", at, OvaProblem::Encoding));
    }
    measure(text, at)?;
    let options = roxmltree::ParsingOptions { nodes_limit: MAX_NODES, ..Default::default() };
    roxmltree::Document::parse_with_options(text, options).map_err(|error| {
        let place = place_of(text, error.pos());
        let problem = match error {
            roxmltree::Error::NodesLimitReached => return refused("ovf.nodes", "nodes", MAX_NODES.into()),
            roxmltree::Error::DtdDetected => OvaProblem::Doctype,
            error => OvaProblem::Xml(error.to_string()),
        };
        Error::malformed("OVF descriptor", at.saturating_add(place), problem)
    })
}

/// The byte at a line and column (both from 1, columns in characters).
fn place_of(text: &str, pos: roxmltree::TextPos) -> u64 {
    let line = usize::try_from(pos.row.saturating_sub(1)).unwrap_or(0);
    let column = usize::try_from(pos.col.saturating_sub(1)).unwrap_or(0);
    let before: usize = text.split_inclusive('\n').take(line).map(str::len).fold(0, usize::saturating_add);
    let inside: usize = text
        .get(before..)
        .unwrap_or_default()
        .chars()
        .take(column)
        .map(char::len_utf8)
        .fold(0, usize::saturating_add);
    u64::try_from(before.saturating_add(inside)).unwrap_or(0)
}

fn refused(code: &'static str, what: &str, allowed: u64) -> Error {
    Error::Refused {
        code,
        what: format!("{what} of the OVF descriptor"),
        asked: allowed.saturating_add(1),
        allowed,
        hint: "a descriptor of a real machine is far from that; the file was made to harm",
    }
}

/// Confirms that the document is of bounded depth and has bounded attributes. What is not well-formed is left to
/// the parser.
fn measure(text: &str, at: FileOffset) -> Result<()> {
    let (mut depth, mut namespaces) = (0_u64, 0_u64);
    let mut rest = text;
    while let Some(start) = rest.find('<') {
        let tag = rest.get(start..).unwrap_or_default();
        let place = text.len().saturating_sub(tag.len());
        let (skip, after) = if tag.starts_with("<!--") {
            ("-->", 4)
        } else if tag.starts_with("<![CDATA[") {
            ("]]>", 9)
        } else if tag.starts_with("<?") {
            ("?>", 2)
        } else if tag.starts_with("<!") {
            let place = at.saturating_add(u64::try_from(place).unwrap_or(0));
            return Err(Error::malformed("OVF descriptor", place, OvaProblem::Doctype));
        } else {
            ("", 1)
        };
        let body = tag.get(after..).unwrap_or_default();
        if !skip.is_empty() {
            rest = body.find(skip).and_then(|end| body.get(end..)).unwrap_or_default();
            continue;
        }
        let element = Tag::scan(body);
        if body.starts_with('/') {
            depth = depth.saturating_sub(1);
        } else {
            if element.attributes > MAX_ATTRIBUTES {
                return Err(refused("ovf.attributes", "attributes of one element", MAX_ATTRIBUTES));
            }
            namespaces = namespaces.saturating_add(element.namespaces);
            if namespaces > MAX_NAMESPACES {
                return Err(refused("ovf.namespaces", "name spaces", MAX_NAMESPACES));
            }
            if depth >= MAX_DEPTH {
                return Err(refused("ovf.depth", "nested elements", MAX_DEPTH));
            }
            depth = depth.saturating_add(u64::from(!element.empty));
        }
        rest = body.get(element.len..).unwrap_or_default();
    }
    Ok(())
}

/// What a scan of a tag finds.
struct Tag {
    /// Bytes up to its end.
    len: usize,
    attributes: u64,
    namespaces: u64,
    /// Ends with `/>`.
    empty: bool,
}

impl Tag {
    fn scan(body: &str) -> Self {
        let mut tag = Self { len: body.len(), attributes: 0, namespaces: 0, empty: false };
        let mut quote = None;
        let mut word = 0;
        let mut last = b' ';
        for (at, byte) in body.bytes().enumerate() {
            match (quote, byte) {
                (Some(open), byte) if byte == open => quote = None,
                (Some(_), _) => {}
                (None, b'"' | b'\'') => {
                    quote = Some(byte);
                    tag.attributes = tag.attributes.saturating_add(1);
                    let name = body.get(word..at).unwrap_or_default().trim_start();
                    tag.namespaces = tag.namespaces.saturating_add(u64::from(name.starts_with("xmlns")));
                }
                (None, b'>') => {
                    tag.len = at;
                    tag.empty = last == b'/';
                    return tag;
                }
                (None, b' ' | b'\t' | b'\n' | b'\r') => word = at,
                (None, _) => {}
            }
            last = byte;
        }
        tag
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(text: &str) -> &'static str {
        match parse(text.as_bytes(), FileOffset::new(100)) {
            Ok(_) => "",
            Err(error) => error.code(),
        }
    }

    #[test]
    fn bounds_are_kept_to_the_last_one() {
        let nested = |depth: usize| format!("{}{}", "<a>".repeat(depth), "</a>".repeat(depth));
        assert_eq!(
            (code(&nested(64)), code(&nested(65)), code(&nested(100_000))),
            ("", "ovf.depth", "ovf.depth")
        );
        let wide = |n: usize| {
            let attributes: String = (0..n).map(|n| format!(" a{n}=\">\"")).collect();
            format!("<a{attributes}/>")
        };
        assert_eq!((code(&wide(64)), code(&wide(65))), ("", "ovf.attributes"));
        let many = |n: usize| format!("<a>{}</a>", "<b/>".repeat(n));
        assert_eq!((code(&many(99_000)), code(&many(100_000))), ("", "ovf.nodes"));
        let spaces = |n: usize| format!("<a>{}</a>", "<b xmlns:c='d'/>".repeat(n));
        assert_eq!((code(&spaces(1_000)), code(&spaces(1_001))), ("", "ovf.namespaces"));
    }

    #[test]
    fn t_arc_03_documents_with_a_type_are_refused() {
        for text in [
            "<!DOCTYPE a [<!ENTITY x 'y'>]><a>&x;</a>",
            "<?xml version='1.0'?><!DOCTYPE a SYSTEM 'file:///etc/passwd'><a/>",
            "<a><!ELEMENT b></a>",
        ] {
            assert_eq!(code(text), "ovf.doctype", "{text}");
        }
        for text in ["<a>&x;</a>", "<a", "<a></b>", "", "<a x='1' x='2'/>", "<a><b></a></b>"] {
            assert_eq!(code(text), "ovf.xml", "{text}");
        }
        assert_eq!(code("<!-- <!DOCTYPE --><a><![CDATA[<!DOCTYPE]]><?p <!DOCTYPE?></a>"), "");
    }

    #[test]
    fn other_encodings_are_refused_and_faults_have_their_place() {
        assert_eq!(code("<?xml version='1.0' encoding='ISO-8859-1'?><a/>"), "ovf.encoding");
        assert_eq!(code("<?xml version='1.0' encoding='UTF-8'?><a/>"), "");
        assert_eq!(code("\u{feff}<a/>"), "");
        for bytes in [&b"\xff\xfe<\0a\0/\0>\0"[..], b"<a>\xff</a>"] {
            assert_eq!(parse(bytes, FileOffset::ZERO).unwrap_err().code(), "ovf.encoding");
        }
        let error = parse(b"<a>\n  <b x='1' x='2'/>\n</a>", FileOffset::new(100)).unwrap_err();
        let at = error.offset().unwrap().get();
        assert!((104..124).contains(&at), "{at}");
    }
}
