//! As much of YAML as netplan's and cloud-init's files use: maps by indentation, lists of scalars in both spellings.
//!
//! Gives every scalar with the keys that lead to it and its line. Anchors, block texts and documents in a row are not
//! read; a file that uses them shows fewer scalars, never wrong ones.

/// A scalar.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Scalar {
    /// Keys from the outermost on.
    pub(crate) keys: Vec<String>,
    /// The value, without quotes; a list's items come one by one.
    pub(crate) value: String,
    /// Its line, from 1.
    pub(crate) line: u32,
}

impl Scalar {
    /// Whether the keys end so.
    pub(crate) fn ends(&self, keys: &[&str]) -> bool {
        self.keys.len() >= keys.len() && self.keys.iter().rev().zip(keys.iter().rev()).all(|(a, b)| a == b)
    }
}

/// Deeper nesting is not read.
const MAX_DEPTH: usize = 32;

/// All scalars of a text.
pub(crate) fn scalars(text: &str) -> Vec<Scalar> {
    let (mut open, mut found) = (Vec::<(usize, String)>::new(), Vec::new());
    for (number, raw) in (1_u32..).zip(text.lines()) {
        let line = without_comment(raw);
        let trimmed = line.trim_start();
        if trimmed.is_empty() || trimmed == "---" {
            continue;
        }
        let mut indent = line.len().saturating_sub(trimmed.len());
        let (mut content, mut item) = (trimmed, false);
        // The dash of a list may stand as deep as its key; what follows the dash is deeper than the dash.
        let dash = indent;
        while let Some(rest) = content.strip_prefix("- ") {
            item = true;
            indent = indent.saturating_add(content.len().saturating_sub(rest.trim_start().len()));
            content = rest.trim_start();
        }
        while let Some((depth, _)) = open.last() {
            if *depth < dash || (item && *depth == dash) {
                break;
            }
            open.pop();
        }
        let keys: Vec<String> = open.iter().map(|(_, key)| key.clone()).collect();
        match content.split_once(':').filter(|(_, value)| value.is_empty() || value.starts_with(' ')) {
            Some((key, value)) if !content.starts_with(['"', '[', '{']) || key.ends_with('"') => {
                let key = crate::text::unquoted(key.trim()).to_owned();
                let (value, mut keys) = (value.trim(), keys);
                keys.push(key.clone());
                if value.is_empty() {
                    if open.len() < MAX_DEPTH {
                        open.push((indent, key));
                    }
                } else {
                    flow(value, keys, number, &mut found);
                }
            }
            _ => flow(content, keys, number, &mut found),
        }
    }
    found
}

/// A value on one line: a scalar, `[a, b]`, or `{k: v}`.
fn flow(value: &str, keys: Vec<String>, line: u32, found: &mut Vec<Scalar>) {
    if let Some(items) = value.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        for item in items.split(',').map(str::trim).filter(|item| !item.is_empty()) {
            found.push(Scalar { keys: keys.clone(), value: crate::text::unquoted(item).to_owned(), line });
        }
    } else if let Some(pairs) = value.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')) {
        for (key, value) in pairs.split(',').filter_map(|pair| pair.split_once(':')) {
            let mut keys = keys.clone();
            keys.push(crate::text::unquoted(key.trim()).to_owned());
            let value = crate::text::unquoted(value.trim()).to_owned();
            found.push(Scalar { keys, value, line });
        }
    } else {
        found.push(Scalar { keys, value: crate::text::unquoted(value).to_owned(), line });
    }
}

fn without_comment(line: &str) -> &str {
    let mut quote = None;
    let mut before = ' ';
    for (at, c) in line.char_indices() {
        match (quote, c) {
            (None, '#') if before == ' ' || before == '\t' => {
                return line.get(..at).unwrap_or(line).trim_end();
            }
            (None, '"' | '\'') => quote = Some(c),
            (Some(open), _) if open == c => quote = None,
            _ => {}
        }
        before = c;
    }
    line.trim_end()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flat(text: &str) -> Vec<(String, String, u32)> {
        scalars(text).into_iter().map(|s| (s.keys.join("."), s.value, s.line)).collect()
    }

    #[test]
    fn netplan_is_read() {
        let text = "network:\n  version: 2\n  ethernets:\n    eth0:\n      dhcp4: true # yes\n      match: {macaddress: \"aa:bb\"}\n      addresses:\n        - 10.0.0.2/24\n      nameservers:\n        addresses: [1.1.1.1, 8.8.8.8]\n    eth1:\n      dhcp4: no\n";
        let expected = [
            ("network.version", "2", 2),
            ("network.ethernets.eth0.dhcp4", "true", 5),
            ("network.ethernets.eth0.match.macaddress", "\"aa:bb\"", 6),
            ("network.ethernets.eth0.addresses", "10.0.0.2/24", 8),
            ("network.ethernets.eth0.nameservers.addresses", "1.1.1.1", 10),
            ("network.ethernets.eth0.nameservers.addresses", "8.8.8.8", 10),
            ("network.ethernets.eth1.dhcp4", "no", 12),
        ];
        let got = flat(text);
        assert_eq!(got.len(), expected.len(), "{got:?}");
        for ((keys, value, line), (k, v, l)) in got.iter().zip(expected) {
            assert_eq!((keys.as_str(), value.as_str(), *line), (k, v.trim_matches('"'), l));
        }
    }

    #[test]
    fn lists_as_deep_as_their_key_belong_to_it() {
        assert_eq!(
            flat("datasource_list:\n- NoCloud\n- None\nother: 1\n"),
            [
                ("datasource_list".to_owned(), "NoCloud".to_owned(), 2),
                ("datasource_list".to_owned(), "None".to_owned(), 3),
                ("other".to_owned(), "1".to_owned(), 4),
            ]
        );
        assert_eq!(flat("a: [ x, y ]").len(), 2);
    }
}
