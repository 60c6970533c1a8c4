//! What the tasks of the guest wait for, for a run that stands still.
//!
//! The kernel's own report of hung tasks (`kernel/hung_task.c`) misses a task that sleeps for a
//! moment again and again, as `napi_disable` does, and what waits in user space.

use std::fs;
use std::path::{Path, PathBuf};

/// Prints every task of a program, and the kernel's own that sleep uninterruptibly, with the
/// functions of the kernel that it is in.
pub fn print() {
    let own = Path::new("/proc").join(std::process::id().to_string());
    let processes = numbered("/proc".as_ref()).into_iter();
    for process in processes.filter(|process| *process != own) {
        // Only the kernel's own tasks have none.
        let program = read(&process.join("cmdline")).replace('\0', " ");
        for task in numbered(&process.join("task")) {
            let status = read(&task.join("status"));
            let field = |key: &str| {
                let value = status.lines().find_map(|line| line.strip_prefix(key));
                value.unwrap_or_default().trim().to_owned()
            };
            let state = field("State:");
            if program.is_empty() && !state.starts_with('D') {
                continue;
            }
            let (id, name) = (field("Pid:"), field("Name:"));
            println!("guest: task {id} {name}, {state}: {}", program.trim_end());
            for function in read(&task.join("stack")).lines() {
                println!("guest:     {}", function.trim_start_matches("[<0>] "));
            }
        }
    }
}

/// The entries of a folder of `/proc` that stand for a process or a task.
fn numbered(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let is_number = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.bytes().all(|byte| byte.is_ascii_digit())
    };
    entries
        .map(|entry| entry.path())
        .filter(is_number)
        .collect()
}

/// The content of a file, or nothing where the task has just ended.
fn read(path: &Path) -> String {
    fs::read(path).map_or_else(
        |_| String::new(),
        |bytes| String::from_utf8_lossy(&bytes).into_owned(),
    )
}
