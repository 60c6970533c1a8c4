//! Mistakes in a rule file: the cause, the place and the remedy.
//!
//! Every finding about a file, from its syntax to an interface that is not there, is a
//! [`Mistake`], so that all of them read the same and can be reported in one go.

use std::{fmt, ops::Range, sync::Arc};

use super::{place::Lines, sections::Origin};

/// The most mistakes that are printed: as many as a screen has room for.
const SHOWN: usize = 20;
/// Reading stops after this many mistakes.
pub(super) const ENOUGH: usize = 1000;
/// The most characters of a value that a mistake quotes.
const QUOTED: usize = 60;

/// A value as mistakes quote it: at most one line, with characters that a terminal would interpret
/// escaped.
pub(crate) fn quoted(text: &str) -> String {
    let mut quoted: String = text
        .chars()
        .take(QUOTED)
        .flat_map(char::escape_debug)
        .collect();
    if text.chars().nth(QUOTED).is_some() {
        quoted.push_str(&format!("... ({} bytes)", text.len()));
    }
    quoted
}

/// A place in a rule file. Both numbers start at 1; columns count characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// The line.
    pub line: usize,
    /// The character in the line.
    pub column: usize,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}, column {}", self.line, self.column)
    }
}

/// One thing that is wrong with a rule file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistake {
    /// The file, as the user named it.
    pub file: Arc<str>,
    /// The place in the file; `None` when the file could not be read at all.
    pub place: Option<Place>,
    /// What is wrong.
    pub cause: String,
    /// What to do about it.
    pub remedy: String,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if let Some(place) = self.place {
            write!(f, ":{}:{}", place.line, place.column)?;
        }
        write!(f, ": {}\n    {}", self.cause, self.remedy)
    }
}

/// Everything that is wrong with a rule file: at least one mistake, in the file's order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistakes {
    list: Vec<Mistake>,
    /// Reading stopped at [`ENOUGH`] mistakes, so there may be more.
    is_cut: bool,
    unreadable: bool,
}

impl Mistakes {
    /// All of `list`, which must not be empty, file by file in the file's order.
    pub(crate) fn of(mut list: Vec<Mistake>) -> Self {
        list.sort_by(|a, b| (&a.file, a.place).cmp(&(&b.file, b.place)));
        Self {
            is_cut: false,
            list,
            unreadable: false,
        }
    }

    /// The same, of a search that stopped if there are [`ENOUGH`].
    pub(super) fn up_to_enough(list: Vec<Mistake>) -> Self {
        Self {
            is_cut: list.len() >= ENOUGH,
            ..Self::of(list)
        }
    }

    /// The one mistake of a file that could not be read.
    pub(crate) fn unreadable(file: &str, cause: String, remedy: &str) -> Self {
        let mistake = Mistake {
            file: file.into(),
            place: None,
            cause,
            remedy: remedy.to_owned(),
        };
        Self {
            list: vec![mistake],
            is_cut: false,
            unreadable: true,
        }
    }

    /// The mistakes, in the file's order.
    pub fn iter(&self) -> std::slice::Iter<'_, Mistake> {
        self.list.iter()
    }

    /// Whether the file could not be read at all, so that none of its content was checked.
    #[must_use]
    pub fn is_unreadable(&self) -> bool {
        self.unreadable
    }
}

impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for mistake in self.list.iter().take(SHOWN) {
            writeln!(f, "{mistake}")?;
        }
        let count = self.list.len();
        if let Some(more @ 1..) = count.checked_sub(SHOWN) {
            writeln!(f, "and {more} more")?;
        }
        match (self.is_cut, count) {
            (true, _) => write!(
                f,
                "{count} mistakes or more: the rest of the file was not read"
            ),
            (false, 1) => f.write_str("1 mistake"),
            (false, _) => write!(f, "{count} mistakes"),
        }
    }
}

impl std::error::Error for Mistakes {}

impl<'a> IntoIterator for &'a Mistakes {
    type Item = &'a Mistake;
    type IntoIter = std::slice::Iter<'a, Mistake>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

/// Collects the mistakes of one file while the reader walks it.
pub(super) struct Collector<'a> {
    pub(super) file: Arc<str>,
    pub(super) mistakes: Vec<Mistake>,
    lines: Lines<'a>,
    /// Where the part that is being read comes from.
    pub(super) origin: Origin,
}

impl<'a> Collector<'a> {
    pub(super) fn new(file: &str, text: &'a str) -> Self {
        Self {
            file: file.into(),
            mistakes: Vec::new(),
            lines: Lines::new(text),
            origin: Origin::default(),
        }
    }

    /// The place where a span of the current part's bytes starts.
    pub(super) fn place(&self, span: &Range<usize>) -> Place {
        self.place_in_file(self.origin.of(span.start))
    }

    pub(super) fn place_in_file(&self, offset: usize) -> Place {
        self.lines.place(offset)
    }

    /// All mistakes; there must be at least one.
    pub(super) fn into_mistakes(self) -> Mistakes {
        Mistakes::up_to_enough(self.mistakes)
    }

    /// Whether there are so many mistakes that the search for more can stop.
    pub(super) fn has_enough(&self) -> bool {
        self.mistakes.len() >= ENOUGH
    }

    /// Adds a mistake, unless there are [`ENOUGH`].
    pub(super) fn add(
        &mut self,
        place: Place,
        cause: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        if !self.has_enough() {
            self.add_always(place, cause, remedy);
        }
    }

    /// Adds a mistake in any case: for causes that a file has once or twice at most.
    pub(super) fn add_always(
        &mut self,
        place: Place,
        cause: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        self.mistakes.push(Mistake {
            file: Arc::clone(&self.file),
            place: Some(place),
            cause: cause.into(),
            remedy: remedy.into(),
        });
    }
}
