//! The rule file: TOML text in, a validated [`Document`] or every mistake in it out.
//!
//! The reader walks the file table by table, each as a tree of values with their places. It does
//! not deserialise, because that stops at the first wrong type, and a user wants all mistakes at
//! once. The file's size bounds the memory and the time that reading takes, whatever the file
//! contains. A [`Document`] keeps the places, so that later findings about an interface point into
//! the file too.

mod cross_checks;
mod draft;
mod mistake;
mod place;
mod reader;
pub mod rules;
mod sections;
mod tables;
#[cfg(test)]
mod tests;
mod values;

use std::{io::Read as _, path::Path, sync::Arc};

pub(crate) use mistake::quoted;
pub use mistake::{Mistake, Mistakes, Place};

use self::rules::Rules;

/// The largest file that the relay reads: far more than [`MAX_RULES`] rules need.
pub const MAX_FILE_BYTES: u64 = 16 << 20;
/// The most rules in one file.
pub const MAX_RULES: usize = 65_536;
/// The most outputs of one rule.
pub const MAX_OUTPUTS: usize = 1_024;
/// The most bytes of a rule's name.
pub const MAX_NAME_BYTES: usize = 255;

/// A rule file without mistakes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    /// The file, as the user named it.
    pub file: Arc<str>,
    /// The file's content.
    pub rules: Rules,
    /// Where in the file each part of `rules` is.
    pub places: Places,
}

/// Where everything in a [`Document`] is in the file; same order and lengths as in its [`Rules`].
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Places {
    /// One entry per rule.
    pub rules: Vec<RulePlaces>,
    /// One entry per `[[interfaces]]` table.
    pub interfaces: Vec<InterfacePlaces>,
}

/// Where one rule is in the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RulePlaces {
    /// The rule.
    pub rule: Place,
    /// Its `input` table.
    pub input: Place,
    /// The interface in its `input`.
    pub input_interface: Place,
    /// One entry per output.
    pub outputs: Vec<OutputPlaces>,
}

/// Where one output is in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutputPlaces {
    /// The output's table.
    pub output: Place,
    /// The interface in it.
    pub interface: Place,
}

/// Where one `[[interfaces]]` table is in the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InterfacePlaces {
    /// The name.
    pub name: Place,
    /// One entry per queue, in the order of [`rules::InterfaceOptions::queues`].
    pub queues: Vec<Place>,
    /// One entry per CPU.
    pub cpus: Vec<Place>,
    /// The value of `transmit`.
    pub transmit: Option<Place>,
}

impl Document {
    /// A mistake at a place in this document.
    pub(crate) fn mistake(&self, place: Place, cause: String, remedy: String) -> Mistake {
        Mistake {
            file: Arc::clone(&self.file),
            place: Some(place),
            cause,
            remedy,
        }
    }
}

/// Reads and validates the file at `path`.
///
/// # Errors
///
/// The file cannot be read ([`Mistakes::is_unreadable`]), is too large, or has mistakes.
pub fn load(path: &Path) -> Result<Document, Mistakes> {
    let label = path.display().to_string();
    let mut bytes = Vec::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes))
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
        Ok(text) => parse(&label, &text),
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
    let (rules, places) = draft.finish();
    Ok(Document {
        file: found.file,
        rules,
        places,
    })
}
