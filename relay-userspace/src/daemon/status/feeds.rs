//! What monitors know, as the status shows it.

use crate::{
    config::rules::Monitor,
    daemon::totals::RuleNumbers,
    datapath::monitor::{Counts, Details, EndedDetails, Health, SourceHealth},
    observe::snapshot::{
        FeedStatus, MoldUdp64Status, MpegTsStatus, Numbers, PidStatus, RtpStatus, SourceStatus,
    },
};

/// The feed of a rule with `monitor`, `now` by the clock that datagrams are seen by.
pub fn of(monitor: Monitor, numbers: &RuleNumbers, now: u64) -> FeedStatus {
    let mut all = numbers
        .counted
        .unwrap_or((Counts::default(), none(monitor), 0));
    let (counts, details, beyond) = &mut all;
    for health in &numbers.health {
        *counts = counts.plus(health.sum());
        *details = details.plus(health.sum_of_details());
        *beyond += health.beyond;
    }
    let mut counted = named(counts, *details);
    counted.insert("beyond".into(), *beyond);
    let sources = || numbers.health.iter().flat_map(sources);
    FeedStatus {
        monitor: monitor.to_string().replace('"', ""),
        missing: sources().map(|source| source.missing).sum(),
        counted,
        sources: sources().map(|source| self::source(source, now)).collect(),
    }
}

fn sources(health: &Health) -> &[SourceHealth] {
    &health.sources
}

/// What only this kind counts, before anything was.
fn none(monitor: Monitor) -> EndedDetails {
    match monitor {
        Monitor::Rtp => EndedDetails::Rtp(Default::default()),
        Monitor::MpegTs => EndedDetails::MpegTs(Default::default()),
        Monitor::MoldUdp64 => EndedDetails::MoldUdp64(Default::default()),
        Monitor::Counter(_) => EndedDetails::None,
    }
}

fn named(counts: &Counts, details: EndedDetails) -> Numbers {
    let all = counts.named().chain(details.named());
    all.map(|(name, number)| (name.into(), number)).collect()
}

fn source(source: &SourceHealth, now: u64) -> SourceStatus {
    let ago = |at: u64| now.saturating_sub(at) as f64 / 1e9;
    let mut status = SourceStatus {
        address: source.address,
        port: source.port,
        first_seconds_ago: ago(source.since_ns),
        last_seconds_ago: ago(source.last_ns),
        missing: source.missing,
        counted: named(&source.counts, source.details.counts()),
        rtp: None,
        mpeg_ts: None,
        moldudp64: None,
    };
    let seconds = |nanoseconds: u64| nanoseconds as f64 / 1e9;
    match &source.details {
        Details::None => {}
        Details::Rtp(rtp) => {
            status.rtp = Some(RtpStatus {
                ssrc: format!("{:08x}", rtp.ssrc),
                payload_type: rtp.payload_type,
                clock_rate: rtp.clock,
                jitter_seconds: rtp.jitter_ns.map(seconds),
            });
        }
        Details::MpegTs(stream) => {
            let pids = stream.pids.iter().map(|pid| PidStatus {
                pid: pid.pid,
                packets: pid.packets,
                continuity_errors: pid.continuity_errors,
                pcr_interval_seconds: pid.pcr_interval_ns.map(seconds),
                longest_pcr_interval_seconds: pid.longest_pcr_interval_ns.map(seconds),
            });
            status.mpeg_ts = Some(MpegTsStatus {
                in_sync: stream.in_sync,
                pmt_pids: stream.pmt_pids.clone(),
                pids: pids.collect(),
            });
        }
        Details::MoldUdp64(mold) => {
            let printable = |&byte: &u8| match byte {
                b' '..=b'~' => char::from(byte),
                _ => '.',
            };
            status.moldudp64 = Some(MoldUdp64Status {
                session: mold.session.iter().map(printable).collect(),
                next: mold.next,
            });
        }
    }
    status
}
