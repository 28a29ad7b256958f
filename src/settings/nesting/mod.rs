//! How deep the brackets of a text of YAML are nested, found in one pass.
//!
//! The parser that reads the file looks at every open bracket again for every token, so that some ten
//! thousand of them keep it busy for minutes, and it only counts them afterwards. A text with many brackets
//! is therefore scanned here first. The scanner takes the same decisions as that of libyaml (`scanner.c`,
//! version 0.2) about what is a bracket and what is text in quotes, in a comment or in a block, and
//! keeps nothing of what it reads. Where libyaml would stop with an error, it stops too.

mod scalar;

use std::str::Chars;

/// The most collections in one another; the same limit that `serde_yaml` has for all of them together.
pub(super) const MAX_DEPTH: usize = 128;

/// A simple key ends within this many characters (YAML 1.1, section 9.3).
const MAX_KEY: usize = 1024;

/// The line, from 1, in which brackets are nested deeper than [`MAX_DEPTH`].
pub(super) fn too_deep(text: &str) -> Option<usize> {
    // Most files, and every item of a list of buckets, have too few brackets for it.
    let brackets = text.bytes().filter(|byte| matches!(byte, b'[' | b'{')).count();
    if brackets <= MAX_DEPTH {
        return None;
    }
    let mut scanner = Scanner::new(text);
    while scanner.token().is_some() {
        if scanner.flow > MAX_DEPTH {
            return Some(scanner.line + 1);
        }
    }
    None
}

/// The start of a token that is a key if a `:` follows it.
struct Key {
    index: usize,
    line: usize,
    column: i64,
    is_required: bool,
}

/// The state of libyaml's scanner, as far as the next token depends on it.
struct Scanner<'t> {
    rest: Chars<'t>,
    /// Characters before `rest`.
    index: usize,
    line: usize,
    column: i64,
    /// How many brackets are open.
    flow: usize,
    /// The column of the innermost block collection; -1 outside of all.
    indent: i64,
    indents: Vec<i64>,
    is_key_allowed: bool,
    /// Outside of brackets; within them a key changes nothing that matters here.
    key: Option<Key>,
}

impl<'t> Scanner<'t> {
    fn new(text: &'t str) -> Self {
        let rest = text.chars();
        let indents = Vec::new();
        Self {
            rest,
            index: 0,
            line: 0,
            column: 0,
            flow: 0,
            indent: -1,
            indents,
            is_key_allowed: true,
            key: None,
        }
    }

    /// The character at the position, and the one `ahead` of it; NUL for the end.
    fn peek(&self, ahead: usize) -> char {
        self.rest.clone().nth(ahead).unwrap_or('\0')
    }

    fn skip(&mut self) {
        if self.rest.next().is_some() {
            self.index += 1;
            self.column += 1;
        }
    }

    fn skip_line(&mut self) {
        if self.peek(0) == '\r' && self.peek(1) == '\n' {
            self.skip();
        }
        self.skip();
        self.column = 0;
        self.line += 1;
    }

    fn skip_while(&mut self, matches: impl Fn(char) -> bool) {
        while !is_end(self.peek(0)) && matches(self.peek(0)) {
            self.skip();
        }
    }

    /// Scans one token; `None` at the end and where the text is not YAML.
    fn token(&mut self) -> Option<()> {
        self.skip_to_token();
        self.expire_key()?;
        self.unroll(self.column);
        let (character, is_flow) = (self.peek(0), self.flow > 0);
        let is_alone = is_blank_or_end(self.peek(1));
        match character {
            '\0' => return None,
            '%' if self.column == 0 => {
                self.end_document()?;
                self.skip_while(|character| !is_break(character));
                self.skip_line();
            }
            _ if self.is_at_document_marker() => {
                self.end_document()?;
                (0..3).for_each(|_| self.skip());
            }
            '[' | '{' => self.open()?,
            ']' | '}' => {
                self.remove_key()?;
                self.flow = self.flow.saturating_sub(1);
                self.is_key_allowed = false;
                self.skip();
            }
            ',' => {
                self.remove_key()?;
                self.is_key_allowed = true;
                self.skip();
            }
            '-' if is_alone => self.entry(true)?,
            '?' if is_flow || is_alone => self.entry(!is_flow)?,
            ':' if is_flow || is_alone => self.value()?,
            '*' | '&' => {
                self.begin_scalar()?;
                self.skip();
                self.skip_while(|character| character.is_ascii_alphanumeric() || "_-".contains(character));
            }
            '!' => {
                self.begin_scalar()?;
                self.tag();
            }
            '|' | '>' if !is_flow => {
                self.remove_key()?;
                self.is_key_allowed = true;
                self.block_scalar()?;
            }
            '\'' | '"' => {
                self.begin_scalar()?;
                self.quoted(character)?;
            }
            '-' | '?' | ':' => self.plain()?,
            '#' | '|' | '>' | '%' | '@' | '`' | ' ' | '\t' => return None,
            _ => self.plain()?,
        }
        Some(())
    }

    fn skip_to_token(&mut self) {
        loop {
            if self.column == 0 && self.peek(0) == '\u{feff}' {
                self.skip();
            }
            let takes_tabs = self.flow > 0 || !self.is_key_allowed;
            self.skip_while(|character| character == ' ' || (takes_tabs && character == '\t'));
            if self.peek(0) == '#' {
                self.skip_while(|character| !is_break(character));
            }
            if !is_break(self.peek(0)) {
                return;
            }
            self.skip_line();
            self.is_key_allowed |= self.flow == 0;
        }
    }

    fn is_at_document_marker(&self) -> bool {
        let three = |wanted: char| (0..3).all(|ahead| self.peek(ahead) == wanted);
        self.column == 0 && (three('-') || three('.')) && is_blank_or_end(self.peek(3))
    }

    fn end_document(&mut self) -> Option<()> {
        self.unroll(-1);
        self.remove_key()?;
        self.is_key_allowed = false;
        Some(())
    }

    fn expire_key(&mut self) -> Option<()> {
        let (line, index) = (self.line, self.index);
        if self.key.as_ref().is_some_and(|key| key.line < line || key.index + MAX_KEY < index) {
            self.forget_key()?;
        }
        Some(())
    }

    fn remove_key(&mut self) -> Option<()> {
        if self.flow == 0 { self.forget_key() } else { Some(()) }
    }

    fn forget_key(&mut self) -> Option<()> {
        match self.key.take() {
            Some(key) if key.is_required => None,
            _ => Some(()),
        }
    }

    fn save_key(&mut self) -> Option<()> {
        if self.flow == 0 && self.is_key_allowed {
            self.forget_key()?;
            let (index, line, column) = (self.index, self.line, self.column);
            self.key = Some(Key { index, line, column, is_required: self.indent == column });
        }
        Some(())
    }

    fn open(&mut self) -> Option<()> {
        self.save_key()?;
        self.flow += 1;
        self.is_key_allowed = true;
        self.skip();
        Some(())
    }

    fn begin_scalar(&mut self) -> Option<()> {
        self.save_key()?;
        self.is_key_allowed = false;
        Some(())
    }

    fn roll(&mut self, column: i64) {
        if self.flow == 0 && self.indent < column {
            self.indents.push(self.indent);
            self.indent = column;
        }
    }

    fn unroll(&mut self, column: i64) {
        while self.flow == 0 && self.indent > column {
            self.indent = self.indents.pop().unwrap_or(-1);
        }
    }

    /// The `-` of a list, or the `?` of a mapping.
    fn entry(&mut self, allows_key: bool) -> Option<()> {
        if self.flow == 0 {
            if !self.is_key_allowed {
                return None;
            }
            self.roll(self.column);
        }
        self.remove_key()?;
        self.is_key_allowed = allows_key;
        self.skip();
        Some(())
    }

    /// The `:` of a mapping.
    fn value(&mut self) -> Option<()> {
        if self.flow > 0 {
            self.is_key_allowed = false;
        } else if let Some(key) = self.key.take() {
            self.roll(key.column);
            self.is_key_allowed = false;
        } else if self.is_key_allowed {
            self.roll(self.column);
        } else {
            return None;
        }
        self.skip();
        Some(())
    }
}

fn is_end(character: char) -> bool {
    character == '\0'
}

fn is_blank(character: char) -> bool {
    matches!(character, ' ' | '\t')
}

fn is_break(character: char) -> bool {
    matches!(character, '\r' | '\n' | '\u{85}' | '\u{2028}' | '\u{2029}')
}

fn is_blank_or_end(character: char) -> bool {
    is_blank(character) || is_break(character) || is_end(character)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_yaml::Value;

    #[test]
    fn only_brackets_in_one_another_are_deep() {
        let many = "x: [".to_owned() + &"{ a: [b] }, ".repeat(1_000) + "]";
        let quoted = format!("x: [{}]", "\"[[[[\", '{{{{', ".repeat(1_000));
        let block = format!("x: |\n{}y: # {}\n  z[[[[\n", "  [[[[\n".repeat(1_000), "[".repeat(1_000));
        for text in [many, quoted, block, format!("x: {}", "a[{".repeat(1_000))] {
            assert_eq!(too_deep(&text), None, "{text:.40}");
        }
        for text in [
            "[".repeat(1_000),
            "{? ".repeat(1_000),
            "[? \"]\", ".repeat(1_000),
            "- x: [".to_owned() + &"# ]]]\n [".repeat(1_000),
            "a:\n - |\n   ' [\n - '\n   ' [".to_owned() + &"{a: ".repeat(1_000),
        ] {
            assert!(too_deep(&text).is_some(), "{text:.40}");
        }
    }

    fn lists(value: &Value) -> usize {
        match value {
            Value::Sequence(items) => 1 + items.iter().map(lists).sum::<usize>(),
            Value::Mapping(entries) => entries.iter().map(|(key, entry)| lists(key) + lists(entry)).sum(),
            Value::Tagged(tagged) => lists(&tagged.value),
            _ => 0,
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(20_000))]

        /// Pieces out of which YAML without lists in block style can be built.
        #[test]
        fn a_bracket_is_one_where_the_parser_says_so(pieces in prop::collection::vec(
            prop::sample::select(vec![
                "a: ", "b: ", "c:\n", "[", "]", "[", "]", ", ", "\n", "\n  ", "\n    ", "\n ", " ", "\"", "'", "x", "y z", "# [",
                "|\n", ">-\n", "|2\n", "\"[\"", "'['", "'", "\\", "? ", ": ", ":", "&a ", "!t ", "!<t[> ", "-x", "\t", "#[", "\\\"", "\r\n",
                "'it''s'", "\"a\n b\"", "x[", "\n\n", "\nd: ", "\ne: ", "--- ", "\u{85}", "%",
            ]),
            0..20,
        )) {
            let text = pieces.concat();
            if let Ok(tree) = serde_yaml::from_str::<Value>(&text) {
                let mut scanner = Scanner::new(&text);
                let (mut opened, mut before) = (0, 0);
                while scanner.token().is_some() {
                    opened += scanner.flow.saturating_sub(before);
                    before = scanner.flow;
                }
                prop_assert_eq!(opened, lists(&tree), "{:?}", text);
                prop_assert_eq!(scanner.flow, 0);
            }
        }
    }
}
