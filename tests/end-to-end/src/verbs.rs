//! The commands that talk to a running relay.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use crate::relay::{Finished, RelayProcess, RuleFile, binary, finish};

impl RelayProcess {
    /// Its control socket.
    pub fn control(&self) -> &Path {
        &self.control
    }

    /// Runs `relay VERB ARGUMENTS...` against this relay, to its end.
    pub fn verb(&self, arguments: &[&str]) -> Result<Finished> {
        let mut command = Command::new(binary()?);
        command.args(arguments).arg("--control").arg(&self.control);
        finish(command)
    }

    /// `relay reload` with a file of this text.
    pub fn reload(&self, text: &str) -> Result<Finished> {
        self.reload_with(text, &[])
    }

    /// The same with more options.
    pub fn reload_with(&self, text: &str, options: &[&str]) -> Result<Finished> {
        let file = RuleFile::new(text)?;
        let path = file.path().display().to_string();
        self.verb(&[&["reload", &path], options].concat())
    }

    /// `relay add -f` with a file of this text.
    pub fn add(&self, text: &str) -> Result<Finished> {
        let file = RuleFile::new(text)?;
        self.verb(&["add", "-f", &file.path().display().to_string()])
    }

    /// `relay status --json`.
    pub fn status(&self) -> Result<serde_json::Value> {
        let shown = self.verb(&["status", "--json"])?;
        anyhow::ensure!(matches!(shown.code, Some(0 | 1)), "{shown:?}");
        serde_json::from_str(&shown.stdout).with_context(|| format!("reading {shown:?}"))
    }

    /// The names of all rules with their states, as the status has them.
    pub fn rule_states(&self) -> Result<Vec<(String, String)>> {
        let status = self.status()?;
        let rules = status["rules"].as_array().context("rules in the status")?;
        let text = |rule: &serde_json::Value, key: &str| {
            rule[key]
                .as_str()
                .map(str::to_owned)
                .with_context(|| format!("{key} of {rule}"))
        };
        rules
            .iter()
            .map(|rule| Ok((text(rule, "name")?, text(rule, "state")?)))
            .collect()
    }
}
