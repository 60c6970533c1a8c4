//! From results to the charts and tables of docs/performance.md, so that no number is typed by
//! hand.

use std::path::Path;

use anyhow::{Context, Result};

use crate::{
    chart::{Chart, Group, Scale},
    measure::LOW_RATE,
    results::{ContenderResult, Results, ScenarioResult, Spread, Summary},
};

/// The scenario whose latencies are shown.
const LATENCY_OF: &str = "1-1";
/// The scenario that the README shows.
const README_OF: &str = "1-16";

/// Writes all charts to `folder`, each named after what it shows.
///
/// # Errors
///
/// When a number for a chart was not measured at all, or a file cannot be written.
pub fn write(results: &Results, folder: &Path) -> Result<()> {
    std::fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
    let write = |name: &str, chart: Chart| chart.write(&folder.join(name).with_extension("svg"));
    write("loss-free", loss_free(results))?;
    write("overload", overload(results))?;
    write("latency", latency(results)?)?;
    write("cpu", cpu(results))?;
    match readme(results) {
        Some(chart) => write("one-to-sixteen", chart),
        None => Ok(()),
    }
}

/// The one scenario of the README, one bar for each contender; `None` if it was not measured.
fn readme(results: &Results) -> Option<Chart> {
    let mut scenarios = results.scenarios.iter();
    let result = scenarios.find(|result| result.scenario.name == README_OF)?;
    let rate = |one: &ContenderResult| {
        let rate = one.summary.loss_free_out?.median / 1e3;
        Some((one.name.clone(), rate))
    };
    Some(one_to_sixteen(
        result.contenders.iter().filter_map(rate).collect(),
    ))
}

/// The chart of contenders by name, each with thousand copies per second.
fn one_to_sixteen(rates: Vec<(String, f64)>) -> Chart {
    let group = |(name, rate): (String, f64)| Group {
        bars: vec![(usize::from(!name.starts_with("relay")), rate)],
        label: name,
    };
    Chart {
        title: "One feed to 16 outputs: copies without loss, on one core".into(),
        axis: "thousand copies per second, 1000 bytes each; more is better".into(),
        scale: Scale::Linear,
        series: ["this relay", "other programs"].map(str::to_owned).to_vec(),
        groups: rates.into_iter().map(group).collect(),
    }
}

fn loss_free(results: &Results) -> Chart {
    Chart {
        title: "Highest output without loss, on one core".into(),
        axis: "thousand copies per second; more is better".into(),
        scale: Scale::Linear,
        ..by_scenario(results, |summary| summary.loss_free_out, 1e3)
    }
}

fn cpu(results: &Results) -> Chart {
    Chart {
        title: "CPU time per copy, at the highest rate without loss".into(),
        axis: "nanoseconds per copy; less is better".into(),
        scale: Scale::Linear,
        ..by_scenario(results, |summary| summary.cpu_ns_per_copy, 1.0)
    }
}

/// One group per scenario, one colour per contender.
fn by_scenario(results: &Results, value: fn(&Summary) -> Option<Spread>, unit: f64) -> Chart {
    let series = contenders(results);
    let bars = |result: &ScenarioResult| {
        let bar = |one: &ContenderResult| {
            let series = series.iter().position(|name| *name == one.name)?;
            Some((series, value(&one.summary)?.median / unit))
        };
        result.contenders.iter().filter_map(bar).collect()
    };
    let group = |result: &ScenarioResult| Group {
        label: result.scenario.name.to_owned(),
        bars: bars(result),
    };
    let groups = results.scenarios.iter().map(group).collect();
    Chart {
        title: String::new(),
        axis: String::new(),
        scale: Scale::Linear,
        series,
        groups,
    }
}

/// All contenders that were measured in some scenario, in the order of the results.
pub fn contenders(results: &Results) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for one in results.scenarios.iter().flat_map(|all| &all.contenders) {
        if !(one.rounds.is_empty() || names.contains(&one.name)) {
            names.push(one.name.clone());
        }
    }
    names
}

/// Output under overload in per cent of the output without loss: it shows which contenders keep
/// their rate, and which break down.
fn overload(results: &Results) -> Chart {
    let part = |summary: &Summary| {
        let (overload, free) = (summary.overload_out?, summary.loss_free_out?);
        let part = overload.median / free.median * 100.0;
        Spread::of(vec![part])
    };
    Chart {
        title: "Output while three times the highest rate without loss is offered".into(),
        axis: "per cent of the highest output without loss; more is better".into(),
        ..by_scenario(results, part, 1.0)
    }
}

fn latency(results: &Results) -> Result<Chart> {
    let mut scenarios = results.scenarios.iter();
    let result = scenarios
        .find(|result| result.scenario.name == LATENCY_OF)
        .with_context(|| {
            format!("the results have no scenario {LATENCY_OF}, which the chart of latencies shows")
        })?;
    let group = |one: &ContenderResult| {
        let latency = one.summary.latency_low?;
        let medians = [latency.p50, latency.p99, latency.p999].map(|spread| spread.median);
        Some(Group {
            label: one.name.clone(),
            bars: medians.into_iter().enumerate().collect(),
        })
    };
    Ok(Chart {
        title: format!("Latency of one feed of {LOW_RATE} frames per second to one output"),
        axis: "microseconds, logarithmic; less is better".into(),
        scale: Scale::Log,
        series: ["p50", "p99", "p99.9"].map(str::to_owned).to_vec(),
        groups: result.contenders.iter().filter_map(group).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_readme_tells_the_relay_from_other_programs() {
        let rates = [("relay", 30.0), ("relay-io-uring", 20.0), ("socat", 1.0)];
        let chart = one_to_sixteen(rates.map(|(name, rate)| (name.into(), rate)).to_vec());
        let bars = |group: &Group| (group.label.clone(), group.bars.clone());
        let bars: Vec<_> = chart.groups.iter().map(bars).collect();
        let expected = [
            ("relay".to_owned(), vec![(0, 30.0)]),
            ("relay-io-uring".to_owned(), vec![(0, 20.0)]),
            ("socat".to_owned(), vec![(1, 1.0)]),
        ];
        assert_eq!(bars, expected);
    }
}
