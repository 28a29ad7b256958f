//! A comment says what it is about: its first word is no relative pronoun and no word that stands for a
//! noun of another sentence.

use std::collections::BTreeSet;

use super::exceptions;
use super::source::all;

const RIDDLES: [&str; 17] = [
    "Another", "Nobody", "None", "Not", "Of", "One", "Such", "That", "Those", "What", "Whatever", "Where",
    "Which", "Who", "Whoever", "Whom", "Whose",
];

#[test]
fn no_comment_begins_with_a_word_that_leaves_the_subject_out() {
    let (mut count, mut broken) = (0, BTreeSet::new());
    for source in all() {
        count += blocks(&source.text).count();
        if blocks(&source.text).any(is_riddle) {
            broken.insert(source.name);
        }
    }

    assert!(count > 1_000, "only {count} comments were found");
    exceptions::hold("riddle", &broken);
}

/// The first line of every block of comments.
fn blocks(text: &str) -> impl Iterator<Item = &str> {
    let is_comment = |line: &str| line.trim_start().starts_with("//");
    let before = std::iter::once("").chain(text.lines());
    text.lines()
        .zip(before)
        .filter(move |(line, before)| is_comment(line) && !is_comment(before))
        .map(|(line, _)| line)
}

fn is_riddle(first: &str) -> bool {
    let words = first.trim_start().trim_start_matches('/').trim_start_matches('!').trim_start();
    let word = words.split(|c: char| !c.is_alphanumeric()).next().unwrap_or_default();
    RIDDLES.contains(&word)
}
