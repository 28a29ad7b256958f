//! The patches in `tests/it/defects/`. Each breaks the program on purpose, and `make checkers` holds that
//! the test it names fails then. The test here is the cheap part: every patch still applies.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::house::missing;

/// The beginning of the line of a patch that names the test which must fail.
const CAUGHT_BY: &str = "# caught-by: ";

#[test]
fn every_defect_applies_and_names_a_test() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folder = fs::read_dir(root.join("tests/it/defects")).expect("the defects");
    let patches: Vec<_> = folder.map(|entry| entry.expect("an entry").path()).collect();
    assert!(patches.len() > 5, "only {} defects were found", patches.len());
    let mut wrong = Vec::new();
    for patch in &patches {
        let name = patch.strip_prefix(root).expect("below the root").display();
        let text = fs::read_to_string(patch).expect("a text");
        let tests: Vec<_> = text.lines().filter_map(|line| line.strip_prefix(CAUGHT_BY)).collect();
        if tests.len() != 1 {
            wrong.push(format!("{name}: not one line `{CAUGHT_BY}module::test`"));
        }
        wrong.extend(missing(&tests).into_iter().map(|problem| format!("{name}: {problem}")));
        let mut git = Command::new("git");
        let checked =
            git.current_dir(root).args(["apply", "--check"]).arg(patch).output().expect("git starts");
        if !checked.status.success() {
            wrong.push(format!("{name}: does not apply: {}", String::from_utf8_lossy(&checked.stderr)));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}
