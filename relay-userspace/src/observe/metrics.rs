//! The metrics of a snapshot: which series there are, and their values. docs/metrics.md has the
//! same list for people.
//!
//! How many series there are is bounded by the rule file: a few per rule, output and interface, and
//! one per reason that occurred. Nothing that arrives on a wire becomes a label.

use super::{
    exposition::{Exposition, Family, Format, Kind},
    snapshot::{Health, InterfaceStatus, Numbers, OutputStatus, RuleStatus, Snapshot, State},
};
use crate::config::rules::{GroupPort, OutputVlan};

/// Declares a family.
macro_rules! families {
    ($($constant:ident = $kind:ident $name:literal $help:literal;)*) => {
        $(const $constant: Family = Family {
            name: $name,
            kind: Kind::$kind,
            help: $help,
        };)*
    };
}

families! {
    BUILD = Info "relay" "The relay's version";
    HEALTHY = Gauge "relay_healthy" "1 if everything that is wanted runs and nothing was dropped in the last second, else 0";
    PROBLEMS = Gauge "relay_problems" "How many problems relay status lists";
    UPTIME = Gauge "relay_uptime_seconds" "Seconds since the relay was ready";
    RECEIVED = Counter "relay_received_packets" "Frames that reached the relay";
    MATCHED = Counter "relay_matched_packets" "Frames that reached the relay and matched a rule";
    SENT = Counter "relay_sent_packets" "Copies that left";
    RELOADS = Counter "relay_reload" "Changes of the rules, by what became of them";
    RELOAD_OK = Gauge "relay_reload_last_successful" "1 if the last change of the rules was applied, 0 if it was refused";
    RELOAD_AT = Gauge "relay_reload_last_success_timestamp_seconds" "When rules were last applied, or the relay became ready, in seconds since the epoch";
    RELOAD_PAUSE = Gauge "relay_reload_last_pause_seconds" "How long rules paused at most for the last change";
    INTERFACE = Info "relay_interface" "How frames move between an interface and the relay";
    INTERFACE_ACTIVE = Gauge "relay_interface_active" "1 if the relay uses the interface, 0 if it waits for it";
    SEEN = Counter "relay_interface_seen_packets" "Frames that the kernel program saw on the interface";
    REDIRECTED = Counter "relay_interface_redirected_packets" "Frames that the kernel program gave to the relay";
    PASSED = Counter "relay_passed_packets" "Frames that the kernel program left to this host's own stack, by reason";
    MISSED = Counter "relay_interface_missed_packets" "Frames of any kind that the NIC had no buffer for";
    LATENCY = Histogram "relay_latency_seconds" "How long some frames of an input were in the relay, in seconds: from when the kernel program saw them until their copies were handed to the kernel";
    LATENCY_MISSED = Counter "relay_latency_missed_packets" "Frames whose latency was to be taken, and that did not reach the worker or could not be told from others";
    RULE = Info "relay_rule" "What a rule matches";
    RULE_ACTIVE = Gauge "relay_rule_active" "1 if the rule runs, 0 if it waits or is disabled";
    RULE_RECEIVED = Counter "relay_rule_received_packets" "Frames that matched the rule and reached the relay";
    RULE_BYTES = Counter "relay_rule_received_bytes" "Bytes of UDP payload in them";
    RULE_LAST = Gauge "relay_rule_last_packet_timestamp_seconds" "When the last of them was seen to have come, to the second, in seconds since the epoch";
    RULE_SILENT = Gauge "relay_rule_silent" "1 if no datagram has come for as long as the rule's silence, else 0";
    RULE_SILENCES = Counter "relay_rule_silences" "How often the rule became silent";
    FEED_LOST = Counter "relay_feed_lost_packets" "Sequence numbers of the feed that never came";
    FEED_MISSING = Gauge "relay_feed_missing_packets" "Sequence numbers of the feed that have not come yet and still may";
    FEED_REORDERED = Counter "relay_feed_reordered_packets" "Sequence numbers of the feed that came after higher ones";
    FEED_DUPLICATED = Counter "relay_feed_duplicated_packets" "Datagrams of the feed whose numbers had come before";
    FEED_STRAY = Counter "relay_feed_stray_packets" "Lone datagrams of the feed whose number was far from the others";
    FEED_RESTARTS = Counter "relay_feed_restarts" "How often the numbers of the feed began anew";
    FEED_FOREIGN = Counter "relay_feed_not_understood_packets" "Datagrams of the feed that are not what its monitor expects";
    FEED_BEYOND = Counter "relay_feed_beyond_packets" "Datagrams of sources of the feed that there was no room to watch";
    FEED_SOURCES = Gauge "relay_feed_sources" "Sources of the feed of which a datagram came in the last ten seconds";
    FEED_EVENTS = Counter "relay_feed_events" "What only one kind of feed counts, by kind";
    FEED_JITTER = Gauge "relay_feed_jitter_seconds" "The largest interarrival jitter of the feed's RTP sources";
    OUTPUT_SENT = Counter "relay_output_sent_packets" "Copies that left through the output";
    OUTPUT_ACTIVE = Gauge "relay_output_active" "1 if copies leave through the output, 0 if it waits or its rule does not run";
    DROPPED = Counter "relay_dropped_packets" "Frames and copies that did not leave, by reason, and by rule where they belong to one";
    CPU = Counter "process_cpu_seconds" "CPU time of the relay, in seconds";
    MEMORY = Gauge "process_resident_memory_bytes" "Memory of the relay in RAM, in bytes";
    VIRTUAL = Gauge "process_virtual_memory_bytes" "Addresses that the relay has mapped, in bytes";
    FDS = Gauge "process_open_fds" "File descriptors that are open";
    MAX_FDS = Gauge "process_max_fds" "File descriptors that may be open";
    THREADS = Gauge "process_threads" "Threads of the relay";
    STARTED = Gauge "process_start_time_seconds" "When the process started, in seconds since the epoch";
}

/// The metrics of a snapshot as text. Without `outputs` no output has series of its own: what they
/// dropped is summed per rule.
#[must_use]
pub fn text(snapshot: &Snapshot, format: Format, outputs: bool) -> String {
    let mut to = Exposition::new(format);
    relay(&mut to, snapshot);
    interfaces(&mut to, &snapshot.interfaces);
    rules(&mut to, &snapshot.rules);
    feeds(&mut to, &snapshot.rules);
    if outputs {
        self::outputs(&mut to, &snapshot.rules);
    }
    dropped(&mut to, snapshot, outputs);
    process(&mut to, snapshot);
    to.end()
}

fn relay(to: &mut Exposition, snapshot: &Snapshot) {
    to.family(BUILD).add(&[("version", &snapshot.version)], 1);
    let healthy = snapshot.state == Health::Healthy;
    to.family(HEALTHY).add(&[], u8::from(healthy));
    to.family(PROBLEMS).add(&[], snapshot.problem_count);
    to.family(UPTIME).add(&[], snapshot.uptime_seconds);
    let totals = &snapshot.totals;
    to.family(RECEIVED).add(&[], totals.packets_received);
    to.family(MATCHED).add(&[], totals.packets_matched);
    to.family(SENT).add(&[], totals.packets_sent);
    let changes = &snapshot.changes;
    let mut reloads = to.family(RELOADS);
    reloads.add(&[("result", "applied")], changes.applied);
    reloads.add(&[("result", "refused")], changes.refused);
    to.family(RELOAD_OK)
        .add(&[], u8::from(!changes.last_was_refused));
    to.family(RELOAD_AT).add(&[], changes.applied_at);
    let last = snapshot.last_change.as_ref();
    let pause = last.map_or(0, |last| last.pause_milliseconds);
    to.family(RELOAD_PAUSE).add(&[], pause as f64 / 1e3);
}

fn interfaces(to: &mut Exposition, interfaces: &[InterfaceStatus]) {
    let mut info = to.family(INTERFACE);
    for one in interfaces.iter().filter(|one| one.index.is_some()) {
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        let labels = [
            ("interface", one.name.as_str()),
            ("driver", &text(&one.driver)),
            ("backend", &text(&one.backend)),
            ("mode", &text(&one.mode)),
            ("transmit", &text(&one.engine)),
        ];
        info.add(&labels, 1);
    }
    let mut active = to.family(INTERFACE_ACTIVE);
    for one in interfaces {
        active.add(&[("interface", &one.name)], is_active(one.state));
    }
    let used = || interfaces.iter().filter(|one| !one.filter.is_empty());
    for (family, name) in [(SEEN, "received"), (REDIRECTED, "redirected")] {
        let mut counter = to.family(family);
        for one in used() {
            let number = one.filter.get(name).copied().unwrap_or(0);
            counter.add(&[("interface", &one.name)], number);
        }
    }
    let mut passed = to.family(PASSED);
    for one in used() {
        for (name, number) in &one.filter {
            if let Some(reason) = name.strip_prefix("pass_") {
                passed.add(&[("interface", &one.name), ("reason", reason)], number);
            }
        }
    }
    let mut missed = to.family(MISSED);
    for one in used() {
        missed.add(&[("interface", &one.name)], one.missed);
    }
    latencies(to, interfaces);
}

fn latencies(to: &mut Exposition, interfaces: &[InterfaceStatus]) {
    let sampled = || {
        let interfaces = interfaces.iter();
        interfaces.filter_map(|one| Some((one.name.as_str(), one.latency.as_ref()?)))
    };
    let mut histogram = to.family(LATENCY);
    for (interface, latency) in sampled() {
        let buckets = latency.buckets.iter();
        let buckets = buckets.map(|one| (one.up_to_seconds, one.samples));
        let label = ("interface", interface);
        histogram.add_histogram(label, buckets, latency.samples, latency.sum_seconds);
    }
    let mut missed = to.family(LATENCY_MISSED);
    for (interface, latency) in sampled() {
        missed.add(&[("interface", interface)], latency.missed);
    }
}

fn rules(to: &mut Exposition, rules: &[RuleStatus]) {
    let mut info = to.family(RULE);
    for rule in rules {
        let (group, port) = (rule.group.to_string(), rule.port.to_string());
        let labels = [
            ("rule", rule.name.as_str()),
            ("interface", &rule.interface),
            ("group", &group),
            ("port", &port),
        ];
        info.add(&labels, 1);
    }
    let mut active = to.family(RULE_ACTIVE);
    for rule in rules {
        active.add(&[("rule", &rule.name)], is_active(rule.state));
    }
    let mut received = to.family(RULE_RECEIVED);
    for rule in rules {
        received.add(&[("rule", &rule.name)], rule.packets_matched);
    }
    let mut bytes = to.family(RULE_BYTES);
    for rule in rules {
        bytes.add(&[("rule", &rule.name)], rule.bytes_matched);
    }
    let mut last = to.family(RULE_LAST);
    for rule in rules {
        if let Some(at) = rule.last_frame_at {
            last.add(&[("rule", &rule.name)], at);
        }
    }
    let watched = || {
        let rules = rules.iter();
        rules.filter_map(|rule| Some((rule.name.as_str(), rule.silence.as_ref()?)))
    };
    let mut silent = to.family(RULE_SILENT);
    for (rule, silence) in watched() {
        silent.add(&[("rule", rule)], u8::from(silence.silent));
    }
    let mut times = to.family(RULE_SILENCES);
    for (rule, silence) in watched() {
        times.add(&[("rule", rule)], silence.times);
    }
}

/// Counts that have a family of their own; the others are in [`FEED_EVENTS`].
const FEED_COUNTS: [(Family, &str); 7] = [
    (FEED_LOST, "lost"),
    (FEED_REORDERED, "reordered"),
    (FEED_DUPLICATED, "duplicated"),
    (FEED_STRAY, "stray"),
    (FEED_RESTARTS, "restarts"),
    (FEED_FOREIGN, "not_understood"),
    (FEED_BEYOND, "beyond"),
];

/// How long ago the last datagram of a source may have come that counts as one.
const PRESENT_SECONDS: f64 = 10.0;

fn feeds(to: &mut Exposition, rules: &[RuleStatus]) {
    let feeds = || {
        let rules = rules.iter();
        rules.filter_map(|rule| Some((rule.name.as_str(), rule.feed.as_ref()?)))
    };
    for (family, count) in FEED_COUNTS {
        let mut counter = to.family(family);
        for (rule, feed) in feeds() {
            let number = feed.counted.get(count).copied().unwrap_or(0);
            counter.add(&[("rule", rule)], number);
        }
    }
    let mut missing = to.family(FEED_MISSING);
    for (rule, feed) in feeds() {
        missing.add(&[("rule", rule)], feed.missing);
    }
    let mut sources = to.family(FEED_SOURCES);
    for (rule, feed) in feeds() {
        let present = feed.sources.iter();
        let present = present.filter(|source| source.last_seconds_ago < PRESENT_SECONDS);
        sources.add(&[("rule", rule)], present.count());
    }
    let mut events = to.family(FEED_EVENTS);
    for (rule, feed) in feeds() {
        let own = |name: &str| {
            // All datagrams of a rule are in a family already.
            name != "datagrams" && FEED_COUNTS.iter().all(|(_, count)| *count != name)
        };
        for (kind, number) in feed.counted.iter().filter(|(name, _)| own(name)) {
            events.add(&[("rule", rule), ("kind", kind)], number);
        }
    }
    let mut jitter = to.family(FEED_JITTER);
    for (rule, feed) in feeds() {
        let rtp = feed.sources.iter().filter_map(|source| source.rtp.as_ref());
        let largest = rtp.filter_map(|rtp| rtp.jitter_seconds).reduce(f64::max);
        if let Some(largest) = largest {
            jitter.add(&[("rule", rule)], largest);
        }
    }
}

fn outputs(to: &mut Exposition, rules: &[RuleStatus]) {
    let outputs = || {
        let rules = rules.iter();
        rules.flat_map(|rule| rule.outputs.iter().map(move |output| (rule, output)))
    };
    let mut sent = to.family(OUTPUT_SENT);
    for (rule, output) in outputs() {
        sent.add(&labels(rule, output, &name(output)), output.packets_sent);
    }
    let mut active = to.family(OUTPUT_ACTIVE);
    for (rule, output) in outputs() {
        active.add(
            &labels(rule, output, &name(output)),
            is_active(output.state),
        );
    }
}

fn dropped(to: &mut Exposition, snapshot: &Snapshot, outputs: bool) {
    let mut dropped = to.family(DROPPED);
    for (reason, number) in &snapshot.totals.dropped_before_rules {
        dropped.add(&[("reason", reason)], number);
    }
    for one in &snapshot.interfaces {
        if one.device_dropped > 0 {
            let labels = [("reason", "device_dropped"), ("interface", &one.name)];
            dropped.add(&labels, one.device_dropped);
        }
    }
    for rule in &snapshot.rules {
        let own = [
            ("over_limit", rule.over_limit),
            ("local_failed", rule.local_failed),
        ];
        for (reason, number) in own.into_iter().filter(|(_, number)| *number > 0) {
            dropped.add(&[("reason", reason), ("rule", &rule.name)], number);
        }
        if outputs {
            for output in rule.outputs.iter().filter(|one| !one.dropped.is_empty()) {
                let name = name(output);
                for (reason, number) in &output.dropped {
                    let [rule, output, interface] = labels(rule, output, &name);
                    dropped.add(&[("reason", reason), rule, output, interface], number);
                }
            }
            continue;
        }
        let mut sums = Numbers::new();
        for (reason, number) in rule.outputs.iter().flat_map(|output| &output.dropped) {
            *sums.entry(reason.clone()).or_default() += number;
        }
        for (reason, number) in &sums {
            dropped.add(&[("reason", reason), ("rule", &rule.name)], number);
        }
    }
}

fn process(to: &mut Exposition, snapshot: &Snapshot) {
    let process = &snapshot.process;
    to.family(CPU).add(&[], process.cpu_seconds);
    to.family(MEMORY).add(&[], process.resident_bytes);
    to.family(VIRTUAL).add(&[], process.virtual_bytes);
    to.family(FDS).add(&[], process.open_files);
    to.family(MAX_FDS).add(&[], process.most_files);
    to.family(THREADS).add(&[], process.threads);
    to.family(STARTED).add(&[], process.started_at);
}

fn is_active(state: State) -> u8 {
    u8::from(state == State::Active)
}

/// The labels of an output with this name.
fn labels<'a>(
    rule: &'a RuleStatus,
    output: &'a OutputStatus,
    name: &'a str,
) -> [(&'a str, &'a str); 3] {
    [
        ("rule", &rule.name),
        ("output", name),
        ("interface", &output.interface),
    ]
}

/// Where an output sends to. With its interface it names one output of its rule.
fn name(output: &OutputStatus) -> String {
    let to = GroupPort(output.group, output.port);
    match output.vlan {
        OutputVlan::Untagged => to.to_string(),
        vlan => format!("{to}, {vlan}"),
    }
}
