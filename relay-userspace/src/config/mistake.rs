//! What is wrong with a rule file, where, and what to do about it.
//!
//! Every finding about a file, from its syntax to an interface that is not there, is a
//! [`Mistake`], so that all of them read the same and can be reported in one go.

use std::{fmt, sync::Arc};

use crate::exit;

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
    /// Where in the file; `None` when the file could not be read at all.
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
    unreadable: bool,
}

impl Mistakes {
    /// All of `list`, which must not be empty, in the file's order.
    pub(crate) fn of(mut list: Vec<Mistake>) -> Self {
        list.sort_by_key(|mistake| mistake.place);
        Self {
            list,
            unreadable: false,
        }
    }

    /// The file could not be read, so nothing in it was looked at.
    pub(crate) fn unreadable(file: &str, cause: String, remedy: &str) -> Self {
        let mistake = Mistake {
            file: file.into(),
            place: None,
            cause,
            remedy: remedy.to_owned(),
        };
        Self {
            list: vec![mistake],
            unreadable: true,
        }
    }

    /// The mistakes, in the file's order.
    pub fn iter(&self) -> std::slice::Iter<'_, Mistake> {
        self.list.iter()
    }

    /// How the command ends that found them: [`exit::NO_INPUT`] or [`exit::CONFIG`].
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        if self.unreadable {
            exit::NO_INPUT
        } else {
            exit::CONFIG
        }
    }
}

impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for mistake in &self.list {
            writeln!(f, "{mistake}")?;
        }
        let count = self.list.len();
        write!(f, "{count} mistake{}", if count == 1 { "" } else { "s" })
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

/// Gathers the mistakes of one file while it is walked.
pub(super) struct Collector<'a> {
    pub(super) file: Arc<str>,
    pub(super) mistakes: Vec<Mistake>,
    lines: Lines<'a>,
}

impl<'a> Collector<'a> {
    pub(super) fn new(file: &str, text: &'a str) -> Self {
        Self {
            file: file.into(),
            mistakes: Vec::new(),
            lines: Lines::new(text),
        }
    }

    /// The place where a span of bytes starts.
    pub(super) fn place(&self, span: &std::ops::Range<usize>) -> Place {
        self.lines.place(span.start)
    }

    pub(super) fn add(
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

/// Turns byte offsets into places.
pub(super) struct Lines<'a> {
    text: &'a str,
    /// Where each line starts, and whether it is ASCII only, so that its columns are its bytes.
    starts: Vec<(usize, bool)>,
}

impl<'a> Lines<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        let mut starts = Vec::new();
        let mut start = 0;
        for line in text.split_inclusive('\n') {
            starts.push((start, line.is_ascii()));
            start += line.len();
        }
        if text.is_empty() || text.ends_with('\n') {
            starts.push((start, true));
        }
        Self { text, starts }
    }

    /// The place of the byte at `offset`; one beyond the end is the end of the file.
    pub(super) fn place(&self, offset: usize) -> Place {
        let offset = offset.min(self.text.len());
        let line = self.starts.partition_point(|&(start, _)| start <= offset);
        let (start, ascii) = self
            .starts
            .get(line.saturating_sub(1))
            .copied()
            .unwrap_or((0, true));
        let column = if ascii {
            offset - start
        } else {
            self.text
                .get(start..offset)
                .map_or(0, |before| before.chars().count())
        };
        Place {
            line,
            column: column + 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_count_characters_and_lines_start_at_one() {
        let lines = Lines::new("ab\nÄ=1\n");
        for (offset, line, column) in [
            (0, 1, 1),
            (1, 1, 2),
            (2, 1, 3),
            (3, 2, 1),
            (5, 2, 2),
            (6, 2, 3),
            (8, 3, 1),
            (99, 3, 1),
        ] {
            assert_eq!(
                lines.place(offset),
                Place { line, column },
                "offset {offset}"
            );
        }
    }
}
