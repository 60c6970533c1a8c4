//! How to see that a thing is there, however it was installed.

use std::path::{Path, PathBuf};

use crate::process;

/// How to see that something is there.
#[derive(Clone, Copy, Debug)]
pub enum Probe {
    /// Any of these programs.
    Program(&'static [&'static str]),
    /// A header below /usr/include.
    Header(&'static str),
    /// A shared library, by its name without version.
    Library(&'static str),
    /// A libclang that bindgen can load.
    Libclang,
}

impl Probe {
    /// Looks for it.
    pub fn is_there(self) -> bool {
        match self {
            Self::Program(names) => names.iter().any(|name| process::on_path(name)),
            Self::Header(name) => header_folders()
                .iter()
                .any(|folder| folder.join(name).is_file()),
            Self::Library(name) => library_folders()
                .iter()
                .any(|folder| has_file(folder, |file| file.starts_with(name))),
            Self::Libclang => {
                std::env::var_os("LIBCLANG_PATH").is_some()
                    || libclang_folders()
                        .iter()
                        .any(|folder| has_file(folder, is_libclang))
            }
        }
    }
}

fn header_folders() -> Vec<PathBuf> {
    let mut folders = vec![PathBuf::from("/usr/include"), "/usr/local/include".into()];
    // Debian's place for headers that differ by architecture.
    folders.push(format!("/usr/include/{}-linux-gnu", std::env::consts::ARCH).into());
    folders
}

fn library_folders() -> Vec<PathBuf> {
    let mut folders: Vec<PathBuf> = ["/usr/lib64", "/usr/lib", "/usr/local/lib"]
        .map(PathBuf::from)
        .into();
    folders.push(format!("/usr/lib/{}-linux-gnu", std::env::consts::ARCH).into());
    folders
}

/// Where bindgen looks.
fn libclang_folders() -> Vec<PathBuf> {
    let mut folders = library_folders();
    for entry in std::fs::read_dir("/usr/lib")
        .into_iter()
        .flatten()
        .flatten()
    {
        if entry.file_name().to_string_lossy().starts_with("llvm") {
            folders.push(entry.path().join("lib"));
        }
    }
    folders
}

fn has_file(folder: &Path, is_it: impl Fn(&str) -> bool) -> bool {
    std::fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .any(|entry| is_it(&entry.file_name().to_string_lossy()))
}

/// `libclang.so`, `libclang.so.14`, `libclang-14.so`, `libclang-14.so.14.0.6`; not libclang-cpp.
fn is_libclang(file: &str) -> bool {
    let Some((stem, _)) = file.split_once(".so") else {
        return false;
    };
    stem == "libclang"
        || stem
            .strip_prefix("libclang-")
            .is_some_and(|v| v.starts_with(|c: char| c.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_of_libclang_is_recognised_and_the_cpp_library_is_not() {
        for name in ["libclang.so", "libclang.so.19.1", "libclang-14.so.1"] {
            assert!(is_libclang(name), "{name}");
        }
        for name in [
            "libclang-cpp.so.14",
            "libclang.a",
            "libclangAST.so",
            "libLLVM.so",
        ] {
            assert!(!is_libclang(name), "{name}");
        }
    }
}
