//! Text from images on its way to a terminal.
//!
//! Names of snapshots, backing files and images are a stranger's words. Printed as they are, they could move the
//! cursor, rename the window or hide what stands next to them; so control characters, and the characters that
//! reorder or hide text, are shown as `\u{..}` in everything meant for people. JSON has its own escapes.

use std::borrow::Cow;

/// `text` with everything that a terminal would obey, and everything that nobody would see, spelled out.
pub(crate) fn visible(text: &str) -> Cow<'_, str> {
    if !text.chars().any(is_hostile) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if is_hostile(c) {
            shown.extend(c.escape_unicode());
        } else {
            shown.push(c);
        }
    }
    Cow::Owned(shown)
}

/// As [`visible`], cut to `limit` characters: a name may be 64 KiB long.
pub(crate) fn visible_short(text: &str, limit: usize) -> String {
    match text.char_indices().nth(limit) {
        None => visible(text).into_owned(),
        Some((end, _)) => format!("{}…", visible(text.get(..end).unwrap_or(text))),
    }
}

fn is_hostile(c: char) -> bool {
    c.is_control()
        || matches!(c,
            // Zero width, direction marks and overrides, line separators, byte order mark, tags.
            '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escape_sequences_become_visible_and_plain_text_stays() {
        assert_eq!(visible("disk ü 1.qcow2"), "disk ü 1.qcow2");
        assert!(matches!(visible("plain"), Cow::Borrowed("plain")));
        assert_eq!(visible("\x1b]0;pwned\x07\n"), r"\u{1b}]0;pwned\u{7}\u{a}");
        assert_eq!(visible("a\u{9b}31mb"), r"a\u{9b}31mb");
        assert_eq!(visible("exe\u{202e}gnp.raw"), r"exe\u{202e}gnp.raw");
    }

    #[test]
    fn long_names_are_cut_at_a_character_not_at_a_byte() {
        assert_eq!(visible_short("äöü", 2), "äö…");
        assert_eq!(visible_short("äöü", 3), "äöü");
        assert_eq!(visible_short("\x1babc", 2), r"\u{1b}a…");
    }
}
