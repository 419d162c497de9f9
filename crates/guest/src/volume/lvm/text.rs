//! The text in which LVM2 writes its metadata: `name { key = value }`, where a value is a number, a string or a list
//! of these (`libdm/libdm-config.c`). Read without recursion: sections nest as deep as [`MAX_DEPTH`], no deeper.

/// LVM2 itself nests four deep.
const MAX_DEPTH: usize = 16;
/// Sections and assignments of one text.
const MAX_NODES: usize = 1 << 18;

/// A section: assignments and sections, in their order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Node {
    values: Vec<(String, Vec<Value>)>,
    sections: Vec<(String, Node)>,
}

/// A number or a string.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// A whole number.
    Number(u64),
    /// A string, without its quotes.
    Text(String),
}

impl Value {
    /// The string.
    #[must_use]
    pub fn as_text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            Self::Number(_) => None,
        }
    }

    /// The number.
    #[must_use]
    pub fn as_number(&self) -> Option<u64> {
        match self {
            Self::Number(number) => Some(*number),
            Self::Text(_) => None,
        }
    }
}

/// What is wrong with a text; the place is a byte of it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TextFault {
    /// Something else should stand there.
    #[error("byte {at}: {expected} is missing")]
    Expected {
        /// Where.
        at: usize,
        /// What.
        expected: &'static str,
    },
    /// Sections nest too deep, or there are too many.
    #[error("byte {at}: more or deeper sections than a volume group has")]
    TooMuch {
        /// Where.
        at: usize,
    },
}

impl Node {
    /// The sections, in order.
    pub fn sections(&self) -> impl Iterator<Item = (&str, &Self)> {
        self.sections.iter().map(|(name, section)| (name.as_str(), section))
    }

    /// A section by name.
    #[must_use]
    pub fn section(&self, name: &str) -> Option<&Self> {
        self.sections().find_map(|(key, section)| (key == name).then_some(section))
    }

    /// The values of an assignment; empty when it is not there.
    #[must_use]
    pub fn list(&self, name: &str) -> &[Value] {
        self.values.iter().find(|(key, _)| key == name).map_or(&[], |(_, list)| list)
    }

    /// A single number.
    #[must_use]
    pub fn number(&self, name: &str) -> Option<u64> {
        self.list(name).first()?.as_number()
    }

    /// A single string.
    #[must_use]
    pub fn text(&self, name: &str) -> Option<&str> {
        self.list(name).first()?.as_text()
    }
}

/// Parses a text up to its first NUL.
///
/// # Errors
/// [`TextFault`].
pub fn parse(text: &[u8]) -> Result<Node, TextFault> {
    let end = text.iter().position(|byte| *byte == 0).unwrap_or(text.len());
    let mut reader = Reader { text: text.get(..end).unwrap_or_default(), at: 0 };
    let (mut open, mut nodes) = (vec![(String::new(), Node::default())], 0_usize);
    loop {
        reader.skip();
        nodes = nodes.saturating_add(1);
        if nodes > MAX_NODES || open.len() > MAX_DEPTH {
            return Err(TextFault::TooMuch { at: reader.at });
        }
        if reader.take(b'}') {
            let (name, closed) = open.pop().unwrap_or_default();
            let Some((_, parent)) = open.last_mut() else { return Err(reader.missing("a section to close")) };
            parent.sections.push((name, closed));
            continue;
        }
        let Some(name) = reader.word() else {
            return match (reader.peek(), open.len(), open.pop()) {
                (None, 1, Some((_, root))) => Ok(root),
                (None, ..) => Err(reader.missing("the end of a section")),
                _ => Err(reader.missing("a name")),
            };
        };
        reader.skip();
        if reader.take(b'{') {
            open.push((name, Node::default()));
        } else if reader.take(b'=') {
            let values = reader.values()?;
            if let Some((_, section)) = open.last_mut() {
                section.values.push((name, values));
            }
        } else {
            return Err(reader.missing("{ or ="));
        }
    }
}

struct Reader<'a> {
    text: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    fn missing(&self, expected: &'static str) -> TextFault {
        TextFault::Expected { at: self.at, expected }
    }

    fn step(&mut self) {
        self.at = self.at.saturating_add(1);
    }

    fn take(&mut self, byte: u8) -> bool {
        let found = self.peek() == Some(byte);
        if found {
            self.step();
        }
        found
    }

    /// Passes over blanks and comments.
    fn skip(&mut self) {
        while let Some(byte) = self.peek() {
            if byte == b'#' {
                while self.peek().is_some_and(|byte| byte != b'\n') {
                    self.step();
                }
            } else if byte.is_ascii_whitespace() {
                self.step();
            } else {
                break;
            }
        }
    }

    fn word(&mut self) -> Option<String> {
        let start = self.at;
        while self.peek().is_some_and(|byte| byte.is_ascii_alphanumeric() || b"_-+./".contains(&byte)) {
            self.step();
        }
        let word = self.text.get(start..self.at).filter(|word| !word.is_empty())?;
        Some(String::from_utf8_lossy(word).into_owned())
    }

    fn values(&mut self) -> Result<Vec<Value>, TextFault> {
        self.skip();
        if !self.take(b'[') {
            return Ok(vec![self.value()?]);
        }
        let mut list = Vec::new();
        loop {
            self.skip();
            if self.take(b']') {
                return Ok(list);
            }
            list.push(self.value()?);
            self.skip();
            if !self.take(b',') && self.peek() != Some(b']') {
                return Err(self.missing(", or ]"));
            }
        }
    }

    fn value(&mut self) -> Result<Value, TextFault> {
        if !self.take(b'"') {
            let word = self.word().ok_or_else(|| self.missing("a value"))?;
            return Ok(word.parse().map_or(Value::Text(word), Value::Number));
        }
        let mut text = Vec::new();
        loop {
            let byte = self.peek().ok_or_else(|| self.missing("a closing quote"))?;
            self.step();
            match byte {
                b'"' => return Ok(Value::Text(String::from_utf8_lossy(&text).into_owned())),
                b'\\' => {
                    text.extend(self.peek());
                    self.step();
                }
                _ => text.push(byte),
            }
        }
    }
}
