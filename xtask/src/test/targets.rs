//! Which test binaries the workspace has, beside those inside libraries and programs: asked of
//! cargo, so that none is forgotten.

use anyhow::{Context, Result};
use serde::Deserialize;

use crate::workspace::Workspace;

/// The packages whose tests need the testbed and the relay's binary.
const ON_THE_TESTBED: [&str; 2] = ["relay-tests", "relay-bench"];

/// The names of test binaries.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Targets {
    /// Those that need nothing but their package.
    pub inside: Vec<String>,
    /// Those on the testbed.
    pub end_to_end: Vec<String>,
}

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    targets: Vec<Target>,
}

#[derive(Deserialize)]
struct Target {
    name: String,
    kind: Vec<String>,
    /// Those that have some run in the virtual machine.
    #[serde(default, rename = "required-features")]
    required_features: Vec<String>,
}

/// Those of the workspace.
pub fn of(ws: &Workspace) -> Result<Targets> {
    read(&ws.metadata()?)
}

fn read(metadata: &str) -> Result<Targets> {
    let metadata: Metadata = serde_json::from_str(metadata)
        .context("reading the targets that `cargo metadata` names")?;
    let mut targets = Targets::default();
    for package in metadata.packages {
        let is_test = |target: &Target| {
            target.kind.iter().any(|kind| kind == "test") && target.required_features.is_empty()
        };
        let names = package.targets.into_iter().filter(is_test);
        let names = names.map(|target| target.name);
        match ON_THE_TESTBED.contains(&package.name.as_str()) {
            true => targets.end_to_end.extend(names),
            false => targets.inside.extend(names),
        }
    }
    Ok(targets)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tests_are_told_apart_by_their_package_and_those_with_features_are_left_out() {
        let metadata = r#"{"packages": [
            {"name": "relay-userspace", "targets": [
                {"name": "relay", "kind": ["lib"]},
                {"name": "cli", "kind": ["test"]}]},
            {"name": "relay-tests", "targets": [
                {"name": "zero_copy", "kind": ["test"], "required-features": ["zero-copy"]},
                {"name": "live", "kind": ["test"]}]}]}"#;
        let expected = Targets {
            inside: vec!["cli".into()],
            end_to_end: vec!["live".into()],
        };
        assert_eq!(read(metadata).unwrap(), expected);
    }
}
