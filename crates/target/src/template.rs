//! Texts with places to fill in: `@name@`. A lone `@` is itself.

use std::collections::BTreeMap;

use crate::row::Escape;

/// What is filled in.
pub type Values = BTreeMap<String, String>;

/// The names that every text may use, besides the words of its own row.
pub(crate) const KNOWN: [&str; 7] =
    ["file", "file_name", "stem", "disk_bytes", "disk_gib", "firmware", "format_word"];

/// Splits a text into what stands there and the names between `@`s.
fn parts(text: &str) -> Vec<Part<'_>> {
    let mut parts = Vec::new();
    let mut rest = text;
    while let Some((before, behind)) = rest.split_once('@') {
        let name = behind.split_once('@').filter(|(name, _)| is_name(name));
        match name {
            Some((name, behind)) => {
                parts.extend([Part::Text(before), Part::Name(name)]);
                rest = behind;
            }
            None => {
                parts.extend([Part::Text(before), Part::Text("@")]);
                rest = behind;
            }
        }
    }
    parts.push(Part::Text(rest));
    parts
}

enum Part<'a> {
    Text(&'a str),
    Name(&'a str),
}

fn is_name(word: &str) -> bool {
    !word.is_empty() && word.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
}

/// The first name in a text that is none of `known`.
pub(crate) fn unknown<'a>(text: &'a str, known: impl Fn(&str) -> bool) -> Option<&'a str> {
    parts(text).into_iter().find_map(|part| match part {
        Part::Name(name) if !known(name) => Some(name),
        _ => None,
    })
}

/// A text with its places filled in. `values` are escaped, `words` (the row's own) are put in as they are.
#[must_use]
pub fn fill(text: &str, values: &Values, words: &Values, escape: Escape) -> String {
    parts(text)
        .into_iter()
        .map(|part| match part {
            Part::Text(text) => text.to_owned(),
            Part::Name(name) => match (words.get(name), values.get(name)) {
                (Some(word), _) => word.clone(),
                (None, Some(value)) => escaped(value, escape),
                (None, None) => format!("@{name}@"),
            },
        })
        .collect()
}

fn escaped(value: &str, escape: Escape) -> String {
    match escape {
        Escape::Shell => {
            let plain = |c: char| c.is_ascii_alphanumeric() || "_-./:=,+%".contains(c);
            if !value.is_empty() && value.chars().all(plain) && !value.starts_with('-') {
                value.to_owned()
            } else {
                format!("'{}'", value.replace('\'', r"'\''"))
            }
        }
        Escape::Json => value
            .chars()
            .map(|c| match c {
                '"' | '\\' => format!("\\{c}"),
                c if c.is_control() => format!("\\u{:04x}", u32::from(c)),
                c => c.to_string(),
            })
            .collect(),
        Escape::Xml => value
            .chars()
            .map(|c| match c {
                '&' => "&amp;".to_owned(),
                '<' => "&lt;".to_owned(),
                '>' => "&gt;".to_owned(),
                '"' => "&quot;".to_owned(),
                '\'' => "&apos;".to_owned(),
                // XML 1.0 has no way to write these.
                c if c.is_control() && !"\t\n\r".contains(c) => "\u{fffd}".to_owned(),
                c => c.to_string(),
            })
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_filled_in_and_escaped_and_everything_else_stays() {
        let values = Values::from([("file".to_owned(), "my 'disk'.vhd".to_owned())]);
        let words = Values::from([("flag".to_owned(), " --uefi <x>".to_owned())]);
        let filled = |text, escape| fill(text, &values, &words, escape);
        assert_eq!(
            filled("up @file@@flag@ a@b @ @X@", Escape::Shell),
            r"up 'my '\''disk'\''.vhd' --uefi <x> a@b @ @X@"
        );
        assert_eq!(filled("<a b='@file@'/>", Escape::Xml), "<a b='my &apos;disk&apos;.vhd'/>");
        assert_eq!(escaped("a\"\\\n", Escape::Json), "a\\\"\\\\\\u000a");
        assert_eq!(escaped("-x", Escape::Shell), "'-x'");
        assert_eq!(escaped("a/b-1.vhd", Escape::Shell), "a/b-1.vhd");
        assert_eq!(escaped("a\u{1}<", Escape::Xml), "a\u{fffd}&lt;");
        assert_eq!(unknown("@file@ @nosuch@", |name| name == "file"), Some("nosuch"));
    }
}
