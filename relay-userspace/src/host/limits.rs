//! What to do where the kernel refuses files, memory or a thread because of a limit: each behind the
//! error, from its semicolon on.

use std::io;

use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit};

/// What to do where the kernel refuses an open file; `None` if the error is about something else.
#[must_use]
pub fn of_files(error: &io::Error) -> Option<&'static str> {
    of_files_by_code(error.raw_os_error())
}

/// The same by the system's error number.
#[must_use]
pub const fn of_files_by_code(code: Option<i32>) -> Option<&'static str> {
    match code {
        Some(libc::EMFILE) => {
            Some("; raise the limit of open files, `ulimit -n`, or `LimitNOFILE` of the unit")
        }
        Some(libc::ENFILE) => Some("; raise `sysctl fs.file-max`"),
        _ => None,
    }
}

/// What to do besides where the kernel refuses memory, or a thread, which needs some: behind other
/// remedies, and empty where no limit of addresses can be why.
#[must_use]
pub fn of_addresses() -> &'static str {
    let is_limited =
        |resource| getrlimit(resource).is_ok_and(|(allowed, _)| allowed != RLIM_INFINITY);
    match is_limited(Resource::RLIMIT_AS) || is_limited(Resource::RLIMIT_DATA) {
        true => {
            "; the address space of this process is limited, which may be why: raise `ulimit -v` and \
             `ulimit -d`, or `LimitAS` and `LimitDATA` of the unit"
        }
        false => "",
    }
}

/// The same for an error: empty where it is not about memory.
#[must_use]
pub fn of_memory(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::ENOMEM) => of_addresses(),
        _ => "",
    }
}

/// What to do where the kernel refuses a thread, whatever error it gives.
#[must_use]
pub fn of_threads() -> String {
    let addresses = of_addresses();
    format!("; raise the limit of threads, `ulimit -u`, or `TasksMax` of the unit{addresses}")
}

#[cfg(test)]
mod tests {
    use std::{env, process::Command};

    use super::*;

    #[test]
    fn a_limited_address_space_is_named() {
        const LIMITED: &str = "RELAY_TEST_ADDRESSES_ARE_LIMITED";
        if env::var_os(LIMITED).is_some() {
            assert!(of_addresses().contains("`ulimit -v`"));
            return;
        }
        // Such a limit is the whole process's, so it takes another one.
        let test = "exec \"$0\" --exact host::limits::tests::a_limited_address_space_is_named";
        for (limit, works) in [("ulimit -v 16000000", true), ("ulimit -v unlimited", false)] {
            let mut shell = Command::new("sh");
            shell.args(["-c", &format!("{limit} && {test}")]);
            let ran = shell.arg(env::current_exe().unwrap()).env(LIMITED, "1");
            assert_eq!(ran.output().unwrap().status.success(), works, "{limit}");
        }
    }
}
