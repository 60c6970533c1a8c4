//! Tables for people.

use std::fmt::Write as _;

/// A table: columns as wide as their widest cell, and lines of text below a row.
#[derive(Debug)]
pub struct Table<const COLUMNS: usize> {
    head: [&'static str; COLUMNS],
    /// How many columns from the left hold text; the others hold numbers, and stand to the right.
    texts: usize,
    rows: Vec<Row<COLUMNS>>,
}

#[derive(Debug)]
struct Row<const COLUMNS: usize> {
    cells: [String; COLUMNS],
    notes: Vec<String>,
}

impl<const COLUMNS: usize> Table<COLUMNS> {
    /// An empty table, whose first `texts` columns hold text.
    pub fn new(head: [&'static str; COLUMNS], texts: usize) -> Self {
        let rows = Vec::new();
        Self { head, texts, rows }
    }

    /// Adds a row, and what is to be said below it; empty texts are left out.
    pub fn add(&mut self, cells: [String; COLUMNS], notes: impl IntoIterator<Item = String>) {
        let notes = notes.into_iter().filter(|note| !note.is_empty()).collect();
        self.rows.push(Row { cells, notes });
    }

    /// The table, every line after `indent`; nothing if it has no rows.
    pub fn to_text(&self, indent: &str) -> String {
        if self.rows.is_empty() {
            return String::new();
        }
        let mut widths = self.head.map(str::len);
        for row in &self.rows {
            for (width, cell) in widths.iter_mut().zip(&row.cells) {
                *width = (*width).max(cell.chars().count());
            }
        }
        let mut text = self.line(indent, &widths, self.head);
        for row in &self.rows {
            let cells = row.cells.each_ref().map(String::as_str);
            text.push_str(&self.line(indent, &widths, cells));
            for note in &row.notes {
                let _ = writeln!(text, "{indent}    {note}");
            }
        }
        text
    }

    fn line(&self, indent: &str, widths: &[usize; COLUMNS], cells: [&str; COLUMNS]) -> String {
        let mut line = indent.to_owned();
        for (number, (cell, width)) in cells.iter().zip(widths).enumerate() {
            let gap = if number == 0 { "" } else { "  " };
            let _ = match number < self.texts {
                true => write!(line, "{gap}{cell:width$}"),
                false => write!(line, "{gap}{cell:>width$}"),
            };
        }
        let mut line = line.trim_end().to_owned();
        line.push('\n');
        line
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_notes_stand_below_their_row() {
        let mut table = Table::new(["RULE", "STATE", "SENT"], 2);
        assert_eq!(table.to_text(""), "");
        table.add(["a", "active", "12345"].map(Into::into), [String::new()]);
        let why = "its interface is missing".to_owned();
        table.add(["feed-b", "pending", "0"].map(Into::into), [why]);
        assert_eq!(
            table.to_text(" "),
            "\x20\
RULE    STATE     SENT
 a       active   12345
 feed-b  pending      0
     its interface is missing
"
        );
    }
}
