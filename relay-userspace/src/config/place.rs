//! Converts offsets in the file to lines and columns. It stores one place per [`STEP`] bytes and
//! not one per line: a file may have sixteen million lines.

use super::Place;

/// Bytes between two stored places.
const STEP: usize = 1 << 10;

/// Turns byte offsets into places.
pub(super) struct Lines<'a> {
    text: &'a str,
    /// The place of the first character at or after every multiple of [`STEP`].
    known: Vec<Place>,
}

impl<'a> Lines<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        let mut known = Vec::with_capacity(text.len() / STEP + 1);
        let (mut place, mut from) = (Place { line: 1, column: 1 }, 0);
        known.push(place);
        while from + STEP < text.len() {
            let to = text.ceil_char_boundary((known.len()) * STEP);
            place = advance(place, text.get(from..to).unwrap_or_default());
            known.push(place);
            from = to;
        }
        Self { text, known }
    }

    /// The place of the byte at `offset`; for an offset beyond the end, the end of the file.
    pub(super) fn place(&self, offset: usize) -> Place {
        let offset = self.text.floor_char_boundary(offset.min(self.text.len()));
        let step = (offset / STEP).min(self.known.len().saturating_sub(1));
        let known = self.known.get(step).copied();
        let from = self.text.ceil_char_boundary(step * STEP);
        let between = self.text.get(from..offset).unwrap_or_default();
        advance(known.unwrap_or(Place { line: 1, column: 1 }), between)
    }
}

/// The place after `text`, which begins at `place`.
fn advance(place: Place, text: &str) -> Place {
    match text.rfind('\n') {
        None => Place {
            column: place.column + text.chars().count(),
            ..place
        },
        Some(last) => Place {
            line: place.line + text.bytes().filter(|&byte| byte == b'\n').count(),
            column: text.get(last + 1..).unwrap_or_default().chars().count() + 1,
        },
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

    #[test]
    fn every_character_of_a_long_file_has_its_place() {
        // Lines of many lengths, some longer than a step, with characters of one to four bytes.
        let mut text = String::new();
        for length in (0..200).chain([STEP - 1, STEP, STEP + 1, 3 * STEP]) {
            text.extend("aÄ€𝄞".chars().cycle().take(length));
            text.push('\n');
        }
        let lines = Lines::new(&text);
        let mut expected = Place { line: 1, column: 1 };
        for (offset, c) in text.char_indices() {
            assert_eq!(lines.place(offset), expected, "offset {offset}");
            expected = match c {
                '\n' => Place {
                    line: expected.line + 1,
                    column: 1,
                },
                _ => Place {
                    column: expected.column + 1,
                    ..expected
                },
            };
        }
        assert_eq!(lines.place(text.len()), expected);
    }
}
