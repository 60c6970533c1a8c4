//! What `relay rules` says of a feed: whether it is silent, what its numbers show, and its sources.

use std::net::SocketAddr;

use super::wording::{duration, numbers};
use crate::observe::snapshot::{FeedStatus, Numbers, RuleStatus, SeenSource, SourceStatus};

/// How long ago the last datagram of a source may have come that sends at once with others.
const PRESENT_SECONDS: f64 = 5.0;
/// The most PIDs with errors that are named.
const SHOWN_PIDS: usize = 8;

/// Bits per second, with the unit that fits.
pub fn bit_rate(bits: f64) -> String {
    match bits {
        bits if bits >= 1e9 => format!("{:.2} Gbit/s", bits / 1e9),
        bits if bits >= 1e6 => format!("{:.2} Mbit/s", bits / 1e6),
        bits if bits >= 1e3 => format!("{:.1} kbit/s", bits / 1e3),
        // The sum of no numbers is -0.0.
        bits => format!("{:.0} bit/s", bits + 0.0),
    }
}

/// One line for each thing that there is to say, each with its line end.
pub fn lines(rule: &RuleStatus) -> String {
    let mut lines = Vec::new();
    if let Some(silence) = &rule.silence {
        let (seconds, times) = (silence.seconds, silence.times);
        lines.push(match silence.silent {
            true => {
                format!("silent: no datagram has come for {seconds:.1} s (silent {times} times)")
            }
            false => format!(
                "not silent; it would be after {} s without a datagram (silent {times} times)",
                silence.after_seconds
            ),
        });
    }
    let seen = rule.sources.iter();
    let present = seen.filter(|source| source.last_seconds_ago < PRESENT_SECONDS);
    let present = present.count();
    if present > 1 {
        lines.push(format!("{present} sources send it at once"));
    }
    match &rule.feed {
        Some(feed) => {
            lines.push(format!("{}: {}", feed.monitor, counted(feed)));
            lines.extend(feed.sources.iter().map(source));
        }
        None => lines.extend(rule.sources.iter().map(seen_source)),
    }
    lines.iter().map(|line| format!("  {line}\n")).collect()
}

/// "from 10.1.1.2:40000 for 11 s, last 0 s ago"
fn seen_source(source: &SeenSource) -> String {
    from(
        SocketAddr::new(source.address, source.port),
        source.first_seconds_ago,
        source.last_seconds_ago,
    )
}

fn from(address: SocketAddr, first_seconds_ago: f64, last_seconds_ago: f64) -> String {
    let time = duration((first_seconds_ago - last_seconds_ago) as u64);
    format!("from {address} for {time}, last {last_seconds_ago:.1} s ago")
}

/// What was counted of all sources.
fn counted(feed: &FeedStatus) -> String {
    let mut text = above_zero(&feed.counted);
    if feed.missing > 0 {
        text += &format!("; {} may still come", feed.missing);
    }
    text
}

fn above_zero(all: &Numbers) -> String {
    // Zero is worth a word here.
    let lost = all.get("lost").copied().unwrap_or(0);
    let others = all.iter().filter(|(name, _)| *name != "lost");
    let others: Numbers = others.map(|(name, n)| (name.clone(), *n)).collect();
    match numbers(&others) {
        others if others.is_empty() => format!("lost {lost}"),
        others => format!("lost {lost}, {others}"),
    }
}

fn source(source: &SourceStatus) -> String {
    let address = SocketAddr::new(source.address, source.port);
    let mut text = from(address, source.first_seconds_ago, source.last_seconds_ago);
    text += &format!(": {}", above_zero(&source.counted));
    if let Some(rtp) = &source.rtp {
        text += &format!("; SSRC {}, payload type {}", rtp.ssrc, rtp.payload_type);
        if let Some(jitter) = rtp.jitter_seconds {
            text += &format!(", jitter {:.3} ms", jitter * 1e3);
        }
    }
    if let Some(stream) = &source.mpeg_ts {
        text += &format!("; {} PIDs", stream.pids.len());
        if !stream.in_sync {
            text += ", out of sync";
        }
        let wrong = stream.pids.iter().filter(|pid| pid.continuity_errors > 0);
        for pid in wrong.take(SHOWN_PIDS) {
            let errors = pid.continuity_errors;
            text += &format!(", PID {} has {errors} continuity errors", pid.pid);
        }
    }
    if let Some(mold) = &source.moldudp64 {
        text += &format!("; session {:?}", mold.session);
        if let Some(next) = mold.next {
            text += &format!(", next message {next}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::snapshot::RtpStatus;

    #[test]
    fn bit_rates_have_the_unit_that_fits() {
        let texts = [-0.0, 999.0, 1500.0, 12_345_678.0, 2.5e9].map(bit_rate);
        let expected = [
            "0 bit/s",
            "999 bit/s",
            "1.5 kbit/s",
            "12.35 Mbit/s",
            "2.50 Gbit/s",
        ];
        assert_eq!(texts, expected);
    }

    #[test]
    fn a_source_is_told_with_what_was_counted_of_it_above_zero() {
        let of = |name: &'static str, number| (name.into(), number);
        let one = SourceStatus {
            address: [10, 1, 1, 2].into(),
            port: 40_000,
            first_seconds_ago: 61.5,
            last_seconds_ago: 0.5,
            missing: 0,
            counted: [of("datagrams", 9), of("lost", 0), of("stray", 0)].into(),
            rtp: Some(RtpStatus {
                ssrc: "deadbeef".into(),
                payload_type: 33,
                clock_rate: Some(90_000),
                jitter_seconds: Some(0.001_25),
            }),
            mpeg_ts: None,
            moldudp64: None,
        };
        assert_eq!(
            source(&one),
            "from 10.1.1.2:40000 for 1 min 1 s, last 0.5 s ago: lost 0, datagrams 9; SSRC deadbeef, \
             payload type 33, jitter 1.250 ms"
        );
    }
}
