//! A fragment that is added to the rules that run.

use super::*;

fn base_text() -> String {
    rule(
        "a",
        &at("in0", "239.1.1.1", 1),
        &[&at("out0", "239.2.1.1", 1)],
    ) + &rule(
        "b",
        &at("in0", "239.1.1.2", 1),
        &[&at("out0", "239.2.1.2", 1)],
    ) + "[[interfaces]]\nname = \"in0\"\ncpus = [1]\n"
}

fn base() -> Document {
    parse("relay.toml", &base_text()).unwrap()
}

fn fragment(text: &str) -> Document {
    parse("more.toml", text).unwrap()
}

#[test]
fn a_fragment_is_added_with_its_places_and_its_file() {
    let base = base();
    let fragment = fragment(
        &(rule(
            "c",
            &at("in1", "239.1.1.1", 1),
            &[&at("out0", "239.2.1.1", 1)],
        ) + "[[interfaces]]\nname = \"in1\"\ncpus = [2]\n"),
    );
    let merged = merge(&base, &fragment).unwrap();
    let names: Vec<&str> = merged.rules.rules.iter().map(|r| r.name.as_str()).collect();
    assert_eq!(names, ["a", "b", "c"]);
    assert_eq!(&*merged.file, "relay.toml");
    assert_eq!(&*merged.places.rules[2].file, "more.toml");
    assert_eq!(merged.places.rules[2].rule, Place { line: 1, column: 1 });
    assert_eq!(merged.rules.interfaces.len(), 2);
    assert_eq!(&*merged.places.interfaces[1].file, "more.toml");
    assert_eq!(merged.without("c").unwrap(), base);
    let read = parse("relay.toml", &to_toml(&merged.rules)).unwrap();
    assert_eq!(read.rules, merged.rules);
}

#[test]
fn what_does_not_go_with_the_running_rules_is_a_mistake_in_the_fragment() {
    let out = at("out0", "239.3.1.1", 1);
    let new_input = at("in1", "239.1.1.1", 1);
    let cases = [
        (
            rule("a", &new_input, &[&out]),
            "more.toml:1:1: the name `a` is taken: the running rule at relay.toml, line 1, column 1 has it",
        ),
        (
            rule("c", &at("in0", "239.1.1.2", 1), &[&out]),
            "more.toml:3:9: rule `c` has the same input as the running rule `b` at relay.toml, line \
             9, column 9: 239.1.1.2:1 on in0",
        ),
        (
            rule(
                "c",
                &at("out0", "239.2.1.1", 1),
                &[&out, &at("in0", "239.1.1.2", 1)],
            ) + &rule(
                "d",
                &at("out0", "239.2.1.2", 1),
                &[&at("in0", "239.1.1.1", 1)],
            ),
            "more.toml:6:1: rules would feed one another in a circle: rule `c` -> rule `b` -> rule \
             `d` -> rule `a` -> rule `c`; this output is part of it",
        ),
        (
            rule("c", &at("in0", "239.1.1.3", 1), &[&out])
                + "[[interfaces]]\nname = \"in0\"\ncpus = [2]\n",
            "more.toml:8:8: interface `in0` has other options already: its table is at relay.toml, \
             line 14, column 8",
        ),
    ];
    for (text, expected) in cases {
        let mistakes = merge(&base(), &fragment(&text)).unwrap_err();
        assert_eq!(mistakes.iter().count(), 1, "{mistakes}");
        assert!(
            mistakes.to_string().starts_with(expected),
            "{mistakes}\n{expected}"
        );
    }
}

#[test]
fn all_mistakes_of_a_fragment_are_told_at_once_and_a_same_table_is_none() {
    let mistakes = merge(&base(), &fragment(&base_text())).unwrap_err();
    assert_eq!(mistakes.iter().count(), 4, "{mistakes}");
}

#[test]
fn inputs_that_overlap_and_too_many_memberships_are_mistakes_in_the_fragment() {
    let out = at("out0", "239.3.1.1", 1);
    let input = |group: &str, port: &str| {
        format!("interface = \"in0\", group = \"{group}\", port = {port}")
    };
    let base = fragment(&rule("a", &input("239.1.1.0/24", "\"1-9\""), &[&out]));
    let text = rule("b", &input("239.1.1.0/24", "\"9-10\""), &[&out]);
    let found = merge(&base, &fragment(&text)).unwrap_err().to_string();
    let expected = "more.toml:3:9: rule `b` is as specific as the running rule `a` at more.toml, line \
                    3, column 9, and both take 239.1.1.0/24:9 on in0";
    assert!(found.starts_with(expected), "{found}");
    let finer = rule("b", &input("239.1.1.0/25", "\"9-10\""), &[&out]);
    merge(&base, &fragment(&finer)).unwrap();

    let many = (0..256_u16).map(|number| {
        let group = format!("239.{}.{}.0/22", 64 + number / 64, number % 64 * 4);
        rule(&format!("r{number}"), &input(&group, "7"), &[&out])
    });
    let many = fragment(&many.collect::<String>());
    let found = merge(&base, &many).unwrap_err().to_string();
    let expected = "more.toml:1533:9: the rules up to rule `r255` join more than 262144 groups";
    assert!(found.starts_with(expected), "{found}");
}

#[test]
fn more_rules_than_one_relay_has_are_refused() {
    let one = parse(
        "relay.toml",
        &rule(
            "a",
            &at("in0", "239.1.1.1", 1),
            &[&at("out0", "239.2.1.1", 1)],
        ),
    )
    .unwrap();
    let numbered = (1..MAX_RULES).map(|number| {
        let mut rule = one.rules.rules[0].clone();
        rule.name = number.to_string();
        rule.input.matches.group = [239, 1, (number >> 8) as u8, number as u8].into();
        (rule, one.places.rules[0].clone())
    });
    let base = one.with_rules(numbered);
    let rule = |name: &str, port| {
        rule(
            name,
            &at("in1", "239.1.1.1", port),
            &[&at("out0", "239.2.1.1", 1)],
        )
    };
    let one = fragment(&rule("a", 1));
    assert_eq!(merge(&base, &one).unwrap().rules.rules.len(), MAX_RULES);
    let two = fragment(&(rule("a", 1) + &rule("b", 2)));
    let mistakes = merge(&base, &two).unwrap_err().to_string();
    let expected = "more.toml:7:1: with these rules there are 65537; 65536 are possible";
    assert!(mistakes.starts_with(expected), "{mistakes}");
}
