//! The pages of the repository: links lead somewhere, files that the map names exist, prose wraps.
#![expect(
    clippy::unwrap_used,
    reason = "the helpers of a test may fail it like the test itself"
)]

use std::{
    fs,
    path::{Path, PathBuf},
};

/// Characters of a line of prose, at most.
const WIDTH: usize = 100;

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

/// Every page, and its text.
fn pages() -> Vec<(PathBuf, String)> {
    let mut pages = Vec::new();
    for folder in ["", "docs", "docs/decisions"] {
        for entry in fs::read_dir(repository().join(folder)).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|extension| extension == "md") {
                let text = fs::read_to_string(&path).unwrap();
                pages.push((path, text));
            }
        }
    }
    assert!(pages.len() > 20, "{pages:?}");
    pages
}

/// The lines outside of fenced blocks, with their numbers.
fn outside_of_blocks(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut inside = false;
    (1..).zip(text.lines()).filter(move |(_, line)| {
        let fence = line.starts_with("```");
        inside ^= fence;
        !(inside || fence)
    })
}

/// What stands between `open` and `close`, wherever that is in a text.
fn between<'a>(text: &'a str, open: &'a str, close: char) -> impl Iterator<Item = &'a str> {
    let parts = text.split(open).skip(1);
    parts.filter_map(move |part| part.split_once(close).map(|(inner, _)| inner))
}

/// The anchors of a page: its headings as forges write them.
fn anchors(text: &str) -> Vec<String> {
    let headings = outside_of_blocks(text).filter(|(_, line)| line.starts_with('#'));
    let anchor = |(_, line): (usize, &str)| {
        let heading = line.trim_start_matches('#').trim().to_lowercase();
        let kept = heading
            .chars()
            .filter(|c| c.is_alphanumeric() || " -_".contains(*c));
        kept.map(|c| if c == ' ' { '-' } else { c }).collect()
    };
    headings.map(anchor).collect()
}

#[test]
fn every_link_leads_to_a_file_and_to_a_heading_in_it() {
    let mut broken = Vec::new();
    for (page, text) in pages() {
        for target in between(&text, "](", ')') {
            if target.contains("://") {
                continue;
            }
            let (path, anchor) = target.split_once('#').unwrap_or((target, ""));
            let file = match path {
                "" => page.clone(),
                path => page.parent().unwrap().join(path),
            };
            let found = file.exists()
                && (anchor.is_empty()
                    || anchors(&fs::read_to_string(&file).unwrap()).contains(&anchor.to_owned()));
            if !found {
                broken.push(format!("{}: {target}", page.display()));
            }
        }
    }
    assert!(broken.is_empty(), "{broken:#?}");
}

#[test]
fn every_file_that_the_map_of_the_source_names_exists() {
    let mut missing = Vec::new();
    for page in ["docs/architecture.md", "CONTRIBUTING.md"] {
        let text = fs::read_to_string(repository().join(page)).unwrap();
        let words =
            outside_of_blocks(&text).flat_map(|(_, line)| line.split('`').skip(1).step_by(2));
        let mut paths: Vec<_> = words
            .filter(|word| word.ends_with('/') || word.ends_with(".rs") && word.contains('/'))
            .collect();
        paths.dedup();
        assert!(!paths.is_empty(), "{page} names no file");
        let places = [
            repository().to_owned(),
            repository().join("relay-userspace/src"),
        ];
        paths.retain(|path| !places.iter().any(|place| place.join(path).exists()));
        missing.extend(paths.into_iter().map(|path| format!("{page}: {path}")));
    }
    assert!(missing.is_empty(), "{missing:#?}");
}

/// A promise is worth the test that holds it.
#[test]
fn every_test_that_the_promises_name_exists() {
    let text = fs::read_to_string(repository().join("docs/promises.md")).unwrap();
    let mut missing = Vec::new();
    let mut named = 0;
    for held_by in text.lines().filter(|line| line.starts_with("| ")) {
        let mut file = String::new();
        for quoted in held_by.split('`').skip(1).step_by(2) {
            let (path, name) = match quoted.split_once("::") {
                Some((path, name)) => (Some(path), Some(name)),
                None if quoted.ends_with(".rs") => (Some(quoted), None),
                None => (None, Some(quoted)),
            };
            if let Some(path) = path.filter(|path| path.ends_with(".rs")) {
                file = fs::read_to_string(repository().join(path)).unwrap_or_default();
                named += 1;
                if file.is_empty() {
                    missing.push(path.to_owned());
                }
            }
            // `f4_*` are all whose names begin so. Other words are no names of tests.
            let Some(name) = name.filter(|name| name.matches('_').count() > 1) else {
                continue;
            };
            if !file.contains(&format!("fn {}", name.trim_end_matches('*'))) {
                missing.push(quoted.to_owned());
            }
        }
    }
    assert!(named > 100, "{named} files are named");
    assert!(missing.is_empty(), "{missing:#?}");
}

/// The source of the rule file's messages, in one line where the source breaks a text.
fn source_of_messages(folder: &Path) -> String {
    let mut text = String::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() && !path.ends_with("tests") {
            text += &source_of_messages(&path);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            text += &fs::read_to_string(&path).unwrap();
        }
    }
    let mut parts = text.split("\\\n");
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |all, part| all + part.trim_start())
}

/// What a message says itself, two words or more at a time: names, numbers and values are those of
/// the example, and the words around them may be, too.
fn own_words(message: &str) -> Vec<String> {
    const OF_EXAMPLES: [&str; 9] = [
        "rule",
        "line",
        "column",
        "input",
        "output",
        "on",
        "a",
        "an",
        "interface",
    ];
    let mut found = vec![Vec::new()];
    for word in message.split(' ') {
        let bare = word.trim_end_matches([';', ',', ':']);
        let of_example = OF_EXAMPLES.contains(&bare)
            || bare.contains(|c: char| "'\"".contains(c) || c.is_ascii_digit());
        if let Some(last) = found.last_mut().filter(|_| !of_example) {
            last.push(bare);
        }
        if of_example || bare != word {
            found.push(Vec::new());
        }
    }
    found.retain(|words| words.len() > 1);
    found.iter().map(|words| words.join(" ")).collect()
}

#[test]
fn what_is_refused_in_a_rule_file_is_said_as_the_page_says() {
    let page = fs::read_to_string(repository().join("docs/configuration.md")).unwrap();
    let (_, table) = page.split_once("### Refused in the file").unwrap();
    let (table, _) = table.split_once("\n(The messages").unwrap();
    let source = source_of_messages(&repository().join("relay-userspace/src/config"));
    let mut compared = 0;
    let mut missing = Vec::new();
    for row in table.lines().filter(|line| line.starts_with("| ")).skip(2) {
        let (_, said) = row.split_once(" | ").unwrap();
        for message in said.split('`').skip(1).step_by(2) {
            let words = own_words(message);
            assert!(!words.is_empty(), "{message}");
            compared += words.len();
            let others = words.into_iter().filter(|words| !source.contains(words));
            missing.extend(others.map(|words| format!("{words}: {message}")));
        }
    }
    assert!(compared > 70, "{compared}");
    assert!(missing.is_empty(), "{missing:#?}");
}

#[test]
fn every_decision_is_in_the_index() {
    let folder = repository().join("docs/decisions");
    let index = fs::read_to_string(folder.join("README.md")).unwrap();
    for (page, text) in pages() {
        let name = page.file_name().unwrap().to_str().unwrap();
        if page.parent() != Some(&folder) || name == "README.md" {
            continue;
        }
        let (number, title) = text.lines().next().unwrap()[2..].split_once(". ").unwrap();
        assert!(
            index.contains(&format!("| [{number}]({name}) | ")),
            "{name}"
        );
        assert_eq!(format!("{number:0>4}"), name[..4], "{title}");
    }
}

#[test]
fn prose_wraps() {
    let mut long = Vec::new();
    for (page, text) in pages() {
        for (number, line) in outside_of_blocks(&text) {
            if line.chars().count() > WIDTH && !line.starts_with(['|', '#']) {
                long.push(format!("{}:{number}", page.display()));
            }
        }
    }
    assert!(long.is_empty(), "more than {WIDTH} characters: {long:#?}");
}
