//! GRUB's script language: words, blocks, `if`, loops, functions, read as GRUB reads them.
//!
//! GRUB parses a file statement by statement and goes on behind a statement that is wrong, so a missing brace costs
//! what follows up to the end of the file and a brace too many costs its line. Source: GRUB 2.06,
//! `grub-core/script/{yylex.l,parser.y}`.

/// Statements inside one another.
const MAX_DEPTH: usize = 24;
/// Tokens of one file.
const MAX_TOKENS: usize = 200_000;

/// A piece of a word.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Piece {
    /// As written.
    Text(String),
    /// The value of a variable; split at blanks unless it stands in quotes.
    Variable { name: String, quoted: bool },
}

/// A word of a command.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Word {
    pub(super) pieces: Vec<Piece>,
    /// Some of it stands in quotes: an empty value is a word all the same.
    quoted: bool,
}

impl Word {
    /// The word, when it is plain text without quotes.
    fn plain(&self) -> Option<&str> {
        match self.pieces.as_slice() {
            [Piece::Text(text)] if !self.quoted => Some(text),
            _ => None,
        }
    }

    /// Whether quotes make it a word even where its value is empty.
    pub(super) fn is_quoted(&self) -> bool {
        self.quoted
    }

    fn push(&mut self, c: char) {
        match self.pieces.last_mut() {
            Some(Piece::Text(text)) => text.push(c),
            _ => self.pieces.push(Piece::Text(c.to_string())),
        }
    }
}

/// A statement.
#[derive(Debug, Clone)]
pub(super) enum Node {
    /// A command, with the block behind it where there is one.
    Command { line: u32, words: Vec<Word>, block: Option<Vec<Node>> },
    /// Conditions with what follows them; the last may have none.
    If { arms: Vec<(Vec<Node>, Vec<Node>)>, otherwise: Vec<Node> },
    /// `for NAME in WORDS`.
    For { name: String, words: Vec<Word>, body: Vec<Node> },
    /// `while`, or `until` when `wanted` is false.
    While { condition: Vec<Node>, wanted: bool, body: Vec<Node> },
    /// A function.
    Function { name: String, body: Vec<Node> },
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    Word(Word),
    Open,
    Close,
    /// End of a line, or `;`.
    End,
    /// `|`, `&`, `<`, `>`, a quote that nothing closes: no statement holds them.
    Wrong,
}

/// The statements of a text, and the lines of those that are wrong.
pub(super) fn parse(text: &str) -> (Vec<Node>, Vec<u32>) {
    let tokens = tokens(text);
    let mut parser = Parser { tokens: &tokens, at: 0 };
    let (mut nodes, mut wrong) = (Vec::new(), Vec::new());
    loop {
        parser.skip_ends();
        let Some((_, line)) = parser.tokens.get(parser.at) else { return (nodes, wrong) };
        let first = *line;
        match parser.statement(0) {
            Ok(node) => nodes.push(node),
            Err(Wrong) => {
                wrong.push(first);
                // The rest of the line at which it was seen is lost.
                let stop = parser.tokens.get(parser.at).map_or(u32::MAX, |(_, line)| *line);
                while parser.tokens.get(parser.at).is_some_and(|(_, line)| *line <= stop) {
                    parser.step();
                }
            }
        }
    }
}

struct Wrong;

struct Parser<'a> {
    tokens: &'a [(Token, u32)],
    at: usize,
}

impl Parser<'_> {
    fn peek(&self) -> Option<&Token> {
        self.tokens.get(self.at).map(|(token, _)| token)
    }

    fn line(&self) -> u32 {
        self.tokens.get(self.at).map_or(0, |(_, line)| *line)
    }

    fn step(&mut self) {
        self.at = self.at.saturating_add(1);
    }

    fn skip_ends(&mut self) {
        while self.peek() == Some(&Token::End) {
            self.step();
        }
    }

    fn keyword(&self) -> Option<&str> {
        match self.peek() {
            Some(Token::Word(word)) => word.plain(),
            _ => None,
        }
    }

    fn expect(&mut self, word: &str) -> Result<(), Wrong> {
        if self.keyword() == Some(word) {
            self.step();
            return Ok(());
        }
        Err(Wrong)
    }

    fn statement(&mut self, depth: usize) -> Result<Node, Wrong> {
        let depth = depth.saturating_add(1);
        if depth > MAX_DEPTH {
            return Err(Wrong);
        }
        match self.keyword() {
            Some("if") => self.condition(depth),
            Some("for") => {
                self.step();
                let name = self.keyword().ok_or(Wrong)?.to_owned();
                self.step();
                self.expect("in")?;
                let words = self.words()?;
                self.skip_ends();
                self.expect("do")?;
                let body = self.until(&["done"], depth)?;
                self.step();
                Ok(Node::For { name, words, body })
            }
            Some(word @ ("while" | "until")) => {
                let wanted = word == "while";
                self.step();
                let condition = self.until(&["do"], depth)?;
                self.step();
                let body = self.until(&["done"], depth)?;
                self.step();
                Ok(Node::While { condition, wanted, body })
            }
            Some("function") => {
                self.step();
                let name = self.keyword().ok_or(Wrong)?.to_owned();
                self.step();
                self.skip_ends();
                let body = self.block(depth)?;
                Ok(Node::Function { name, body })
            }
            Some("then" | "else" | "elif" | "fi" | "do" | "done" | "case" | "esac" | "in") => Err(Wrong),
            _ => self.command(depth),
        }
    }

    fn command(&mut self, depth: usize) -> Result<Node, Wrong> {
        let line = self.line();
        let words = self.words()?;
        if words.is_empty() {
            return Err(Wrong);
        }
        let block = if self.peek() == Some(&Token::Open) { Some(self.block(depth)?) } else { None };
        match self.peek() {
            None | Some(Token::End | Token::Close) => Ok(Node::Command { line, words, block }),
            Some(_) => Err(Wrong),
        }
    }

    fn words(&mut self) -> Result<Vec<Word>, Wrong> {
        let mut words = Vec::new();
        loop {
            match self.peek() {
                Some(Token::Word(word)) => words.push(word.clone()),
                Some(Token::Wrong) => return Err(Wrong),
                _ => return Ok(words),
            }
            self.step();
        }
    }

    fn condition(&mut self, depth: usize) -> Result<Node, Wrong> {
        let (mut arms, mut otherwise) = (Vec::new(), Vec::new());
        loop {
            self.step();
            let condition = self.until(&["then"], depth)?;
            self.step();
            let body = self.until(&["elif", "else", "fi"], depth)?;
            arms.push((condition, body));
            match self.keyword() {
                Some("elif") => {}
                Some("else") => {
                    self.step();
                    otherwise = self.until(&["fi"], depth)?;
                    self.step();
                    return Ok(Node::If { arms, otherwise });
                }
                _ => {
                    self.step();
                    return Ok(Node::If { arms, otherwise });
                }
            }
        }
    }

    /// Statements up to one of these words, which is not taken.
    fn until(&mut self, ends: &[&str], depth: usize) -> Result<Vec<Node>, Wrong> {
        let mut nodes = Vec::new();
        loop {
            self.skip_ends();
            match self.keyword() {
                Some(word) if ends.contains(&word) => return Ok(nodes),
                _ if self.peek().is_none() => return Err(Wrong),
                _ => nodes.push(self.statement(depth)?),
            }
        }
    }

    fn block(&mut self, depth: usize) -> Result<Vec<Node>, Wrong> {
        if self.peek() != Some(&Token::Open) {
            return Err(Wrong);
        }
        self.step();
        let mut nodes = Vec::new();
        loop {
            self.skip_ends();
            match self.peek() {
                None => return Err(Wrong),
                Some(Token::Close) => {
                    self.step();
                    return Ok(nodes);
                }
                Some(_) => nodes.push(self.statement(depth)?),
            }
        }
    }
}

fn tokens(text: &str) -> Vec<(Token, u32)> {
    let mut lexer = Lexer { rest: text.chars().peekable(), line: 1 };
    let mut tokens = Vec::new();
    while tokens.len() < MAX_TOKENS {
        let line = lexer.line;
        match lexer.next() {
            Some(token) => tokens.push((token, line)),
            None => break,
        }
    }
    tokens
}

struct Lexer<'a> {
    rest: std::iter::Peekable<std::str::Chars<'a>>,
    line: u32,
}

impl Lexer<'_> {
    fn take(&mut self) -> Option<char> {
        let c = self.rest.next()?;
        if c == '\n' {
            self.line = self.line.saturating_add(1);
        }
        Some(c)
    }

    fn next(&mut self) -> Option<Token> {
        while self.rest.peek().is_some_and(|c| matches!(c, ' ' | '\t' | '\r')) {
            self.take();
        }
        match *self.rest.peek()? {
            '#' => {
                while self.rest.peek().is_some_and(|c| *c != '\n') {
                    self.take();
                }
                self.next_end()
            }
            '\n' | ';' => {
                self.take();
                Some(Token::End)
            }
            '{' => {
                self.take();
                Some(Token::Open)
            }
            '}' => {
                self.take();
                Some(Token::Close)
            }
            '|' | '&' | '<' | '>' => {
                self.take();
                Some(Token::Wrong)
            }
            _ => Some(self.word()),
        }
    }

    fn next_end(&mut self) -> Option<Token> {
        self.take().map(|_| Token::End)
    }

    fn word(&mut self) -> Token {
        let mut word = Word::default();
        while let Some(c) = self.rest.peek().copied() {
            match c {
                ' ' | '\t' | '\r' | '\n' | ';' | '{' | '}' | '|' | '&' | '<' | '>' => break,
                '\\' => {
                    self.take();
                    match self.take() {
                        None | Some('\n') => {}
                        Some(c) => {
                            // What is escaped is no keyword.
                            word.quoted = true;
                            word.push(c);
                        }
                    }
                }
                '\'' => {
                    self.take();
                    word.quoted = true;
                    loop {
                        match self.take() {
                            None => return Token::Wrong,
                            Some('\'') => break,
                            Some(c) => word.push(c),
                        }
                    }
                }
                '"' => {
                    self.take();
                    word.quoted = true;
                    loop {
                        match self.take() {
                            None => return Token::Wrong,
                            Some('"') => break,
                            Some('\\') => match self.take() {
                                None => return Token::Wrong,
                                Some('\n') => {}
                                Some(c @ ('$' | '"' | '\\')) => word.push(c),
                                Some(c) => {
                                    word.push('\\');
                                    word.push(c);
                                }
                            },
                            Some('$') => self.variable(&mut word, true),
                            Some(c) => word.push(c),
                        }
                    }
                }
                '$' => {
                    self.take();
                    self.variable(&mut word, false);
                }
                c => {
                    self.take();
                    word.push(c);
                }
            }
        }
        Token::Word(word)
    }

    fn variable(&mut self, word: &mut Word, quoted: bool) {
        let mut name = String::new();
        match self.rest.peek().copied() {
            Some('{') => {
                self.take();
                while let Some(c) = self.rest.peek().copied().filter(|c| *c != '\n') {
                    self.take();
                    if c == '}' {
                        break;
                    }
                    name.push(c);
                }
            }
            Some(c @ ('?' | '#' | '@' | '*')) => {
                self.take();
                name.push(c);
            }
            _ => {
                while let Some(c) = self.rest.peek().copied().filter(|c| c.is_alphanumeric() || *c == '_') {
                    self.take();
                    name.push(c);
                }
            }
        }
        if name.is_empty() {
            word.push('$');
        } else {
            word.pieces.push(Piece::Variable { name, quoted });
        }
    }
}
