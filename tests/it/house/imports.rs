//! Imports go down. `src/lib.rs` lists the floors from roof to cellar; inside a folder, files may import
//! each other in any order, but never in a circle.

use std::collections::{BTreeMap, BTreeSet};

use super::exceptions;
use super::source::{Named, Source, named, sources};

/// The modules that each module imports, re-exports left out: importing a re-exported name counts as an
/// import from the module that defines it.
struct Imports {
    of_code: BTreeMap<String, BTreeSet<String>>,
    of_tests: BTreeMap<String, BTreeSet<String>>,
    /// The file of each module.
    names: BTreeMap<String, String>,
}

/// The modules of a tree, and where each re-exported name is defined.
#[derive(Default)]
struct Modules {
    names: BTreeSet<String>,
    reexports: BTreeMap<String, String>,
}

impl Modules {
    /// The module that defines `path`.
    fn defining(&self, path: &[String]) -> String {
        let mut path = path.to_vec();
        // A name can be re-exported by each folder that it passes.
        for _ in 0..8 {
            let length =
                (0..=path.len()).rev().find(|length| self.names.contains(&path[..*length].join("::")));
            let length = length.unwrap_or_default();
            let name = path[..path.len().min(length + 1)].join("::");
            match self.reexports.get(&name) {
                Some(target) if length < path.len() => {
                    let rest = path.split_off(length + 1);
                    path = target.split("::").map(str::to_owned).chain(rest).collect();
                }
                _ => return path[..length].join("::"),
            }
        }
        path.join("::")
    }
}

/// A path from the root of the crate.
fn absolute(base: &[&str], path: &[String]) -> Vec<String> {
    let mut whole: Vec<String> = base.iter().map(|part| (*part).to_owned()).collect();
    for part in path {
        match part.as_str() {
            "crate" => whole.clear(),
            "self" => {}
            "super" => drop(whole.pop()),
            _ => whole.push(part.clone()),
        }
    }
    whole
}

fn children(source: &Source) -> Vec<String> {
    let declaration = |line: &str| {
        let line = line.trim_start_matches("pub ").trim_start_matches("pub(crate) ");
        Some(line.strip_prefix("mod ")?.trim_end().strip_suffix(';')?.to_owned())
    };
    source.before_tests().lines().filter_map(declaration).collect()
}

fn imports(sources: &[Source]) -> Imports {
    let mut modules = Modules::default();
    for source in sources {
        let base = source.module();
        modules.names.insert(base.join("::"));
        for Named { path, is_reexport } in named(source.before_tests(), &children(source)) {
            if let Some(name) = path.last().filter(|_| is_reexport) {
                let exported = absolute(&base, std::slice::from_ref(name)).join("::");
                modules.reexports.insert(exported, absolute(&base, &path).join("::"));
            }
        }
    }
    let mut imports = Imports { of_code: BTreeMap::new(), of_tests: BTreeMap::new(), names: BTreeMap::new() };
    for source in sources {
        let base = source.module();
        let targets = |base: &[&str], code: &str, children: &[String]| -> BTreeSet<String> {
            let paths = named(code, children).into_iter().filter(|named| !named.is_reexport);
            paths.map(|named| modules.defining(&absolute(base, &named.path))).collect()
        };
        let mut inner = base.clone();
        inner.push("tests");
        let module = base.join("::");
        imports.of_code.insert(module.clone(), targets(&base, source.before_tests(), &children(source)));
        imports.of_tests.insert(module.clone(), targets(&inner, source.tests(), &[]));
        imports.names.insert(module, source.name.clone());
    }
    imports
}

impl Imports {
    /// The way from a module back to itself, if there is one.
    fn circle<'a>(&'a self, start: &'a str) -> Option<Vec<&'a str>> {
        let mut seen = BTreeSet::new();
        let mut open = vec![vec![start]];
        while let Some(way) = open.pop() {
            let last = way.last().copied().unwrap_or(start);
            for next in self.of_code.get(last)?.iter().filter(|next| next.as_str() != last) {
                let mut longer: Vec<&str> = way.clone();
                if let Some((known, _)) = self.of_code.get_key_value(next) {
                    longer.push(known);
                }
                if next == start {
                    return Some(longer);
                }
                if seen.insert(next) {
                    open.push(longer);
                }
            }
        }
        None
    }
}

#[test]
fn modules_import_downwards_only() {
    let sources: Vec<Source> =
        sources("src").into_iter().filter(|source| source.name != "src/main.rs").collect();
    let map = sources.iter().find(|source| source.name == "src/lib.rs").expect("the map");
    let floors = children(map);
    assert!(floors.len() > 10, "{floors:?}");
    let level =
        |module: &str| floors.iter().position(|floor| Some(floor.as_str()) == module.split("::").next());

    let imports = imports(&sources);

    let all = || imports.of_code.iter().chain(&imports.of_tests);
    let mut upward = BTreeSet::new();
    for (from, targets) in all() {
        for target in targets {
            if level(from).zip(level(target)).is_some_and(|(from, target)| target < from) {
                upward.insert(format!("{} imports crate::{target}", imports.names[from]));
            }
        }
    }
    let count: usize = all().map(|(_, targets)| targets.len()).sum();
    assert!(count > 300, "only {count} imports were found");
    exceptions::hold("upward", &upward);
}

#[test]
fn no_files_import_each_other_in_a_circle() {
    let imports = imports(&sources("src"));

    let circles: BTreeMap<&str, Vec<&str>> = imports
        .of_code
        .keys()
        .filter_map(|module| Some((module.as_str(), imports.circle(module)?)))
        .collect();

    let files: BTreeSet<String> = circles.keys().map(|module| imports.names[*module].clone()).collect();
    let new = circles.iter().filter(|(module, _)| !exceptions::allows("circle", &imports.names[**module]));
    let ways: Vec<String> = new.map(|(_, way)| way.join(" → ")).collect();
    assert!(ways.is_empty(), "{ways:#?}");
    exceptions::hold("circle", &files);
}

/// A file of a slice, and the modules that no other file of the slice may import.
const RESERVED: [(&str, &[&str]); 2] =
    [("section.rs", &["settings"]), ("metrics.rs", &["telemetry::metrics", "telemetry::registry"])];

/// A slice is a folder with a `section.rs`.
#[test]
fn a_slice_uses_settings_in_its_section_and_the_registry_in_its_metrics() {
    let sources = sources("src");
    let imports = imports(&sources);
    let slices: Vec<&str> =
        sources.iter().filter_map(|source| source.name.strip_suffix("section.rs")).collect();

    let mut wrong = BTreeSet::new();
    for (module, name) in &imports.names {
        let Some(file) = slices.iter().find_map(|slice| name.strip_prefix(slice)) else { continue };
        for (owner, reserved) in RESERVED {
            let is_reserved = |target: &&String| {
                reserved
                    .iter()
                    .any(|top| target.strip_prefix(top).is_some_and(|r| r.is_empty() || r.starts_with("::")))
            };
            let used = imports.of_code[module].iter().filter(is_reserved);
            wrong.extend(used.filter(|_| file != owner).map(|target| format!("{name} uses {target}")));
        }
    }

    exceptions::hold("slice", &wrong);
}
