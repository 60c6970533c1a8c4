//! Metrics as Prometheus takes them: its own checks, and a real one that scrapes a real relay.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use relay_tests::backend::Backend;
use relay_tests::background::eventually;
use relay_tests::netns::Namespace;
use relay_tests::relay::{RelayProcess, RuleFile};
use relay_tests::rules::{Rule, to_toml};
use relay_tests::scrape::{Series, get_from};
use relay_tests::sender::UdpSender;
use relay_tests::topology::Testbed;
use serde_json::Value;

use super::under_traffic;

const RELAY: &str = "127.0.0.1:9474";
const PROMETHEUS: &str = "127.0.0.1:9090";

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// A relay that has something in every series: rules of every kind of monitor, one of them silent;
/// an output that drops; frames of no rule.
fn start(bed: &Testbed, backend: Backend) -> Result<(RelayProcess, [Rule; 3])> {
    bed.relay.ip("link set lo up")?;
    bed.relay.ip("link set out1 mtu 600")?;
    let of = |name: &str, last: u8| Rule::new(name, "in0", [239, 1, 6, last], 5000);
    let rules = [
        of("rtp", 1)
            .outputs("out0", 2)
            .output("out1", [239, 7, 7, 7], 7007),
        of("ts", 2).outputs_from("out0", 4, 1),
        of("mold", 3).outputs_from("out0", 8, 1),
    ];
    let keys = ["\"rtp\"", "\"mpeg-ts\"", "\"moldudp64\""];
    let texts = rules.iter().zip(keys).map(|(rule, monitor)| {
        let keys = format!("\nmonitor = {monitor}\nsilence = \"1s\"\ninput = ");
        to_toml(std::slice::from_ref(rule)).replace("\ninput = ", &keys)
    });
    let text = texts.collect::<String>() + &format!("\n[metrics]\nlisten = \"{RELAY}\"\n");
    let relay = RelayProcess::start_file(&bed.relay, backend, RuleFile::new(&text)?)?;
    let sender = UdpSender::open(&bed.sources[0])?;
    for number in 0..20_u32 {
        // A static payload type, whose clock is known.
        let mut payload = vec![0x80, 33];
        payload.extend((number as u16).to_be_bytes());
        payload.extend((number * 90).to_be_bytes());
        payload.resize(1000, 7);
        sender.send_one(rules[0].group, rules[0].port, &payload)?;
    }
    Ok((relay, rules))
}

/// Runs promtool and fails with what it says.
pub(super) fn promtool(arguments: &[&str], input: &str) -> Result<()> {
    let mut command = Command::new("promtool");
    command
        .args(arguments)
        .current_dir(repository().join("packaging/prometheus"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().context("running promtool")?;
    let mut stdin = child.stdin.take().context("its input")?;
    stdin.write_all(input.as_bytes())?;
    drop(stdin);
    let output = child.wait_with_output()?;
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    ensure!(output.status.success(), "promtool {arguments:?}: {said}");
    Ok(())
}

/// The families of a text in the older format, with their types and labels.
fn families(text: &str) -> BTreeMap<String, (String, BTreeSet<String>)> {
    let mut families = BTreeMap::new();
    for line in text.lines() {
        if let Some(family) = line.strip_prefix("# TYPE ") {
            let (name, kind) = family.split_once(' ').unwrap_or_default();
            families.insert(name.to_owned(), (kind.to_owned(), BTreeSet::new()));
        } else if let Some((name, labels)) = line.split_once('{')
            && let Some((_, known)) = families.get_mut(name.trim_end_matches("_bucket"))
        {
            let names = labels
                .split("\",")
                .filter_map(|label| label.split_once("=\""));
            let names = names.filter(|(name, _)| *name != "le");
            known.extend(names.map(|(name, _)| name.to_owned()));
        }
    }
    families
}

/// The families of docs/metrics.md in the same form; an info is a gauge in the older format.
fn documented() -> Result<BTreeMap<String, (String, BTreeSet<String>)>> {
    let text = fs::read_to_string(repository().join("docs/metrics.md"))?;
    let mut families = BTreeMap::new();
    for line in text.lines() {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let [
            "",
            series,
            kind @ ("counter" | "gauge" | "info" | "histogram"),
            _,
            "",
        ] = cells[..]
        else {
            continue;
        };
        let series = series.trim_matches('`');
        let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
        let labels = labels.trim_end_matches('}').split(',');
        let labels = labels.filter(|label| !label.is_empty()).map(str::to_owned);
        let kind = if kind == "info" { "gauge" } else { kind };
        let family = (kind.to_owned(), labels.collect());
        families.insert(name.to_owned(), family);
    }
    Ok(families)
}

fn w1_every_series_is_documented_and_promtool_has_nothing_to_say(backend: Backend) -> Result<()> {
    let bed = Testbed::builder().outputs(2).without_capture().build()?;
    let (relay, rules) = start(&bed, backend)?;
    let look = || get_from(&bed.relay, RELAY, "/metrics");
    let sender = UdpSender::open(&bed.sources[0])?;
    let mut number = 0_u32;
    let all = eventually(Duration::from_secs(10), || {
        for _ in 0..64 {
            number += 1;
            let mold = &rules[2];
            let _ = sender.send_one(mold.group, mold.port, &number.to_be_bytes());
        }
        look().is_ok_and(|text| {
            let all = [
                "_jitter_seconds{",
                "_last_packet_timestamp_seconds{",
                "relay_latency_seconds_bucket{",
                "\"too_big\"",
            ];
            all.iter().all(|part| text.contains(part))
        })
    });
    let text = look()?;
    ensure!(all.is_some(), "{text}");
    promtool(&["check", "metrics"], &text)?;
    // Twenty timestamps a millisecond apart that arrive at once: the jitter has come near to a
    // millisecond, by a sixteenth of the rest with each.
    let jitter = Series::read(&text)?.value("relay_feed_jitter_seconds{rule=\"rtp\"}")?;
    ensure!((0.000_3..0.001_5).contains(&jitter), "{jitter}");
    let (found, documented) = (families(&text), documented()?);
    ensure!(documented.len() > 40, "{documented:#?}");
    let of = |all: &BTreeMap<String, (String, BTreeSet<String>)>| -> BTreeSet<(String, String)> {
        all.iter()
            .map(|(name, (kind, _))| (name.clone(), kind.clone()))
            .collect()
    };
    let (found_names, documented_names) = (of(&found), of(&documented));
    ensure!(
        found_names == documented_names,
        "not documented: {:#?}; not there: {:#?}",
        found_names.difference(&documented_names),
        documented_names.difference(&found_names)
    );
    for (name, (_, labels)) in &found {
        ensure!(
            documented[name].1 == *labels,
            "{name} has {labels:?}, and {:?} in docs/metrics.md",
            documented[name].1
        );
    }
    relay.stop()?;
    Ok(())
}

#[test]
fn alert_rules_fire_on_their_faults_alone() -> Result<()> {
    promtool(&["check", "rules", "relay.rules.yml"], "")?;
    promtool(&["test", "rules", "relay.tests.yml"], "")
}

/// A Prometheus in a namespace, ended when this is dropped.
struct Prometheus {
    child: Child,
    folder: PathBuf,
}

impl Prometheus {
    fn start(namespace: &Namespace) -> Result<Self> {
        let name = format!(
            "relay-prometheus-{}-{}",
            std::process::id(),
            namespace.name()
        );
        let folder = std::env::temp_dir().join(name);
        fs::create_dir_all(&folder)?;
        let config = folder.join("prometheus.yml");
        let rules = fs::canonicalize(repository().join("packaging/prometheus/relay.rules.yml"))?;
        let text = format!(
            "global:\n  scrape_interval: 1s\n  evaluation_interval: 1s\n\
             rule_files: ['{}']\n\
             scrape_configs:\n  - job_name: relay\n    static_configs:\n      - targets: ['{RELAY}']\n",
            rules.display()
        );
        fs::write(&config, text)?;
        let log = fs::File::create(folder.join("log"))?;
        let child = namespace
            .command("prometheus")
            .arg(format!("--config.file={}", config.display()))
            .arg(format!(
                "--storage.tsdb.path={}",
                folder.join("data").display()
            ))
            .arg(format!("--web.listen-address={PROMETHEUS}"))
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .context("running prometheus")?;
        Ok(Self { child, folder })
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// The results of a query.
fn query(namespace: &Namespace, expression: &str) -> Result<Vec<Value>> {
    let encoded: String = expression
        .bytes()
        .map(|byte| format!("%{byte:02X}"))
        .collect();
    let body = get_from(
        namespace,
        PROMETHEUS,
        &format!("/api/v1/query?query={encoded}"),
    )?;
    let answer: Value = serde_json::from_str(&body)?;
    let results = answer["data"]["result"].as_array().cloned();
    results.with_context(|| format!("{expression}: {answer}"))
}

/// The queries of the dashboard, for all relays and rules.
fn dashboard() -> Result<Vec<String>> {
    let text = fs::read_to_string(repository().join("packaging/grafana/relay.json"))?;
    let dashboard: Value = serde_json::from_str(&text)?;
    let panels = dashboard["panels"].as_array().context("panels")?;
    let mut queries = Vec::new();
    for target in panels
        .iter()
        .flat_map(|panel| panel["targets"].as_array())
        .flatten()
    {
        let query = target["expr"].as_str().context("a query")?;
        queries.push(query.replace("$instance", ".*").replace("$rule", ".*"));
    }
    Ok(queries)
}

fn w1_every_query_of_the_dashboard_has_an_answer_from_a_scraped_relay(
    backend: Backend,
) -> Result<()> {
    let bed = Testbed::builder().outputs(2).without_capture().build()?;
    let (relay, rules) = start(&bed, backend)?;
    let prometheus = Prometheus::start(&bed.relay)?;
    let stray = Rule::new("none", "in0", [239, 1, 6, 99], 5000);
    let queries = dashboard()?;
    ensure!(queries.len() > 15, "{queries:?}");
    let unanswered = || -> Vec<String> {
        let has_none = |expression: &&String| {
            query(&bed.relay, expression).map_or(true, |results| results.is_empty())
        };
        queries.iter().filter(has_none).cloned().collect()
    };
    let fires = |alert: &str, rule: &str| {
        let expression =
            format!("ALERTS{{alertname=\"{alert}\",alertstate=\"firing\",rule=\"{rule}\"}}");
        query(&bed.relay, &expression).is_ok_and(|results| !results.is_empty())
    };
    let source = &bed.sources[0];
    under_traffic(source, &rules[0], 0, 500, || {
        under_traffic(source, &stray, 1, 100, || {
            let answered = eventually(Duration::from_secs(60), || unanswered().is_empty());
            ensure!(
                answered.is_some(),
                "no answer to {:#?}\n{}\n{}",
                unanswered(),
                get_from(&bed.relay, RELAY, "/metrics")?,
                prometheus.log()
            );
            // Of the two that get nothing, after 10 seconds; what is too long for out1, at once.
            let fired = eventually(Duration::from_secs(60), || {
                fires("RelayFeedSilent", "ts") && fires("RelayDrops", "rtp")
            });
            ensure!(
                fired.is_some(),
                "{}",
                get_from(&bed.relay, PROMETHEUS, "/api/v1/alerts")?
            );
            ensure!(!fires("RelayFeedSilent", "rtp"));
            Ok(())
        })
    })?;
    relay.stop()?;
    Ok(())
}

relay_tests::on_both_backends! {
    w1_every_series_is_documented_and_promtool_has_nothing_to_say,
    w1_every_query_of_the_dashboard_has_an_answer_from_a_scraped_relay,
}
