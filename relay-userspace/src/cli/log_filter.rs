//! What `RUST_LOG` lets through.
//!
//! env_logger takes a word that is no level for the name of a module, and then logs nothing else:
//! `RUST_LOG=debgu` would end the log. So the variable is checked first.

use std::env;

use log::LevelFilter;

use crate::config::quoted;

/// What is logged if nobody says otherwise.
const DEFAULT: &str = "info";
/// The crates that log, as modules are called.
const CRATES: [&str; 5] = ["relay", "aya", "aya_obj", "neli", "xsk_rs"];

/// The filter to log by, and what is wrong with the variable, in which case it is the default.
pub fn from_environment() -> (String, Option<String>) {
    let Some(value) = env::var_os("RUST_LOG").filter(|value| !value.is_empty()) else {
        return (DEFAULT.to_owned(), None);
    };
    let value = value.to_string_lossy();
    match check(&value) {
        Ok(()) => (value.into_owned(), None),
        Err(wrong) => {
            let wrong = format!(
                "`RUST_LOG` \"{}\": {wrong}. The log is as without it, `{DEFAULT}`",
                quoted(&value)
            );
            (DEFAULT.to_owned(), Some(wrong))
        }
    }
}

/// Whether a filter, `LEVEL` or `MODULE=LEVEL` and more of them behind commas, says what it may.
fn check(filter: &str) -> Result<(), String> {
    let (directives, text) = filter.split_once('/').unwrap_or((filter, ""));
    if text.contains('/') {
        return Err("it has more than one `/`".into());
    }
    let mut is_of_the_relay = false;
    let directives = directives.split(',').map(str::trim);
    for directive in directives.filter(|directive| !directive.is_empty()) {
        let (module, level) = match directive.split_once('=') {
            Some((module, level)) => (module, Some(level)),
            None if directive.parse::<LevelFilter>().is_ok() => ("", None),
            None => (directive, None),
        };
        if let Some(level) = level.filter(|level| !level.is_empty())
            && level.parse::<LevelFilter>().is_err()
        {
            return Err(format!(
                "\"{}\" is no level: off, error, warn, info, debug or trace",
                quoted(level)
            ));
        }
        let of_a_path = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | ':');
        if !module.chars().all(of_a_path) {
            let module = quoted(module);
            return Err(format!("\"{module}\" is neither a level nor a module"));
        }
        let (first, _) = module.split_once("::").unwrap_or((module, ""));
        is_of_the_relay |= module.is_empty() || CRATES.contains(&first);
    }
    if is_of_the_relay {
        return Ok(());
    }
    Err("it has no level, and no module of the relay, such as `relay=debug`".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_end_the_log_without_a_word_is_a_mistake() {
        for filter in [
            "info",
            "DEBUG",
            "off",
            "relay",
            "relay=",
            "relay=debug",
            "relay::daemon=trace,warn",
            "warn,aya=debug",
            "aya_obj=debug",
            " info , relay::kernel=off,",
            "hyper=off,info",
            "info/out0",
        ] {
            assert_eq!(check(filter), Ok(()), "{filter}");
        }
        for (filter, wrong) in [
            (
                "garbage[[=,,",
                "\"garbage[[\" is neither a level nor a module",
            ),
            ("debgu", "it has no level, and no module of the relay"),
            ("relay=loud", "\"loud\" is no level: off, error, "),
            ("relay=debug=info", "\"debug=info\" is no level"),
            (",", "it has no level"),
            ("info/a/b", "it has more than one `/`"),
        ] {
            let found = check(filter).unwrap_err();
            assert!(found.starts_with(wrong), "{filter}: {found}");
        }
    }
}
