//! The rule file: from any text to a plan.
//!
//! Input: the text.

use relay::{
    config::{self, Document, rules::Vlan},
    plan::{self, Constraints, Datagram, Verdict},
};

use crate::hosts;

/// The file's name in mistakes.
const FILE: &str = "relay.toml";

/// Runs the target.
pub fn run(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    match config::parse(FILE, text) {
        Ok(document) => serves(&document),
        Err(mistakes) => have_places(&mistakes, text),
    }
}

/// Every mistake names a line of the text, and can be printed.
fn have_places(mistakes: &config::Mistakes, text: &str) {
    let lines = text.lines().count() + 1;
    let mut count = 0;
    for mistake in mistakes.iter() {
        count += 1;
        let place = mistake.place.unwrap();
        assert!(
            (1..=lines).contains(&place.line),
            "{mistake} of {lines} lines"
        );
        assert!(place.column >= 1, "{mistake}");
        assert!(!mistake.cause.is_empty() && !mistake.remedy.is_empty());
        let printed = mistake.to_string();
        let is_printable = |letter: char| letter == '\n' || !letter.is_control();
        assert!(printed.chars().all(is_printable), "{printed:?}");
    }
    assert!(count > 0 && !mistakes.is_unreadable());
    assert!(mistakes.to_string().starts_with(FILE));
}

/// What has no mistakes can be written, compared, planned and explained.
fn serves(document: &Document) {
    let written = config::to_toml(&document.rules);
    let again = config::parse(FILE, &written).unwrap();
    assert_eq!(again.rules, document.rules, "{written}");
    assert!(plan::diff(document, &again).is_empty());
    assert!(
        config::merge(document, document).is_err(),
        "every name is there twice"
    );
    for rule in &document.rules.rules {
        let others = document.without(&rule.name).unwrap();
        let difference = plan::diff(document, &others);
        assert_eq!(difference.removed, std::slice::from_ref(&rule.name));
        assert_eq!(difference.unchanged, others.rules.rules.len());
    }
    let host = hosts::of(document);
    let constraints = Constraints::default();
    match plan::build(document, &host, &constraints) {
        Ok(plan) => {
            let rules = document.rules.rules.iter();
            assert_eq!(plan.flows.len(), rules.filter(|rule| rule.enabled).count());
            assert!(!plan.to_string().is_empty() || plan.flows.is_empty());
            serde_json::to_vec(&plan).unwrap();
        }
        Err(mistakes) => assert!(mistakes.iter().all(|mistake| mistake.place.is_some())),
    }
    let arranged = plan::arrange(document, &host, &constraints).ok();
    for rule in &document.rules.rules {
        let matches = &rule.input.matches;
        let datagram = Datagram {
            interface: &rule.input.interface,
            group: matches.group.last(),
            port: matches.ports.bounds().1,
            source: matches.sources.last().copied(),
            vlan: matches.vlan,
        };
        let explained = plan::explain(document, arranged.as_ref(), &datagram);
        assert_ne!(explained.verdict, Verdict::NotTaken, "{}", rule.name);
        let elsewhere = Datagram {
            vlan: match matches.vlan {
                Vlan::Untagged => Vlan::Tag(7),
                _ => Vlan::Untagged,
            },
            ..datagram
        };
        assert!(
            !plan::explain(document, None, &elsewhere)
                .to_string()
                .is_empty()
        );
    }
}
