//! Every command in the README and the book: what takes long is run in a short form, benchmarks and tests are compiled.

#![cfg(unix)]

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const TOP: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

/// Flags that make an example short; those of the page give way to them.
const SHORT: [(&str, &str); 5] = [
    (
        "omniglot",
        "--meta-steps 2 --meta-batch 1 --task-steps 2 --batch 4 --filters 4 --test-alphabets 1 --seeds 1",
    ),
    (
        "control",
        "--meta-steps 1 --meta-batch 1 --env-steps 2000 --held-out 1 --seeds 1",
    ),
    (
        "images",
        "--meta-steps 2 --meta-batch 1 --test-tasks 2 --filters 4",
    ),
    ("meta_sgd", "--seeds 1 --meta-steps 2"),
    ("devices", "--seconds 0.1"),
];

/// The pages, by their path below the top.
fn pages() -> Vec<PathBuf> {
    let mut pages = vec!["README.md".into(), "CONTRIBUTING.md".into()];
    for folder in ["docs", "crates"] {
        for entry in std::fs::read_dir(Path::new(TOP).join(folder)).expect("a folder") {
            let path = entry.expect("an entry").path();
            let page = if path.is_dir() {
                path.join("README.md")
            } else {
                path
            };
            if page.extension().is_some_and(|e| e == "md") {
                pages.push(page.strip_prefix(TOP).expect("below the top").to_path_buf());
            }
        }
    }
    assert!(pages.len() > 12, "{pages:?}");
    pages
}

/// The commands of a page: those in blocks for the shell, and those of cargo and bash within its text.
fn commands(page: &str) -> Vec<String> {
    let mut commands = Vec::new();
    let (mut language, mut open) = (None, String::new());
    for line in page.lines() {
        if let Some(fence) = line.trim_start().strip_prefix("```") {
            language = language.is_none().then(|| fence.to_string());
        } else if language.as_deref() == Some("sh") {
            let line = line.split(" #").next().unwrap_or_default().trim();
            match line.strip_suffix('\\') {
                Some(begin) => open += begin,
                None => commands.push(std::mem::take(&mut open) + line),
            }
        } else if language.is_none() {
            let spans = line.split('`').skip(1).step_by(2);
            let is_command = |span: &&str| span.starts_with("cargo ") || span.starts_with("bash ");
            commands.extend(spans.filter(is_command).map(String::from));
        }
    }
    commands.retain(|command| !command.is_empty());
    commands
}

/// The value of a flag.
fn value<'a>(words: &[&'a str], flag: &str) -> Option<&'a str> {
    let place = words.iter().position(|word| *word == flag)?;
    words.get(place + 1).copied()
}

fn succeed(mut command: Command, what: &str) -> String {
    let output = command.stdin(Stdio::null()).output().expect(what);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{what}: {errors}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn cargo(words: &[&str]) -> Command {
    let mut cargo = Command::new(env!("CARGO"));
    // As the rest was compiled, or all would be compiled once more.
    if let Some(config) = std::env::var_os("LEAP_CARGO_CONFIG") {
        cargo.arg("--config").arg(config);
    }
    cargo.args(words).current_dir(TOP);
    cargo
}

/// Runs an example in a short form, or looks whether it has the flags where its data are not here.
fn run_example(name: &str, flags: &[&str], manifest: &str) {
    assert!(
        manifest.contains(&format!("name = \"{name}\"")),
        "there is no example {name}"
    );
    let tests = std::env::current_exe().expect("this program has a path");
    let built = tests
        .parent()
        .and_then(Path::parent)
        .expect("it lies in deps/");
    let program = built.join("examples").join(name);
    if !program.exists() {
        eprintln!("\n*** NOT RUN: the example {name} is not built ***\n");
        return;
    }
    let absolute =
        |word: &str| Some(format!("{TOP}/{word}")).filter(|path| Path::new(path).exists());
    let files = ["--data", "--from"].map(|flag| value(flags, flag).map(absolute));
    let needs_more =
        files.contains(&Some(None)) || ["--setup", "--games"].iter().any(|f| flags.contains(f));
    let elsewhere = value(flags, "--device").is_some_and(|device| device != "flex");
    if needs_more || elsewhere || name == "worker" {
        let mut help = Command::new(program);
        help.arg("--help");
        let help = succeed(help, name);
        for flag in flags.iter().filter(|flag| flag.starts_with("--")) {
            assert!(help.contains(flag), "{name} has no {flag}");
        }
        return;
    }
    let short = SHORT.iter().find(|(example, _)| *example == name);
    let short: Vec<&str> = short
        .map_or("", |(_, flags)| flags)
        .split_whitespace()
        .collect();
    let mut kept = Vec::new();
    let mut flags = flags.iter();
    while let Some(flag) = flags.next() {
        match flag.starts_with("--") && short.contains(flag) {
            true => drop(flags.next()),
            false => kept.push(absolute(flag).unwrap_or(flag.to_string())),
        }
    }
    let folder = tempfile::tempdir().expect("a folder");
    let mut command = Command::new(program);
    command.args(kept).args(short).current_dir(&folder);
    succeed(command, &format!("{name} in short"));
}

#[test]
fn every_command_of_the_pages_works() {
    let examples = std::fs::read_to_string(Path::new(TOP).join("examples/Cargo.toml")).expect("it");
    let packages = succeed(
        cargo(&["metadata", "--no-deps", "--format-version", "1"]),
        "metadata",
    );
    let packages: serde_json::Value = serde_json::from_str(&packages).expect("JSON");
    let has_feature = |package: &str, feature: &str| {
        let mut packages = packages["packages"].as_array().expect("a list").iter();
        packages.any(|p| p["name"] == package && !p["features"][feature].is_null())
    };
    // With other features, all would be compiled once more.
    let compile = cfg!(not(any(
        feature = "worker",
        feature = "mpi",
        feature = "atari"
    )));
    let mut seen = Vec::new();
    for page in pages() {
        let text = std::fs::read_to_string(Path::new(TOP).join(&page)).expect("a page");
        for command in commands(&text) {
            if seen.contains(&command) {
                continue;
            }
            seen.push(command.clone());
            eprintln!("{}: {command}", page.display());
            let all: Vec<&str> = command.split_whitespace().collect();
            // Variables before it.
            let words: Vec<&str> = all
                .iter()
                .copied()
                .skip_while(|w| w.contains('='))
                .collect();
            for feature in value(&words, "--features").unwrap_or("").split(',') {
                let (package, feature) = feature
                    .split_once('/')
                    .unwrap_or(("leap-examples", feature));
                assert!(
                    feature.is_empty() || has_feature(package, feature),
                    "{package}/{feature}"
                );
            }
            let is_plain = !words.contains(&"--features");
            match words[..] {
                ["cargo", "run", "--example", name, ..] => {
                    let flags = words.iter().skip_while(|w| **w != "--").skip(1);
                    run_example(name, &Vec::from_iter(flags.copied()), &examples);
                }
                ["cargo", "run", "-p", package, "--example", name, ..] => {
                    let path = format!("{TOP}/crates/{package}/examples/{name}.rs");
                    assert!(Path::new(&path).exists(), "{path}");
                }
                ["cargo", "bench" | "test" | "build", ..] => {
                    let words = words[1..].iter().copied().take_while(|w| *w != "--");
                    let mut words = Vec::from_iter(words);
                    if words[0] != "build" {
                        words.push("--no-run");
                    }
                    if is_plain && compile {
                        succeed(cargo(&words), &command);
                    }
                }
                ["bash", script, ..] => {
                    let mut check = Command::new("bash");
                    check.args(["-n", script]).current_dir(TOP);
                    succeed(check, &command);
                }
                ["mpirun", "-n", _, program, ..] => {
                    let name = program.rsplit('/').next().unwrap_or_default();
                    run_example(name, &["--device", "elsewhere"], &examples);
                }
                // Continuous integration runs these on all of it.
                ["cargo", "fmt" | "clippy" | "doc" | "package", ..] => {}
                // All of a backend that is large, once more.
                ["cargo", "check", ..] => {}
                // Programs of others.
                ["tensorboard" | "mdbook", ..] => {}
                _ => panic!("{}: nothing runs `{command}`", page.display()),
            }
        }
    }
    assert!(seen.len() > 25, "{seen:?}");
}
