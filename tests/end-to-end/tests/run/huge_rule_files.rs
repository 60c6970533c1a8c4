//! Rule files of up to 16 MB, full of mistakes or of nothing: `relay check` answers soon, in little
//! memory, and with one screen of text.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use relay_tests::relay::binary;
use relay_tests::sys::{Usage, wait_with_usage};

/// The limits of a release build. Time is CPU time, because tests run side by side; the promise is
/// 3 s, and this is for a machine whose CPUs are shared.
const MOST_TIME: Duration = Duration::from_secs(5);
const MOST_MEMORY: u64 = 250 << 20;
/// A mistake takes two lines.
const MOST_LINES: usize = 45;
const MOST_BYTES: u64 = 16 << 10;

const MIB: usize = 1 << 20;

/// A folder that is removed on drop.
struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The exit code and the output of `relay check` for the file that `write` writes; fails if they
/// break a limit.
#[track_caller]
fn check(name: &str, write: impl FnOnce(&mut dyn Write) -> Result<()>) -> Result<(i32, String)> {
    let folder = Folder(
        std::env::temp_dir().join(format!("relay-rule-files-{}-{name}", std::process::id())),
    );
    fs::create_dir_all(&folder.0)?;
    let path = folder.0.join("relay.toml");
    let mut file = BufWriter::new(File::create(&path)?);
    write(&mut file)?;
    file.flush()?;
    let said = folder.0.join("said");
    let child = Command::new(binary()?)
        .arg("check")
        .arg(&path)
        .stdin(Stdio::null())
        .stdout(File::create(&said)?)
        .stderr(fs::OpenOptions::new().append(true).open(&said)?)
        .spawn()?;
    let (status, Usage { cpu, peak_bytes }) = wait_with_usage(child)?;
    println!("{name}: {cpu:?}, {} MiB", peak_bytes >> 20);
    assert!(fs::metadata(&path)?.len() <= 16 << 20, "{name}");
    assert!(fs::metadata(&said)?.len() <= MOST_BYTES, "{name}");
    let said = fs::read_to_string(&said)?;
    assert!(said.lines().count() <= MOST_LINES, "{name}: {said}");
    assert!(cpu <= MOST_TIME, "{name}: {cpu:?}");
    assert!(
        peak_bytes <= MOST_MEMORY,
        "{name}: {} MiB",
        peak_bytes >> 20
    );
    Ok((status.code().context("it was killed")?, said))
}

/// The same for `head`, `piece` as many times as fit into 16 MB, and `tail`.
#[track_caller]
fn check_many(name: &str, head: &str, piece: &str, tail: &str) -> Result<(i32, String)> {
    check(name, |file| {
        file.write_all(head.as_bytes())?;
        let mut pieces = (16 * MIB - head.len() - tail.len()) / piece.len();
        let block = piece.repeat((64 << 10) / piece.len() + 1);
        while pieces > 0 {
            let some = pieces.min(block.len() / piece.len());
            file.write_all(&block.as_bytes()[..some * piece.len()])?;
            pieces -= some;
        }
        Ok(file.write_all(tail.as_bytes())?)
    })
}

const RULE: &str = "[[rules]]\nname = \"a\"\n\
                    input = { interface = \"in0\", group = \"239.1.1.1\", port = 5001 }\n";
const OUTPUTS: &str = "outputs = [{ interface = \"out0\", group = \"239.2.2.2\", port = 5002 }]\n";

#[test]
fn a_file_of_nothing_costs_nothing() -> Result<()> {
    let (code, said) = check_many("newlines", "", "\n", "")?;
    assert_eq!(code, 78, "{said}");
    assert!(said.contains("the file has no rules"), "{said}");

    let (code, said) = check_many("newlines in a rule", RULE, "\n", OUTPUTS)?;
    assert_eq!(code, 0, "{said}");
    let (code, said) = check_many("comments", RULE, "# a comment\n", OUTPUTS)?;
    assert_eq!(code, 0, "{said}");
    Ok(())
}

#[test]
fn a_million_mistakes_are_one_screen_and_a_count() -> Result<()> {
    // (what, head, what is repeated, tail, words of the output)
    let cases = [
        ("unknown keys", "", "k_1 = 1\n", "", "KiB"),
        ("unknown tables", "", "[[k]]\n", "", "KiB"),
        (
            "bad outputs",
            &format!("{RULE}outputs = ["),
            "{},",
            "]\n",
            "KiB",
        ),
        (
            "bad outputs in lines",
            &format!("{RULE}outputs = ["),
            "{ port = 0 },\n",
            "]\n",
            "KiB",
        ),
        (
            "bad rules",
            "",
            "[[rules]]\nx = 1\n",
            "",
            "mistakes or more",
        ),
        (
            "bad interfaces",
            "",
            "[[interfaces]]\nx = 1\n",
            "",
            "mistakes or more",
        ),
        ("empty rules", "", "[[rules]]\n", "", "mistakes or more"),
        ("wrong syntax", "", "[[rules]]\n=\n", "", "and 80 more"),
        ("brackets", "", "[", "", "1 mistake"),
        ("braces", "", "{", "", "1 mistake"),
        ("open strings", "", "\"\n", "", "1 mistake"),
        ("dots", "", "a.", "", "1 mistake"),
    ];
    for (what, head, piece, tail, words) in cases {
        let (code, said) = check_many(what, head, piece, tail)?;
        assert_eq!(code, 78, "{what}: {said}");
        let last = said.lines().last().unwrap_or_default();
        let counted = last.contains("mistake");
        assert!(counted, "{what}: a count in the last line of {said}");
        assert!(said.contains(words), "{what}: `{words}` in {said}");
    }
    Ok(())
}

#[test]
fn rules_full_of_mistakes_are_read_until_there_are_enough() -> Result<()> {
    let outputs = "{},".repeat(1024);
    let rule = format!("[[rules]]\nname = \"a\"\noutputs = [{outputs}]\n");
    let (code, said) = check_many("full rules", "", &rule, "")?;
    assert_eq!(code, 78, "{said}");
    assert!(
        said.contains("mistakes or more: the rest of the file"),
        "{said}"
    );

    let (code, said) = check_many(
        "full of wrong syntax",
        "",
        &format!("[[rules]]\n{}", "=\n".repeat(250_000)),
        "",
    )?;
    assert_eq!(code, 78, "{said}");

    let keys: String = (0..5000).map(|n| format!("key{n} = 1\n")).collect();
    let (code, said) = check_many("keys", "", &format!("[[rules]]\n{keys}"), "")?;
    assert_eq!(code, 78, "{said}");
    Ok(())
}

#[test]
fn names_that_nothing_uses_are_not_compared_with_every_other() -> Result<()> {
    let (code, said) = check("unused tables", |file| {
        for n in 0..30_000_u32 {
            let [_, _, high, low] = n.to_be_bytes();
            write!(
                file,
                "[[rules]]\nname = \"r{n}\"\n\
                 input = {{ interface = \"i{n}x\", group = \"239.1.{high}.{low}\", port = 5001 }}\n\
                 outputs = [{{ interface = \"o{n}y\", group = \"239.2.{high}.{low}\", port = 5002 }}]\n"
            )?;
        }
        for n in 0..300_000 {
            write!(file, "[[interfaces]]\nname = \"q{n}z\"\n")?;
        }
        Ok(())
    })?;
    assert_eq!(code, 78, "{said}");
    assert!(said.contains("no rule uses the interface `q0z`"), "{said}");
    Ok(())
}

#[test]
fn a_long_value_is_not_repeated() -> Result<()> {
    let name = |bytes: usize| {
        format!(
            "{}{OUTPUTS}",
            RULE.replace("\"a\"", &format!("\"{}\"", "n".repeat(bytes)))
        )
    };
    for (bytes, words) in [(15 * MIB, "KiB"), (400_000, "longer than 255 bytes")] {
        let text = name(bytes);
        let (code, said) = check("long name", |file| Ok(file.write_all(text.as_bytes())?))?;
        assert_eq!(code, 78, "{said}");
        assert!(said.contains(words), "{said}");
    }
    for (what, from, to) in [
        (
            "group",
            "\"239.1.1.1\"",
            format!("\"{}\"", "9".repeat(400_000)),
        ),
        (
            "interface",
            "\"in0\"",
            format!("\"{}\"", "i".repeat(400_000)),
        ),
        ("port", "5001", "5".repeat(400_000)),
        ("key", "input", "k".repeat(400_000)),
    ] {
        let text = format!("{RULE}{OUTPUTS}").replacen(from, &to, 1);
        let (code, said) = check(what, |file| Ok(file.write_all(text.as_bytes())?))?;
        assert_eq!(code, 78, "{said}");
        assert!(said.len() < 2000, "{what}: {said}");
    }
    Ok(())
}

#[test]
fn the_largest_file_of_good_rules_is_read_within_the_same_limits() -> Result<()> {
    let (code, said) = check("good rules", |file| {
        for rule in 0..65_536_u32 {
            let [_, _, high, low] = rule.to_be_bytes();
            writeln!(
                file,
                "[[rules]]\nname = \"rule-{rule}\"\n\
                 input = {{ interface = \"in0\", group = \"239.1.{high}.{low}\", port = 5001 }}\noutputs = ["
            )?;
            for output in 0..2 {
                writeln!(
                    file,
                    "  {{ interface = \"out0\", group = \"239.2.{high}.{low}\", port = {} }},",
                    5002 + output
                )?;
            }
            writeln!(file, "]")?;
        }
        Ok(())
    })?;
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("65536 rules with 131072 outputs"), "{said}");
    Ok(())
}

#[test]
fn rules_of_every_kind_are_compared_within_the_same_limits() -> Result<()> {
    // (what, the input and the output of a rule, how many rules, the exit code)
    type Write = fn(u32, [u8; 2]) -> (String, &'static str);
    let cases: [(&str, Write, u32, i32); 4] = [
        (
            "mixed rules",
            |rule, [high, low]| {
                let input = match rule % 4 {
                    0 => {
                        format!("group = \"239.{high}.{low}.0/24\", port = \"1-99\", join = false")
                    }
                    1 => {
                        let sources = "[\"10.0.0.1\", \"10.0.0.2\"]";
                        format!("group = \"239.{high}.{low}.1\", port = 5, source = {sources}")
                    }
                    2 => format!("group = \"239.1.1.1\", port = {}, vlan = 9", rule / 4 + 1),
                    _ => format!("group = \"ff3e::{rule:x}\", port = \"any\""),
                };
                (
                    format!("interface = \"in0\", {input}"),
                    "interface = \"out0\"",
                )
            },
            65_536,
            0,
        ),
        (
            // The outputs of the first kind go to the inputs of the second: 10^9 pairs.
            "rules that overlap",
            |rule, [high, low]| match rule % 2 {
                0 => {
                    let ports = rule / 2 + 1;
                    let group = format!("group = \"239.0.0.0/8\", port = {ports}, join = false");
                    (
                        format!("interface = \"in0\", {group}"),
                        "interface = \"out0\", group = \"238.0.0.0/8\"",
                    )
                }
                _ => {
                    let group = format!("group = \"238.{high}.{low}.0/24\", port = \"any\"");
                    (
                        format!("interface = \"out0\", {group}, join = false"),
                        "interface = \"out1\"",
                    )
                }
            },
            65_536,
            0,
        ),
        (
            "rules that are the same",
            |_, _| {
                let group = "group = \"239.1.1.1\", port = \"1-9\"";
                (
                    format!("interface = \"in0\", {group}"),
                    "interface = \"out0\"",
                )
            },
            65_536,
            78,
        ),
        (
            // More than the tables of the kernel programs hold.
            "sources",
            |rule, [high, low]| {
                let sources: Vec<String> = (0..64)
                    .map(|source| format!("\"10.{high}.{low}.{source}\""))
                    .collect();
                let sources = sources.join(",");
                let group = format!("group = \"239.1.1.1\", port = {}", rule + 1);
                (
                    format!("interface = \"in0\", {group}, join = false, source = [{sources}]"),
                    "interface = \"out0\"",
                )
            },
            14_000,
            78,
        ),
    ];
    for (what, write, rules, expected) in cases {
        let (code, said) = check(what, |file| {
            for rule in 0..rules {
                let [_, _, high, low] = rule.to_be_bytes();
                let (input, output) = write(rule, [high, low]);
                write!(
                    file,
                    "[[rules]]\nname = \"r{rule}\"\ninput = {{ {input} }}\noutputs = [{{ {output} }}]\n"
                )?;
            }
            Ok(())
        })?;
        assert_eq!(code, expected, "{what}: {said}");
    }
    Ok(())
}
