//! Modules import downwards: no circle among the files of a crate, and crates know only those below them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

const CRATES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../crates");

/// The Rust files below a folder.
fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).expect("a folder");
    let paths = entries.map(|entry| entry.expect("an entry").path());
    let of = |path: PathBuf| match path.is_dir() {
        true => files(&path),
        false => Vec::from_iter(Some(path).filter(|p| p.extension().is_some_and(|e| e == "rs"))),
    };
    paths.flat_map(of).collect()
}

/// The path of a file's module, without names for the crate's own: `space/params.rs` is `["space", "params"]`.
fn module(file: &Path, src: &Path) -> Vec<String> {
    let below = file.strip_prefix(src).expect("below it").with_extension("");
    let names = below.iter().map(|name| name.to_string_lossy().into_owned());
    names
        .filter(|name| name != "mod" && name != "lib")
        .collect()
}

/// Modules that a file names, by their whole paths; its unit tests, which may look anywhere, left out.
fn named(text: &str, here: &[String]) -> Vec<Vec<String>> {
    let code = text
        .split("#[cfg(test)]\nmod tests {")
        .next()
        .unwrap_or_default();
    let mut all = Vec::new();
    for line in code
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"))
    {
        for word in line.split(|c: char| !(c.is_alphanumeric() || c == '_' || c == ':')) {
            let mut names: Vec<&str> = word.split("::").collect();
            let mut base = match names[0] {
                "crate" => Vec::new(),
                "super" => here.to_vec(),
                _ => continue,
            };
            while names.first() == Some(&"super") {
                base.pop();
                names.remove(0);
            }
            let rest = names
                .into_iter()
                .filter(|name| *name != "crate" && !name.is_empty());
            base.extend(rest.map(String::from));
            all.push(base);
        }
    }
    all
}

#[test]
fn modules_import_downwards() {
    for name in ["leap-core", "leap-models", "leap-tasks", "leap-lab"] {
        let src = Path::new(CRATES).join(name).join("src");
        let mut uses: BTreeMap<Vec<String>, BTreeSet<Vec<String>>> = BTreeMap::new();
        let files = files(&src);
        let modules: BTreeSet<_> = files.iter().map(|file| module(file, &src)).collect();
        for file in files.iter().filter(|file| !file.ends_with("tests.rs")) {
            let here = module(file, &src);
            let text = std::fs::read_to_string(file).expect("a file");
            for mut path in named(&text, &here) {
                // To the module that the item is in.
                while !modules.contains(&path) {
                    path.pop();
                }
                if path != here && !path.is_empty() {
                    uses.entry(here.clone()).or_default().insert(path);
                }
            }
        }
        assert!(uses.len() > 4, "{name}: nothing imports anything");
        // Those that import nothing that is left go, until none is left.
        while let Some(lowest) = uses
            .iter()
            .find(|(_, below)| below.iter().all(|module| !uses.contains_key(module)))
            .map(|(module, _)| module.clone())
        {
            uses.remove(&lowest);
        }
        assert!(uses.is_empty(), "{name}: a circle among {uses:?}");
    }
}

#[test]
fn crates_know_only_those_below_them() {
    let below = [
        ("leap-core", &[][..]),
        ("leap-models", &["leap-core"]),
        ("leap-tasks", &["leap-core"]),
        ("leap-lab", &["leap-core"]),
    ];
    for (name, allowed) in below {
        let manifest = Path::new(CRATES).join(name).join("Cargo.toml");
        let manifest = std::fs::read_to_string(manifest).expect("a manifest");
        let known = manifest.lines().filter(|line| line.starts_with("leap-"));
        for line in known {
            let other = line.split(['.', ' ']).next().unwrap_or_default();
            assert!(allowed.contains(&other), "{name} knows {other}");
        }
    }
}
