//! The kernel modules that the guest loads, each after those that it needs.
//!
//! Packages of kernels come without the table that `depmod` makes when they are installed, so what
//! a module needs is read from the module itself: the entry `depends=` of its section `.modinfo`.

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

use crate::process;

/// A module, ready to be loaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Module {
    /// Its name, with underscores.
    pub name: String,
    /// The object.
    pub object: Vec<u8>,
}

/// `wanted` and all that they need, from the modules below `folder`, which is
/// `lib/modules/VERSION`. One that is wanted and is not there is taken to be built into the kernel;
/// if it is not, the tests miss its NICs and fail.
pub fn in_order(folder: &Path, wanted: &[&str]) -> Result<Vec<Module>> {
    let mut files = BTreeMap::new();
    index(folder, &mut files)?;
    let mut order = Vec::new();
    for module in wanted.iter().filter(|module| files.contains_key(**module)) {
        add(module, &files, &mut order)?;
    }
    Ok(order)
}

fn add(wanted: &str, files: &BTreeMap<String, PathBuf>, order: &mut Vec<Module>) -> Result<()> {
    if order.iter().any(|module| module.name == wanted) {
        return Ok(());
    }
    let Some(path) = files.get(wanted) else {
        bail!("the kernel's packages lack the module {wanted}, which another one needs");
    };
    let object = read(path)?;
    for needed in depends(&object) {
        add(&needed, files, order)?;
    }
    order.push(Module {
        name: wanted.to_owned(),
        object,
    });
    Ok(())
}

/// Names and paths of all modules below `folder`.
fn index(folder: &Path, files: &mut BTreeMap<String, PathBuf>) -> Result<()> {
    let entries = fs::read_dir(folder).with_context(|| format!("reading {}", folder.display()))?;
    for entry in entries {
        let entry = entry?;
        let path = entry.path();
        if entry.file_type()?.is_dir() {
            index(&path, files)?;
        } else if let Some(name) = name(&path) {
            files.insert(name, path);
        }
    }
    Ok(())
}

/// The name of the module in a file, `None` if there is none. A hyphen in the file's name is an
/// underscore everywhere else.
fn name(path: &Path) -> Option<String> {
    let file = path.file_name().and_then(OsStr::to_str)?;
    let stem = file
        .strip_suffix(".xz")
        .unwrap_or(file)
        .strip_suffix(".ko")?;
    Some(stem.replace('-', "_"))
}

fn read(path: &Path) -> Result<Vec<u8>> {
    if path.extension() != Some(OsStr::new("xz")) {
        return fs::read(path).with_context(|| format!("reading {}", path.display()));
    }
    let mut command = Command::new("xz");
    command.arg("-dc").arg(path);
    let output = process::output(&mut command).context("is the package xz-utils installed?")?;
    if !output.status.success() {
        bail!(
            "`{}` failed with {}",
            process::line(&command),
            output.status
        );
    }
    Ok(output.stdout)
}

/// What a module's object says that it needs.
fn depends(object: &[u8]) -> Vec<String> {
    const KEY: &[u8] = b"\0depends=";
    let Some(at) = object.windows(KEY.len()).position(|bytes| bytes == KEY) else {
        return Vec::new();
    };
    let value = object.get(at + KEY.len()..).unwrap_or_default();
    let value = value.split(|&byte| byte == 0).next().unwrap_or_default();
    String::from_utf8_lossy(value)
        .split(',')
        .filter(|name| !name.is_empty())
        .map(|name| name.replace('-', "_"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_module_needs_is_loaded_before_it_and_only_once() {
        let folder = std::env::temp_dir().join(format!("xtask-modules-{}", std::process::id()));
        fs::create_dir_all(folder.join("kernel/net")).unwrap();
        let write = |file: &str, depends: &str| {
            let object = format!("\x7fELF\0license=GPL\0depends={depends}\0name=x\0");
            fs::write(folder.join(file), object).unwrap();
        };
        write("kernel/net/top.ko", "left,right");
        write("kernel/left.ko", "base-of-all");
        write("kernel/right.ko", "base-of-all");
        write("kernel/base-of-all.ko", "");
        write("kernel/broken.ko", "nowhere");
        let names = |wanted: &[&str]| -> Result<Vec<String>> {
            let modules = in_order(&folder, wanted)?;
            Ok(modules.into_iter().map(|module| module.name).collect())
        };
        let order = names(&["top", "left", "built_in"]).unwrap();
        let missing = names(&["broken"]).unwrap_err().to_string();
        fs::remove_dir_all(&folder).unwrap();
        assert_eq!(order, ["base_of_all", "left", "right", "top"]);
        assert!(missing.contains("nowhere"), "{missing}");
    }
}
