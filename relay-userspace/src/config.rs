//! The rule file: TOML text in, a validated [`Document`] or every mistake in it out.
//!
//! The reader walks the file table by table, each as a tree of values with their places. It does
//! not deserialise, because that stops at the first wrong type, and a user wants all mistakes at
//! once. The file's size bounds the memory and the time that reading takes, whatever the file
//! contains. A [`Document`] keeps the places, so that later findings about an interface point into
//! the file too. [`merge()`] adds the rules of a second file, and [`to_toml()`] writes rules as a
//! file.

mod cross_checks;
mod cycles;
mod document;
mod draft;
mod equals;
mod fed_rules;
mod groups;
mod health;
mod input;
mod matches;
mod merge;
mod metrics;
mod mistake;
mod output;
mod output_values;
mod own_address;
mod place;
mod ports;
mod prefix;
mod reader;
pub mod rules;
mod sections;
mod tables;
#[cfg(test)]
mod tests;
mod to_toml;
mod values;

use std::{
    fs::File,
    io::{self, Read as _},
    path::Path,
};

pub(crate) use self::{document::Spot, mistake::quoted};
pub use self::{
    document::{Document, InterfacePlaces, MetricsPlace, OutputPlaces, Places, RulePlaces},
    merge::merge,
    mistake::{Mistake, Mistakes, Place},
    to_toml::to_toml,
};
use crate::host::regular_file;

/// The largest file that the relay reads: far more than [`MAX_RULES`] rules need.
pub const MAX_FILE_BYTES: u64 = 16 << 20;
/// The most rules in one file.
pub const MAX_RULES: usize = 65_536;
/// The most outputs of one rule.
pub const MAX_OUTPUTS: usize = 1_024;
/// The most memberships of one rule: groups, times the sources that it names.
pub const MAX_MEMBERSHIPS_OF_A_RULE: usize = 1_024;
/// The most memberships of all rules of a file together.
pub const MAX_MEMBERSHIPS: usize = 262_144;
/// The most bytes of a rule's name.
pub const MAX_NAME_BYTES: usize = 255;

/// Reads and validates the file at `path`.
///
/// # Errors
///
/// The file cannot be read ([`Mistakes::is_unreadable`]), is too large, or has mistakes.
pub fn load(path: &Path) -> Result<Document, Mistakes> {
    parse(&path.display().to_string(), &read(path)?)
}

/// Reads the text of the file at `path`, and does not look into it.
///
/// # Errors
///
/// The file cannot be read ([`Mistakes::is_unreadable`]), is too large, or is not UTF-8.
pub fn read(path: &Path) -> Result<String, Mistakes> {
    read_opened(path, File::open(path))
}

/// As [`load`], without waiting for anybody: what is no regular file, such as a pipe that nobody
/// writes to, is refused.
///
/// # Errors
///
/// As [`load`].
pub fn load_at_once(path: &Path) -> Result<Document, Mistakes> {
    let file = regular_file::open(path, 0);
    parse(&path.display().to_string(), &read_opened(path, file)?)
}

fn read_opened(path: &Path, file: io::Result<File>) -> Result<String, Mistakes> {
    let label = path.display().to_string();
    let mut bytes = Vec::new();
    file.and_then(|file| file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes))
        .map_err(|error| {
            Mistakes::unreadable(
                &label,
                format!("the rule file cannot be read: {error}"),
                "give the path of a rule file that this user may read",
            )
        })?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        let mistake = Mistake {
            file: label.into(),
            place: None,
            cause: format!("the file is larger than {} MiB", MAX_FILE_BYTES >> 20),
            remedy:
                "this is probably not a rule file; split the rules over several relays if it is"
                    .into(),
        };
        return Err(Mistakes::of(vec![mistake]));
    }
    match String::from_utf8(bytes) {
        Ok(text) => Ok(text),
        Err(error) => {
            let valid = error.utf8_error().valid_up_to();
            let good = error.as_bytes().get(..valid).unwrap_or_default();
            let good = String::from_utf8_lossy(good);
            let mistake = Mistake {
                file: label.into(),
                place: Some(place::Lines::new(&good).place(valid)),
                cause: "the file is not UTF-8 text from here on".into(),
                remedy: "save it as UTF-8".into(),
            };
            Err(Mistakes::of(vec![mistake]))
        }
    }
}

/// Validates the text of a rule file; mistakes call the file `path_label`.
///
/// # Errors
///
/// Every mistake in the text. Only wrong TOML syntax hides other mistakes.
pub fn parse(path_label: &str, text: &str) -> Result<Document, Mistakes> {
    let mut found = mistake::Collector::new(path_label, text);
    let Some(draft) = tables::read(text, &mut found) else {
        return Err(found.into_mistakes());
    };
    cross_checks::check(&draft, &mut found);
    if !found.mistakes.is_empty() {
        return Err(found.into_mistakes());
    }
    let (rules, places) = draft.finish(&found.file);
    Ok(Document {
        file: found.file,
        rules,
        places,
    })
}
