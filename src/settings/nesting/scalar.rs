//! The texts of YAML, which the scanner of brackets skips: plain, in quotes, in blocks, and tags.

use crate::settings::nesting::{Scanner, is_blank, is_blank_or_end, is_break, is_end};

impl Scanner<'_> {
    pub(super) fn tag(&mut self) {
        self.skip();
        if self.peek(0) == '<' {
            self.skip_while(|character| character != '>' && !is_blank_or_end(character));
            self.skip();
            return;
        }
        let is_of_tag = |c: char| c.is_ascii_alphanumeric() || "_-;/?:@&=+$.%!~*'()".contains(c);
        self.skip_while(is_of_tag);
    }

    pub(super) fn plain(&mut self) -> Option<()> {
        self.begin_scalar()?;
        let mut is_after_break = false;
        loop {
            if self.is_at_document_marker() || self.peek(0) == '#' {
                break;
            }
            while !is_blank_or_end(self.peek(0)) {
                let (character, next, is_flow) = (self.peek(0), self.peek(1), self.flow > 0);
                if is_flow && character == ':' && ",?[]{}".contains(next) {
                    return None;
                }
                if (character == ':' && is_blank_or_end(next)) || (is_flow && ",[]{}".contains(character)) {
                    break;
                }
                is_after_break = false;
                self.skip();
            }
            if !is_blank(self.peek(0)) && !is_break(self.peek(0)) {
                break;
            }
            while is_blank(self.peek(0)) || is_break(self.peek(0)) {
                if is_break(self.peek(0)) {
                    self.skip_line();
                    is_after_break = true;
                } else if is_after_break && self.column <= self.indent && self.peek(0) == '\t' {
                    return None;
                } else {
                    self.skip();
                }
            }
            if self.flow == 0 && self.column <= self.indent {
                break;
            }
        }
        self.is_key_allowed |= is_after_break;
        Some(())
    }

    pub(super) fn quoted(&mut self, quote: char) -> Option<()> {
        self.skip();
        loop {
            match self.peek(0) {
                '\0' => return None,
                _ if self.is_at_document_marker() => return None,
                character if is_break(character) => self.skip_line(),
                '\'' if quote == '\'' && self.peek(1) == '\'' => {
                    self.skip();
                    self.skip();
                }
                '\\' if quote == '"' => {
                    self.skip();
                    if is_break(self.peek(0)) { self.skip_line() } else { self.skip() }
                }
                character => {
                    self.skip();
                    if character == quote {
                        return Some(());
                    }
                }
            }
        }
    }

    pub(super) fn block_scalar(&mut self) -> Option<()> {
        self.skip();
        let mut indentation = 0;
        for _ in 0..2 {
            match self.peek(0) {
                '+' | '-' => self.skip(),
                digit @ '1'..='9' => {
                    indentation = self.indent.max(0) + i64::from(digit.to_digit(10)?);
                    self.skip();
                }
                _ => {}
            }
        }
        self.skip_while(is_blank);
        if self.peek(0) == '#' {
            self.skip_while(|character| !is_break(character));
        }
        if is_break(self.peek(0)) {
            self.skip_line();
        } else if !is_end(self.peek(0)) {
            return None;
        }
        self.block_breaks(&mut indentation)?;
        while self.column == indentation && !is_end(self.peek(0)) {
            self.skip_while(|character| !is_break(character));
            if is_break(self.peek(0)) {
                self.skip_line();
            }
            self.block_breaks(&mut indentation)?;
        }
        Some(())
    }

    /// The indentation and the empty lines before a line of a block; finds out the indentation if it is 0.
    fn block_breaks(&mut self, indentation: &mut i64) -> Option<()> {
        let mut deepest = 0;
        loop {
            while (*indentation == 0 || self.column < *indentation) && self.peek(0) == ' ' {
                self.skip();
            }
            deepest = deepest.max(self.column);
            if (*indentation == 0 || self.column < *indentation) && self.peek(0) == '\t' {
                return None;
            }
            if !is_break(self.peek(0)) {
                break;
            }
            self.skip_line();
        }
        if *indentation == 0 {
            *indentation = deepest.max(self.indent + 1).max(1);
        }
        Some(())
    }
}
