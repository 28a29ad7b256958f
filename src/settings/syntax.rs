//! Explains why a text is not YAML: in which line, and how to mend it.
//!
//! The parser's own messages name its grammar and often the line after the mistake. They are therefore
//! translated here. No message quotes the text, because a secret may stand in it.

use crate::settings::nesting::MAX_DEPTH;
use crate::settings::tree::{self, DUPLICATE_KEY, Unparsed};

/// A line, where one is known, and the message for it.
pub(super) struct Explained {
    pub line: Option<usize>,
    pub message: String,
}

/// Messages of the parser, and what to say instead.
#[rustfmt::skip]
const MESSAGES: [(&str, &str); 18] = [
    ("did not find expected '-' indicator", "the items of a list do not begin in the same column, or a line in it has too little indentation; begin every `-` of the list in one column"),
    ("did not find expected key", "the indentation of this line does not fit the lines above it; begin all keys of one mapping in the same column"),
    ("found a tab character", "a tab stands where YAML wants spaces; indent with spaces"),
    ("found unexpected document indicator", "a quoted text is not closed before `---` or `...`; close the quote"),
    ("did not find expected <document start>", "something follows after the end of the document; check the indentation of this line"),
    ("found unknown escape character", "a `\\` in double quotes begins no known escape; put the text in single quotes, or write `\\\\`"),
    ("did not find expected hexadecimal number", "an escape in double quotes is not complete; put the text in single quotes, or write `\\\\`"),
    ("did not find expected alphabetic or numeric character", "a text begins with `*` or `&`, which has a meaning in YAML; put the text in quotes"),
    ("block sequence entries are not allowed in this context", "a `-` stands where no list can begin; begin the list in a line of its own"),
    ("mapping keys are not allowed in this context", "a `?` stands where no key can be; put the text in quotes"),
    ("did not find expected node content", "a value is missing before this place, perhaps because a `,` is there twice; add the value or leave the `,` out"),
    ("found unexpected ':'", "a `:` in brackets stands before a bracket or a comma; put a space after it, or the text in quotes"),
    ("did not find expected comment or line break", "a text stands beside its `|` or `>`; begin the text in the next line"),
    ("found undefined tag handle", "a text begins with `!`, which has a meaning in YAML; put the text in quotes"),
    ("control characters are not allowed", "holds a control character; save the file as plain text"),
    ("containing more than one document", "there is more than one document; leave out the `---` between them"),
    ("unknown anchor", "a `*` names no anchor `&`; put a text that begins with `*` in quotes"),
    ("recursion limit exceeded", "collections are nested too deep; use fewer levels"),
];

/// Explains an error of the parser.
pub(super) fn explain(error: &Unparsed, text: &str) -> Explained {
    let (line, why) = match error {
        Unparsed::TooDeep { line } => (
            Some(*line),
            format!("brackets are nested deeper than {MAX_DEPTH} levels; close some, or use fewer levels"),
        ),
        Unparsed::Directives => (
            None,
            format!("more than {} lines begin with `%`; leave these directives out", tree::MAX_DIRECTIVES),
        ),
        Unparsed::Repeats => {
            let (values, bytes) = (tree::value_limit(text.len()), tree::text_limit(text.len()));
            let why = format!(
                "its aliases repeat more than a file of this size may hold, which is {values} values and {bytes} bytes of text; use fewer `*`, or write the values out"
            );
            return Explained { line: None, message: format!("the file is too large: {why}") };
        }
        Unparsed::Merge => {
            let why =
                "a merge key `<<` stands before something that is no mapping; name an anchor of a mapping";
            (None, why.to_owned())
        }
        Unparsed::Yaml(error) => translate(error, text),
    };
    Explained { line, message: format!("the file is not YAML: {why}") }
}

fn translate(error: &serde_yaml::Error, text: &str) -> (Option<usize>, String) {
    let line = error.location().map(|location| location.line());
    let message = error.to_string();
    let began = context_line(&message).or(line);
    let said = |why: &str| why.to_owned();
    // These quote a value, which may be a secret that was written without quotes.
    if message.contains("invalid type") {
        return (line, said("a number is too large; put the value in quotes"));
    }
    if message.contains("invalid value") {
        return (line, said("a value does not fit its tag; leave the tag out"));
    }
    if let Some((_, rest)) = message.split_once(DUPLICATE_KEY) {
        let key = rest.trim_start().split(' ').next().filter(|key| !matches!(*key, "" | "at"));
        let key = key.map_or(said("a key"), |key| format!("the key `{key}`"));
        return (line, format!("{key} stands twice in one mapping; leave one of them out"));
    }
    if message.contains("could not find expected ':'") {
        return (
            began,
            said("the line is no `key: value`; a space is missing after its `:`, or all of the `:`"),
        );
    }
    if message.contains("mapping values are not allowed") {
        return match line.and_then(|line| line_without_space(text, line)) {
            Some(line) => (Some(line), said("a space is missing after the `:` of this line")),
            None => (
                line,
                said("a `: ` stands where no key can be; put the text in quotes, or check the indentation"),
            ),
        };
    }
    if message.contains("found unexpected end of stream") {
        return (began, said("a quote that begins here is never closed; close it"));
    }
    if message.contains("did not find expected ',' or") {
        return (line, unclosed(&message, began));
    }
    if message.contains("cannot start any token") {
        let has_tab = line
            .and_then(|line| text.lines().nth(line - 1))
            .is_some_and(|line| line.trim_start_matches(' ').starts_with('\t'));
        return (
            line,
            if has_tab {
                said("a tab stands where YAML wants spaces; indent with spaces")
            } else {
                said(
                    "a text begins with a character that has a meaning in YAML, as `@`, `%` and `|` have; put the text in quotes",
                )
            },
        );
    }
    let known = MESSAGES.iter().find(|(theirs, _)| message.contains(theirs));
    (line, known.map_or_else(|| without_position(&message), |(_, ours)| said(ours)))
}

fn unclosed(message: &str, began: Option<usize>) -> String {
    let (open, close) = if message.contains("mapping") { ("{", "}") } else { ("[", "]") };
    let from = began.map(|line| format!(" of line {line}")).unwrap_or_default();
    format!("the `{open}`{from} is not closed before this line; add the `{close}`, or a `,` between values")
}

/// The line in which the collection or the text began that the message is about.
fn context_line(message: &str) -> Option<usize> {
    let (_, context) = message.split_once(", while ")?;
    let (_, position) = context.split_once(" at line ")?;
    position.split(' ').next()?.parse().ok()
}

/// The line `key:value` right before a line, or the line itself.
fn line_without_space(text: &str, line: usize) -> Option<usize> {
    let is_candidate = |content: &str| {
        let content = content.trim_start().trim_start_matches("- ").trim_start();
        content.split_once(':').is_some_and(|(key, rest)| {
            crate::settings::problem::is_plain(key)
                && !key.is_empty()
                && !rest.is_empty()
                && !rest.starts_with([' ', '\t', '/'])
        })
    };
    let before = text.lines().enumerate().take(line.saturating_sub(1));
    let (number, content) = before.filter(|(_, content)| !content.trim().is_empty()).last()?;
    is_candidate(content).then_some(number + 1)
}

/// The message without its position, which a problem states in its own way.
fn without_position(message: &str) -> String {
    message.split(" at line ").next().unwrap_or_default().to_owned()
}
