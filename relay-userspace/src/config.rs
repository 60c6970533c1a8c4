//! The rule file: TOML text in, a validated [`Document`] or every mistake in it out.
//!
//! The file is walked table by table, each as a tree of values with their places, instead of being
//! deserialised, because deserialisation stops at the first wrong type and a user wants all mistakes
//! at once. Whatever the file says, reading it takes memory and time that its size bounds. A
//! [`Document`] keeps the places, so that later findings about an interface point into the file too.

mod check;
mod draft;
mod mistake;
mod parts;
mod place;
mod read;
#[cfg(test)]
mod tests;
mod values;

use std::{io::Read as _, path::Path, sync::Arc};

pub(crate) use mistake::quoted;
pub use mistake::{Mistake, Mistakes, Place};

use crate::rules::Rules;

/// The largest file that is read: far more than [`MAX_RULES`] rules need.
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
    /// What it says.
    pub rules: Rules,
    /// Where it says so.
    pub places: Places,
}

/// Where everything in a [`Document`] stands; same order and lengths as in its [`Rules`].
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Places {
    /// One a rule.
    pub rules: Vec<RulePlaces>,
    /// One an `[[interfaces]]` table.
    pub interfaces: Vec<InterfacePlaces>,
}

/// Where one rule stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RulePlaces {
    /// The rule.
    pub rule: Place,
    /// Its `input` table.
    pub input: Place,
    /// The interface in its `input`.
    pub input_interface: Place,
    /// One an output.
    pub outputs: Vec<OutputPlaces>,
}

/// Where one output stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutputPlaces {
    /// The output's table.
    pub output: Place,
    /// The interface in it.
    pub interface: Place,
}

/// Where one `[[interfaces]]` table stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InterfacePlaces {
    /// The name.
    pub name: Place,
    /// One a queue, in the order of the rules' queues.
    pub queues: Vec<Place>,
    /// One a CPU.
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
/// The file cannot be read ([`Mistakes::exit_code`] tells), is too large, or has mistakes.
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

/// Validates the text of a rule file; `path_label` is what mistakes call the file.
///
/// # Errors
///
/// Every mistake in the text. Only wrong TOML syntax hides other mistakes.
pub fn parse(path_label: &str, text: &str) -> Result<Document, Mistakes> {
    let mut found = mistake::Collector::new(path_label, text);
    let Some(draft) = read::read(text, &mut found) else {
        return Err(found.into_mistakes());
    };
    check::check(&draft, &mut found);
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
