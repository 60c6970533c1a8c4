//! Cuts a file into its tables, so that at most one of them is in memory as a tree: tokens, events
//! and values of TOML take up to seventy times the bytes of the text.
//!
//! A part begins at a line `[[rules]]` or `[[interfaces]]` and ends before the next one; the text
//! before the first such line is a part too. A part has no comments, empty lines or indentation,
//! because a file may consist of them. A part knows where in the file each of its bytes is.

use toml_parser::{
    Source,
    lexer::{Lexer, Token, TokenKind},
};

/// The most bytes of one part: several times the length of a rule with the most outputs.
pub(super) const MAX_PART_BYTES: usize = 512 << 10;

/// The kind of a part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// The text before the first `[[rules]]` or `[[interfaces]]`.
    Head,
    Rule,
    Interface,
}

/// A piece of the file that is TOML by itself.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) kind: Kind,
    /// Cut short if the part is too large.
    pub(super) text: String,
    /// Its offset in the file.
    pub(super) start: usize,
    pub(super) is_too_large: bool,
    pub(super) origin: Origin,
}

/// Where the bytes of a part are in the file.
#[derive(Debug, Clone, Default)]
pub(super) struct Origin(
    /// Pairs of offsets, in the part and in the file, ascending. From each pair to the next, part
    /// and file have the same bytes.
    Vec<(usize, usize)>,
);

impl Origin {
    /// The offset in the file of an offset in the part.
    pub(super) fn of(&self, offset: usize) -> usize {
        let next = self.0.partition_point(|&(part, _)| part <= offset);
        let (part, file) = next
            .checked_sub(1)
            .and_then(|at| self.0.get(at).copied())
            .unwrap_or((0, 0));
        file + (offset - part)
    }
}

impl Part {
    fn new(kind: Kind, start: usize) -> Self {
        Self {
            kind,
            text: String::new(),
            start,
            is_too_large: false,
            origin: Origin::default(),
        }
    }

    fn push(&mut self, text: &str, at: usize) {
        if self.is_too_large || self.text.len() + text.len() > MAX_PART_BYTES {
            self.is_too_large = true;
            return;
        }
        if self.origin.0.is_empty() || self.origin.of(self.text.len()) != at {
            self.origin.0.push((self.text.len(), at));
        }
        self.text.push_str(text);
    }
}

/// The parts of a file, in the file's order.
pub(super) struct Parts<'t> {
    text: &'t str,
    tokens: Lexer<'t>,
    /// The header that ended the last part, and the kind of the part that it begins.
    header: Option<(Token, Kind)>,
}

impl<'t> Parts<'t> {
    pub(super) fn of(text: &'t str) -> Self {
        Self {
            text,
            tokens: Source::new(text).lex(),
            header: None,
        }
    }

    fn raw(&self, token: Token) -> &'t str {
        let span = token.span();
        self.text.get(span.start()..span.end()).unwrap_or_default()
    }

    /// The kind of part that a line begins whose first token is `token`; `None` if it is no header.
    ///
    /// A line `[[rules]]` is a header even inside an array, where it would not be a valid value: so
    /// a bracket left open above it does not hide the rest of the file.
    fn header(&self, token: Token) -> Option<Kind> {
        let blank = [' ', '\t'];
        let line = self.text.get(token.span().start()..)?.strip_prefix("[[")?;
        let line = line.trim_start_matches(blank);
        let (kind, line) = match line.strip_prefix("rules") {
            Some(line) => (Kind::Rule, line),
            None => (Kind::Interface, line.strip_prefix("interfaces")?),
        };
        let line = line.trim_start_matches(blank).strip_prefix("]]")?;
        let line = line.trim_start_matches(blank);
        (line.is_empty() || line.starts_with(['\n', '\r', '#'])).then_some(kind)
    }
}

impl Iterator for Parts<'_> {
    type Item = Part;

    fn next(&mut self) -> Option<Part> {
        let mut part = match self.header.take() {
            Some((bracket, kind)) => {
                let mut part = Part::new(kind, bracket.span().start());
                part.push(self.raw(bracket), bracket.span().start());
                part
            }
            None => Part::new(Kind::Head, 0),
        };
        let mut line_begins = part.kind == Kind::Head;
        while let Some(token) = self.tokens.next() {
            let (raw, at) = (self.raw(token), token.span().start());
            match token.kind() {
                TokenKind::Newline if line_begins => {}
                TokenKind::Newline => {
                    line_begins = true;
                    part.push(raw, at);
                }
                TokenKind::Whitespace if line_begins => {}
                TokenKind::Whitespace => part.push(raw.get(..1).unwrap_or_default(), at),
                // A control character in a comment is a mistake, which the parser reports.
                TokenKind::Comment if !raw.contains(|c: char| c.is_control() && c != '\t') => {}
                TokenKind::Eof => {}
                TokenKind::LeftSquareBracket if line_begins => {
                    if let Some(kind) = self.header(token) {
                        self.header = Some((token, kind));
                        return Some(part);
                    }
                    line_begins = false;
                    part.push(raw, at);
                }
                _ => {
                    line_begins = false;
                    part.push(raw, at);
                }
            }
        }
        // After the last part, whose header was taken above, nothing is left to return.
        (part.kind != Kind::Head || !part.text.is_empty() || part.is_too_large).then_some(part)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(text: &str) -> Vec<(Kind, usize, String)> {
        let parts = Parts::of(text);
        parts
            .map(|part| (part.kind, part.start, part.text))
            .collect()
    }

    #[test]
    fn tables_are_cut_apart_and_empty_lines_and_comments_left_out() {
        let text = "# head\n\n  [[rules]] # one\n\n\n  name  =  \"a # b\"\n[ rules.input ]\nport = 1\n\
                    [[interfaces]]\nname = '''\n[[rules]]\n'''\n[[ rules ]]\n";
        let (first, second) = (text.find("[[rules]]").unwrap(), text.find("[[i").unwrap());
        let third = text.find("[[ r").unwrap();
        let expected = [
            (Kind::Head, 0, String::new()),
            (
                Kind::Rule,
                first,
                "[[rules]] \nname = \"a # b\"\n[ rules.input ]\nport = 1\n".to_owned(),
            ),
            (
                Kind::Interface,
                second,
                "[[interfaces]]\nname = '''\n[[rules]]\n'''\n".to_owned(),
            ),
            (Kind::Rule, third, "[[ rules ]]\n".to_owned()),
        ];
        assert_eq!(parts(text), expected);
        for part in Parts::of(text) {
            for (offset, c) in part.text.char_indices() {
                let file = text.get(part.origin.of(offset)..).unwrap();
                assert!(
                    file.starts_with(c),
                    "{c:?} of {:?} is at {file:?}",
                    part.text
                );
            }
        }
    }

    #[test]
    fn a_header_is_found_behind_an_open_bracket_and_not_within_a_line() {
        let open = "[[rules]]\noutputs = [\n{ port = 1 },\n[[rules]]\nx = 1\n";
        assert_eq!(parts(open).len(), 3, "{:?}", parts(open));
        for none in [
            "x = [[rules]]\n",
            "[[rules]].x\n",
            "[[rule]]\n",
            "[rules]\n",
        ] {
            assert_eq!(parts(none).len(), 1, "{none:?}");
        }
        assert_eq!(parts(""), []);
        assert_eq!(parts("\n\n# nothing\n"), []);
    }

    #[test]
    fn a_part_that_is_too_large_is_not_kept_and_those_behind_it_are() {
        let large = "y".repeat(MAX_PART_BYTES);
        let text = format!("[[rules]]\nname = \"{large}\"\n[[rules]]\nname = \"b\"\n");
        let parts: Vec<Part> = Parts::of(&text).collect();
        let large: Vec<bool> = parts.iter().map(|part| part.is_too_large).collect();
        assert_eq!(large, [false, true, false]);
        assert!(parts.iter().all(|part| part.text.len() <= MAX_PART_BYTES));
        assert_eq!(parts[2].text, "[[rules]]\nname = \"b\"\n");
    }
}
