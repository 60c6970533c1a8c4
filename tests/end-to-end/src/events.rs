//! Counts what the log says: an event is a line, or one of those that a sum stands for.

/// How many events of a `kind` the log has, each with one of `texts` in it where it is a line of
/// its own; and how many lines say so.
pub fn count(log: &str, kind: &str, texts: &[&str]) -> Counted {
    let sum = format!("{kind}: and ");
    let mut counted = Counted::default();
    for line in log.lines() {
        let number = match line.split_once(&sum) {
            Some((_, rest)) => rest
                .split_once(" more in ")
                .and_then(|(number, _)| number.replace(',', "").parse().ok())
                .unwrap_or(0),
            None => u64::from(texts.iter().any(|text| line.contains(text))),
        };
        counted.events += number;
        counted.lines += u64::from(number > 0);
    }
    counted
}

/// What the log says of events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counted {
    /// How often it happened.
    pub events: u64,
    /// Lines that say so.
    pub lines: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sum_stands_for_as_many_as_it_says_and_a_line_for_one() {
        let log = "WARN x] rule feed is silent\n\
                   INFO x] silence of rule feed: and 4,211 more in 10 s; the last: rule feed is silent\n\
                   INFO x] silence of rule other: and 3 more in 10 s\n\
                   INFO x] nothing\n";
        let counted = count(log, "silence of rule feed", &["rule feed is silent"]);
        assert_eq!((counted.events, counted.lines), (4212, 2));
    }
}
