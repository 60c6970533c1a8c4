//! Imports point down: a module imports from the modules below it, and never from one above
//! (docs/decisions/0022).
//!
//! Unit tests are left out: they may use any module.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// The modules of the crate, from the top to the bottom.
const ORDER: [&str; 12] = [
    "cli", "control", "daemon", "observe", "datapath", "kernel", "plan", "packet", "matching",
    "config", "host", "events",
];

/// The place of a module in [`ORDER`]; `None` for `lib.rs`, `main.rs` and modules for tests only.
fn rank(module: &str) -> Option<usize> {
    ORDER.iter().position(|&name| name == module)
}

/// The first segment of every path from `crate::` in `source`, each with its line.
fn imported(source: &str) -> Vec<(usize, String)> {
    const ROOT: &str = "crate::";
    let mut found = Vec::new();
    for (at, _) in source.match_indices(ROOT) {
        // Skip comments, and `$crate::`.
        let start = source[..at].rfind('\n').map_or(0, |newline| newline + 1);
        if source[start..at].contains("//") || source[..at].ends_with('$') {
            continue;
        }
        let line = source[..at].matches('\n').count() + 1;
        let rest = &source[at + ROOT.len()..];
        let Some(list) = rest.strip_prefix('{') else {
            found.push((line, word(rest)));
            continue;
        };
        // Only names of the list itself, not of the lists nested in it.
        let (mut depth, mut at_name, mut line) = (0, true, line);
        for (at, character) in list.char_indices() {
            match character {
                '\n' => line += 1,
                '{' => depth += 1,
                '}' if depth == 0 => break,
                '}' => depth -= 1,
                ',' if depth == 0 => at_name = true,
                c if at_name && c.is_alphabetic() => {
                    found.push((line, word(&list[at..])));
                    at_name = false;
                }
                _ => {}
            }
        }
    }
    found
}

fn word(text: &str) -> String {
    text.chars()
        .take_while(|c| c.is_alphanumeric() || *c == '_')
        .collect()
}

/// The lines of `source`, a file of `module`, that import from a module above it.
fn upward(module: &str, source: &str) -> Vec<(usize, String)> {
    let Some(own) = rank(module) else {
        return Vec::new();
    };
    let source = source
        .split_once("#[cfg(test)]\nmod tests {")
        .map_or(source, |(code, _)| code);
    let mut imports = imported(source);
    imports.retain(|(_, name)| rank(name).is_some_and(|other| other < own));
    imports
}

fn sources(folder: &Path, all: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default();
        if path.is_dir() && name != "tests" {
            sources(&path, all)?;
        } else if path.extension().is_some_and(|e| e == "rs") && name != "tests.rs" {
            all.push(path);
        }
    }
    Ok(())
}

#[test]
fn imports_point_down() -> io::Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root, &mut files)?;
    let mut modules = std::collections::BTreeSet::new();
    let mut offences = Vec::new();
    for file in &files {
        let path = file.strip_prefix(&root).unwrap();
        let first = path.components().next().unwrap();
        let module = Path::new(first.as_os_str()).file_stem().unwrap();
        let module = module.to_str().unwrap();
        modules.insert(module.to_owned());
        for (line, name) in upward(module, &fs::read_to_string(file)?) {
            offences.push(format!(
                "src/{}:{line}: `{module}` stands below `{name}` and must not import from it",
                path.display()
            ));
        }
    }
    for name in ORDER {
        assert!(
            modules.remove(name),
            "there is no module `{name}`: correct ORDER"
        );
    }
    for outside in ["lib", "main", "testing", "far_namespace"] {
        modules.remove(outside);
    }
    assert!(modules.is_empty(), "not in ORDER: {modules:?}");
    assert!(offences.is_empty(), "\n{}\n", offences.join("\n"));
    Ok(())
}

#[test]
fn an_import_that_points_up_is_found_wherever_it_stands() {
    let line = |source| {
        let found = upward("plan", source);
        found
            .into_iter()
            .map(|(line, name)| format!("{line} {name}"))
    };
    let lines = |source| line(source).collect::<Vec<_>>();
    assert_eq!(lines("\nuse crate::daemon::claim;"), ["2 daemon"]);
    let nested = "use crate::{\n    host::{self, GsoLimits},\n    kernel::Kernel,\n    packet::{Known, cli},\n};";
    assert_eq!(lines(nested), ["3 kernel"]);
    assert_eq!(lines("fn f() {\n    crate::cli::run();\n}"), ["2 cli"]);
    let good = "/// [`crate::daemon`]\nuse crate::{config, host::watch};\n#[cfg(test)]\nmod tests {\n    use crate::daemon;\n}";
    assert!(lines(good).is_empty());
}
