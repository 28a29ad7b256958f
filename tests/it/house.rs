//! The floors: a module imports only from modules listed below it in `src/lib.rs`.

use std::fs;
use std::path::{Path, PathBuf};

#[test]
fn modules_import_downwards_only() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let map = fs::read_to_string(src.join("lib.rs")).expect("the map");
    let floors: Vec<&str> =
        map.lines().filter_map(|line| line.strip_prefix("pub mod ")?.split(';').next()).collect();
    assert!(floors.len() > 10, "{floors:?}");
    let level = |module: &str| floors.iter().position(|floor| *floor == module);
    let mut upward = Vec::new();
    let mut imports = 0;
    for file in sources(&src) {
        let relative = file.strip_prefix(&src).expect("below src");
        let module =
            relative.iter().next().and_then(|part| part.to_str()).expect("plain").trim_end_matches(".rs");
        let Some(from) = level(module) else { continue };
        for path in fs::read_to_string(&file).expect("a source").split("crate::").skip(1) {
            let to: String = path.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            let Some(target) = level(&to) else { continue };
            imports += 1;
            if target < from {
                upward.push(format!("{}: crate::{to}", relative.display()));
            }
        }
    }
    assert!(imports > 50, "only {imports} imports were found");
    assert!(upward.is_empty(), "{upward:#?}");
}

fn sources(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path());
    entries.flat_map(|path| if path.is_dir() { sources(&path) } else { vec![path] }).collect()
}
