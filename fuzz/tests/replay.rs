//! The committed corpora, through their targets: what a fuzzer has found stays found.
#![expect(
    clippy::unwrap_used,
    reason = "the helpers of a test may fail it like the test itself"
)]

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
};

use relay_fuzz::TARGETS;

/// The most bytes of all corpora together.
const MOST_BYTES: u64 = 1 << 20;

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

/// The files of a folder, in the order of their names.
fn files(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let files = fs::read_dir(folder)?.map(|entry| Ok(entry?.path()));
    let mut files = files.collect::<io::Result<Vec<_>>>()?;
    files.sort();
    Ok(files)
}

/// Names the input that a target panics on: the panic's own text does not.
struct Running<'a>(&'a Path);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the input is {}", self.0.display());
        }
    }
}

fn replay(name: &str) {
    let (_, run) = TARGETS.into_iter().find(|(one, _)| *one == name).unwrap();
    let corpus = files(&folder("corpus").join(name)).unwrap();
    assert!(corpus.len() >= 10, "{} inputs", corpus.len());
    for path in corpus {
        let input = fs::read(&path).unwrap();
        let _running = Running(&path);
        run(&input);
    }
}

#[test]
fn decode() {
    replay("decode");
}

#[test]
fn rewrite() {
    replay("rewrite");
}

#[test]
fn rule_file() {
    replay("rule_file");
}

#[test]
fn control() {
    replay("control");
}

#[test]
fn gso_split() {
    replay("gso_split");
}

#[test]
fn plans() {
    replay("plans");
}

#[test]
fn every_target_has_a_program_and_a_corpus_and_all_corpora_are_small() {
    let names = |folder: &Path| -> BTreeSet<String> {
        let files = files(folder).unwrap().into_iter();
        let stems = files.map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned());
        stems.collect()
    };
    let targets: BTreeSet<String> = TARGETS.iter().map(|(name, _)| (*name).into()).collect();
    assert_eq!(names(&folder("fuzz_targets")), targets);
    assert_eq!(names(&folder("corpus")), targets);
    let inputs = targets
        .iter()
        .flat_map(|name| files(&folder("corpus").join(name)).unwrap());
    let bytes: u64 = inputs.map(|path| path.metadata().unwrap().len()).sum();
    assert!(bytes < MOST_BYTES, "{bytes} bytes");
}
