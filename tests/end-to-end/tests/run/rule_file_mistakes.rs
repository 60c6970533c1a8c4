//! Mistakes in the rule file: each is refused with its line and a remedy, all of them at once, and
//! a correct file changes nothing until the relay runs.

use std::sync::Arc;

use anyhow::{Context, Result};
use relay_tests::backend::Backend;
use relay_tests::netns::Namespace;
use relay_tests::relay::{RuleFile, relay};
use relay_tests::rules::{Rule, to_toml};
use relay_tests::topology::Testbed;
use relay_tests::veth::{End, connect};

const HEAD: &str = "[[rules]]\nname = \"a\"\n";

fn o3_every_mistake_in_a_rule_file_is_refused_with_its_line_and_a_remedy(
    backend: Backend,
) -> Result<()> {
    let bed = Testbed::builder().without_capture().build()?;
    let input = "input = { interface = \"in0\", group = \"239.1.1.1\", port = 5001 }\n";
    let outputs = "outputs = [{ interface = \"out0\", group = \"239.2.2.2\", port = 5002 }]\n";
    let whole = format!("{HEAD}{input}{outputs}");
    let second =
        |input: &str, outputs: &str| format!("{whole}[[rules]]\nname = \"b\"\n{input}{outputs}");
    // (what, file, line of the mistake, words that its message has)
    let cases: Vec<(&str, String, usize, &[&str])> = vec![
        (
            "unknown key",
            format!("{HEAD}{input}{outputs}colour = \"red\"\n"),
            5,
            &["colour"],
        ),
        (
            "wrong type",
            whole.replace("5001", "\"5001\""),
            3,
            &["port"],
        ),
        (
            "unicast input",
            whole.replace("239.1.1.1", "10.1.0.1"),
            3,
            &["10.1.0.1", "multicast"],
        ),
        (
            "unicast output",
            whole.replace("239.2.2.2", "10.1.0.1"),
            4,
            &["10.1.0.1", "multicast"],
        ),
        (
            "no address",
            whole.replace("239.1.1.1", "239.1.1"),
            3,
            &["239.1.1"],
        ),
        (
            "input port 0",
            whole.replace("5001", "0"),
            3,
            &["port", "0"],
        ),
        (
            "output port 0",
            whole.replace("5002", "0"),
            4,
            &["port", "0"],
        ),
        (
            "port too large",
            whole.replace("5001", "65536"),
            3,
            &["65536"],
        ),
        (
            "no outputs",
            format!("{HEAD}{input}outputs = []\n"),
            4,
            &["outputs"],
        ),
        (
            "TTL 0",
            whole.replace("5002 }", "5002, ttl = 0 }"),
            4,
            &["ttl"],
        ),
        ("no input", format!("{HEAD}{outputs}"), 1, &["input"]),
        ("syntax", format!("{HEAD}input = {{ interface = \n"), 3, &[]),
        (
            "duplicate input",
            second(input, outputs),
            7,
            &["same input"],
        ),
        (
            "duplicate name",
            format!("{whole}{}", whole.replace("5001", "5003")),
            6,
            &["name", "`a`"],
        ),
        (
            "output feeds its own input",
            whole.replace(
                "\"out0\", group = \"239.2.2.2\", port = 5002",
                "\"in0\", group = \"239.1.1.1\", port = 5001",
            ),
            4,
            &["in0"],
        ),
        (
            "cycle through two rules",
            second(
                "input = { interface = \"out0\", group = \"239.2.2.2\", port = 5002 }\n",
                "outputs = [{ interface = \"in0\", group = \"239.1.1.1\", port = 5001 }]\n",
            ),
            8,
            &["circle"],
        ),
    ];
    for (what, text, line, words) in cases {
        let file = RuleFile::new(&text)?;
        let path = file.path().display().to_string();
        let run = ["run", "--backend", backend.name(), &path];
        for arguments in [&["check", &path][..], &run] {
            let finished = relay(&bed.relay, arguments)?;
            assert_eq!(
                finished.code,
                Some(78),
                "{arguments:?} with {what}: {finished:?}"
            );
            finished.assert_mistake(&file, line, words);
        }
    }
    Ok(())
}

#[test]
fn o3_all_mistakes_are_reported_in_one_go() -> Result<()> {
    let namespace = Namespace::new("check")?;
    let file = RuleFile::new(
        "[[rules]]\n\
         name = \"a\"\n\
         input = { interface = \"in0\", group = \"10.1.1.1\", port = 0 }\n\
         outputs = [\n  { interface = \"out0\", group = \"239.2.2.2\", port = 5002, ttl = 0 },\n]\n\
         color = 1\n",
    )?;
    let finished = relay(&namespace, &["check", &file.path().display().to_string()])?;
    assert_eq!(finished.code, Some(78), "{finished:?}");
    finished.assert_mistake(&file, 3, &["10.1.1.1"]);
    finished.assert_mistake(&file, 3, &["port"]);
    finished.assert_mistake(&file, 5, &["ttl"]);
    finished.assert_mistake(&file, 7, &["color"]);
    Ok(())
}

fn o3_missing_and_unfit_interfaces_are_refused_with_their_line_and_a_remedy(
    backend: Backend,
) -> Result<()> {
    let bed = Testbed::builder().without_capture().build()?;
    let other = Arc::new(Namespace::new("other")?);
    let end = |namespace: &Arc<Namespace>, interface: &str, last: u8| End {
        namespace: Arc::clone(namespace),
        interface: interface.to_owned(),
        mac: [0x02, 0, 10, 9, 0, last],
        address: None,
        ipv6: false,
        mtu: 1500,
        queues: 1,
    };
    connect(end(&bed.relay, "bare0", 1), end(&other, "bare1", 2))?;
    let whole = to_toml(&[Rule::feed().outputs("out0", 1)]);
    let cases = [
        (
            "missing input",
            whole.replace("in0", "nowhere0"),
            3,
            "nowhere0",
        ),
        (
            "missing output",
            whole.replace("out0", "nowhere1"),
            5,
            "nowhere1",
        ),
        (
            "output without address",
            whole.replace("out0", "bare0"),
            5,
            "bare0",
        ),
        ("loopback", whole.replace("out0", "lo"), 5, "lo"),
    ];
    for (what, text, line, word) in cases {
        let file = RuleFile::new(&text)?;
        let path = file.path().display().to_string();
        for command in ["plan", "run"] {
            let strict: &[&str] = if command == "run" { &["--strict"] } else { &[] };
            let arguments = [&[command, "--backend", backend.name(), &path], strict].concat();
            let finished = relay(&bed.relay, &arguments)?;
            assert_eq!(
                finished.code,
                Some(78),
                "{arguments:?} with {what}: {finished:?}"
            );
            finished.assert_mistake(&file, line, &[word]);
        }
    }
    Ok(())
}

fn o3_a_correct_file_is_accepted_and_the_plan_touches_nothing(backend: Backend) -> Result<()> {
    let bed = Testbed::builder().without_capture().build()?;
    let file = RuleFile::of(&[Rule::feed().outputs("out0", 4)])?;
    let path = file.path().display().to_string();
    let before = bed.relay.ip("-details address")?;
    let on = ["plan", &path, "--backend", backend.name()];
    let json = ["plan", &path, "--backend", backend.name(), "--json"];
    for arguments in [&["check", &path][..], &on] {
        let finished = relay(&bed.relay, arguments)?;
        assert_eq!(finished.code, Some(0), "{arguments:?}: {finished:?}");
    }
    let finished = relay(&bed.relay, &json)?;
    assert_eq!(finished.code, Some(0), "{json:?}: {finished:?}");
    let plan: serde_json::Value = serde_json::from_str(&finished.stdout)?;
    let outputs = plan["flows"][0]["outputs"].as_array();
    assert_eq!(outputs.map(Vec::len), Some(4), "{plan}");
    for interface in plan["interfaces"].as_array().context("interfaces")? {
        assert_eq!(interface["backend"], backend.name(), "{plan}");
    }
    assert_eq!(before, bed.relay.ip("-details address")?);
    Ok(())
}

relay_tests::on_both_backends! {
    o3_every_mistake_in_a_rule_file_is_refused_with_its_line_and_a_remedy,
    o3_missing_and_unfit_interfaces_are_refused_with_their_line_and_a_remedy,
    o3_a_correct_file_is_accepted_and_the_plan_touches_nothing,
}
