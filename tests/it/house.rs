//! The rules of the house, held against the sources and the documents. Places that break one today are
//! listed in `house/exceptions.txt`.

mod english;
mod exceptions;
mod imports;
mod names;
mod purity;
mod sizes;
mod source;

use std::fs;
use std::path::Path;

/// The names that belong to no test; a test is written `module::name`.
pub fn missing(named: &[&str]) -> Vec<String> {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it");
    let mut missing = Vec::new();
    for test in named {
        let Some((module, name)) = test.rsplit_once("::") else {
            missing.push(format!("`{test}` names no module"));
            continue;
        };
        let source = fs::read_to_string(tests.join(format!("{module}.rs"))).unwrap_or_default();
        if !source.contains(&format!("fn {name}()")) {
            missing.push(format!("`{test}` does not exist"));
        }
    }
    missing
}

#[test]
fn every_test_that_the_security_document_names_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let document = fs::read_to_string(root.join("docs/security.md")).expect("the document");
    let named: Vec<&str> = document.split('`').skip(1).step_by(2).filter(|text| is_test(text)).collect();
    assert!(named.len() > 20, "only {} tests are named", named.len());
    let missing = missing(&named);
    assert!(missing.is_empty(), "{missing:#?}");
    // Every point of RFC 8725, section 3.
    for point in 1..=12 {
        assert!(document.contains(&format!("\n| 3.{point} ")), "3.{point} has no row");
    }
}

/// `module::a_name_that_is_a_sentence`
fn is_test(text: &str) -> bool {
    let word = |part: &str| part.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
    text.split_once("::").is_some_and(|(module, name)| word(module) && word(name))
}

/// Every promise that the table of `docs/CONFIG_RELOAD.md` must have a row for.
const PROMISES: [u32; 37] = [
    1, 2, 3, 4, 5, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 23, 24, 25, 26, 30, 32, 35, 36,
    37, 38, 39, 40, 41, 45, 46, 47, 48,
];

/// A row of that table. A row without ids goes on with the promise above it.
struct Row<'a> {
    ids: Vec<u32>,
    tests: Vec<&'a str>,
}

fn rows(table: &str) -> Vec<Row<'_>> {
    let mut rows: Vec<Row<'_>> = Vec::new();
    for line in table.lines().filter(|line| line.starts_with("| G") || line.starts_with("| |")) {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let [_, ids, .., tests, _] = cells.as_slice() else { continue };
        if *tests == "Test" {
            continue;
        }
        let ids = match rows.last() {
            Some(above) if ids.is_empty() => above.ids.clone(),
            _ => numbers(ids),
        };
        let tests: Vec<&str> = tests.split('`').skip(1).step_by(2).collect();
        if !ids.is_empty() {
            rows.push(Row { ids, tests });
        }
    }
    rows
}

/// The numbers in a list of ids: `G15, G19`.
fn numbers(ids: &str) -> Vec<u32> {
    ids.split(',').filter_map(|id| id.trim().strip_prefix('G')?.parse().ok()).collect()
}

#[test]
fn every_promise_has_a_row_and_every_row_a_test() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let table = fs::read_to_string(root.join("docs/CONFIG_RELOAD.md")).expect("the table");
    let rows = rows(&table);

    let promised: Vec<u32> = rows.iter().flat_map(|row| row.ids.clone()).collect();
    let named: Vec<&str> = rows.iter().flat_map(|row| row.tests.clone()).collect();
    let mut wrong = missing(&named);
    wrong.extend(
        rows.iter().filter(|row| row.tests.is_empty()).map(|row| format!("no test for {:?}", row.ids)),
    );
    wrong.extend(PROMISES.iter().filter(|id| !promised.contains(id)).map(|id| format!("G{id} has no row")));
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// A test says in a comment above it which promises it holds: `// Promises G15, G19.`
#[test]
fn the_rows_of_a_promise_name_the_tests_that_hold_it() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let table = fs::read_to_string(root.join("docs/CONFIG_RELOAD.md")).expect("the table");
    let rows = rows(&table);
    let (mut count, mut wrong) = (0, Vec::new());
    for source in source::sources("tests/it") {
        let module = source.name.trim_start_matches("tests/it/").trim_end_matches(".rs");
        for part in source.text.split("\n// Promise").skip(1) {
            let ids = part.trim_start_matches("s ").trim_start().split('.').next().unwrap_or_default();
            let name =
                part.split_once("fn ").and_then(|(_, rest)| rest.split('(').next()).unwrap_or_default();
            let test = format!("{module}::{name}");
            for id in numbers(ids) {
                count += 1;
                if !rows.iter().any(|row| row.ids.contains(&id) && row.tests.contains(&test.as_str())) {
                    wrong.push(format!("no row of G{id} names {test}"));
                }
            }
        }
    }

    assert!(count > 40, "only {count} promises stand above tests");
    assert!(wrong.is_empty(), "{wrong:#?}");
}
