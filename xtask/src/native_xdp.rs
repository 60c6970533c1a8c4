//! Whether this machine can run the end-to-end tests: a network namespace, a veth pair, and a
//! native XDP program on it, tried once before the first test.

use std::{fs, process::Command};

use anyhow::{Context, Result, bail};

use crate::{process, workspace::Workspace};

/// Whether a native XDP program can be attached to a veth here, tried on a pair of our own. The
/// error says what this machine lacks.
pub fn check(ws: &Workspace) -> Result<()> {
    let folder = ws.tools().join("probe");
    fs::create_dir_all(&folder).with_context(|| format!("creating {}", folder.display()))?;
    let source = folder.join("pass.c");
    let object = folder.join("pass.o");
    // SEC("xdp") int pass(void *ctx) { return XDP_PASS; }
    fs::write(
        &source,
        "__attribute__((section(\"xdp\"), used)) int pass(void *ctx) { return 2; }\n",
    )
    .with_context(|| format!("writing {}", source.display()))?;
    process::capture(
        Command::new("clang")
            .args(["-target", "bpf", "-O2", "-g", "-c"])
            .arg(&source)
            .arg("-o")
            .arg(&object),
    )?;
    let name = format!("relay-{}-probe", std::process::id());
    ip(&["netns", "add", &name]).context("network namespaces cannot be made here")?;
    let tried = attach(&name, &object.to_string_lossy());
    let removed = ip(&["netns", "delete", &name]);
    tried.and(removed)
}

fn attach(name: &str, object: &str) -> Result<()> {
    ip(&[
        "-n", name, "link", "add", "name", "a", "type", "veth", "peer", "name", "b",
    ])
    .context("veth pairs cannot be made here")?;
    let link = ["-n", name, "link", "set", "dev", "a"];
    let program = ["xdpdrv", "object", object, "section", "xdp"];
    ip(&[&link[..], &program[..]].concat()).context("native XDP cannot be attached to a veth here")
}

fn ip(args: &[&str]) -> Result<()> {
    let output = process::output(Command::new("ip").args(args))?;
    if !output.status.success() {
        bail!(
            "`ip {}`: {}",
            args.join(" "),
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(())
}
