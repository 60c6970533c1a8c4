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

/// An output of a rule, and a rule that it feeds: their positions.
pub(super) type Edge = (u32, u32);

/// A rule on the branch, with the next edge to follow.
struct OnTheWay {
    rule: usize,
    edges: Vec<Edge>,
    next: usize,
}

/// Calls `report` with cycles of the `count` rules, as long as it returns true: with at least one
/// of those that can be reached from `roots`, if there is any. `fed` is asked once for the edges of
/// a rule. An output that feeds its own rule is no cycle here.
pub(super) fn find(
    count: usize,
    roots: impl Iterator<Item = usize>,
    fed: impl Fn(usize) -> Vec<Edge>,
    mut report: impl FnMut(&[Step]) -> bool,
) {
    #[derive(Clone, Copy, PartialEq)]
    enum Seen {
        Never,
        OnTheWay(usize),
        Done,
    }
    let mut seen = vec![Seen::Never; count];
    let mut way: Vec<OnTheWay> = Vec::new();
    let enter = |rule| OnTheWay {
        rule,
        edges: fed(rule),
        next: 0,
    };
    for root in roots {
        if seen.get(root) != Some(&Seen::Never) {
            continue;
        }
        seen[root] = Seen::OnTheWay(0);
        way.push(enter(root));
        while let Some(last) = way.last_mut() {
            let Some(&(_, fed)) = last.edges.get(last.next) else {
                seen[last.rule] = Seen::Done;
                way.pop();
                if let Some(last) = way.last_mut() {
                    last.next += 1;
                }
                continue;
            };
            let (rule, fed) = (last.rule, fed as usize);
            match seen[fed] {
                Seen::Never => {
                    seen[fed] = Seen::OnTheWay(way.len());
                    way.push(enter(fed));
                    continue;
                }
                Seen::OnTheWay(from) if fed != rule => {
                    let steps = way.get(from..).unwrap_or_default().iter().map(step);
                    if !report(&steps.collect::<Vec<_>>()) {
                        return;
                    }
                }
                Seen::OnTheWay(_) | Seen::Done => {}
            }
            if let Some(last) = way.last_mut() {
                last.next += 1;
            }
        }
    }
}

fn step(on_the_way: &OnTheWay) -> Step {
    let edge = on_the_way.edges.get(on_the_way.next);
    Step {
        rule: on_the_way.rule,
        output: edge.map_or(0, |&(output, _)| output as usize),
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
