//! Rules that feed one another in a circle: a datagram would go round for ever.
//!
//! A depth-first search: an edge leads from a rule to each rule whose input is one of its outputs,
//! and an edge back to a rule on the current branch closes a cycle. It keeps its own stack instead
//! of recursing, because a chain of rules may be as long as the file.

/// The most rules of a cycle that a mistake names.
const NAMED_RULES: usize = 12;

/// A rule on a cycle, and the output by which it feeds the next one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Step {
    pub(super) rule: usize,
    pub(super) output: usize,
}

/// What an output of a rule feeds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Feeds {
    /// The rule at this position.
    Rule(usize),
    /// No rule.
    Nothing,
    /// The rule has no such output, nor any after it.
    End,
}

/// Calls `report` with cycles of the `count` rules, as long as it returns true: with at least one
/// of those that can be reached from `roots`, if there is any. An output that feeds its own rule is
/// no cycle here.
pub(super) fn find(
    count: usize,
    roots: impl Iterator<Item = usize>,
    feeds: impl Fn(Step) -> Feeds,
    mut report: impl FnMut(&[Step]) -> bool,
) {
    #[derive(Clone, Copy, PartialEq)]
    enum Seen {
        Never,
        OnTheWay(usize),
        Done,
    }
    let mut seen = vec![Seen::Never; count];
    let mut way: Vec<Step> = Vec::new();
    for root in roots {
        if seen.get(root) != Some(&Seen::Never) {
            continue;
        }
        seen[root] = Seen::OnTheWay(0);
        way.push(Step {
            rule: root,
            output: 0,
        });
        while let Some(&step) = way.last() {
            let mut next = None;
            match feeds(step) {
                Feeds::End => {
                    seen[step.rule] = Seen::Done;
                    way.pop();
                }
                Feeds::Nothing => {}
                Feeds::Rule(fed) => match seen[fed] {
                    Seen::OnTheWay(from) if fed != step.rule => {
                        if !report(way.get(from..).unwrap_or_default()) {
                            return;
                        }
                    }
                    Seen::OnTheWay(_) | Seen::Done => {}
                    Seen::Never => {
                        seen[fed] = Seen::OnTheWay(way.len());
                        next = Some(Step {
                            rule: fed,
                            output: 0,
                        });
                    }
                },
            }
            match next {
                Some(next) => way.push(next),
                None => advance(&mut way),
            }
        }
    }
}

/// Goes on with the next output of the last rule.
fn advance(way: &mut [Step]) {
    if let Some(last) = way.last_mut() {
        last.output += 1;
    }
}

/// "a -> b -> a"
pub(super) fn circle(mut rules: Vec<&str>) -> String {
    let hidden = rules.len().saturating_sub(NAMED_RULES);
    let first = rules.first().copied().unwrap_or_default();
    rules.truncate(NAMED_RULES);
    let more = if hidden > 0 {
        format!(" -> {hidden} more")
    } else {
        String::new()
    };
    format!("{}{more} -> {first}", rules.join(" -> "))
}
