//! From results to the charts and tables of docs/performance.md, so that no number is typed by
//! hand.

use std::path::Path;

use anyhow::{Context, Result};

use crate::{
    chart::{Chart, Group, Scale, Series},
    measure::LOW_RATE,
    palette,
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
    write("loss-free", loss_free(results)?)?;
    write("overload", overload(results)?)?;
    write("latency", latency(results)?)?;
    write("cpu", cpu(results)?)?;
    match readme(results) {
        Some(chart) => write("one-to-sixteen", chart?),
        None => Ok(()),
    }
}

/// The series of contenders, each with its colour.
fn series(names: &[String]) -> Result<Vec<Series>> {
    let one = |name: &String| {
        let colour = palette::of(name);
        Ok(Series {
            name: Some(name.clone()),
            colour: colour.with_context(|| format!("{name} has no colour in src/palette.rs"))?,
        })
    };
    names.iter().map(one).collect()
}

/// The one scenario of the README, one bar for each contender; `None` if it was not measured.
fn readme(results: &Results) -> Option<Result<Chart>> {
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
fn one_to_sixteen(rates: Vec<(String, f64)>) -> Result<Chart> {
    let names: Vec<_> = rates.iter().map(|(name, _)| name.clone()).collect();
    let mut series = series(&names)?;
    // The labels of the bars are their names.
    for one in &mut series {
        one.name = None;
    }
    let group = |(at, (label, rate))| Group {
        bars: vec![(at, rate)],
        label,
    };
    Ok(Chart {
        title: "One feed to 16 outputs: copies without loss, on one core".into(),
        axis: "thousand copies per second, 1000 bytes each; more is better".into(),
        scale: Scale::Linear,
        series,
        groups: rates.into_iter().enumerate().map(group).collect(),
    })
}

fn loss_free(results: &Results) -> Result<Chart> {
    Ok(Chart {
        title: "Highest output without loss, on one core".into(),
        axis: "thousand copies per second; more is better".into(),
        scale: Scale::Linear,
        ..by_scenario(results, |summary| summary.loss_free_out, 1e3)?
    })
}

fn cpu(results: &Results) -> Result<Chart> {
    Ok(Chart {
        title: "CPU time per copy, at the highest rate without loss".into(),
        axis: "nanoseconds per copy; less is better".into(),
        scale: Scale::Linear,
        ..by_scenario(results, |summary| summary.cpu_ns_per_copy, 1.0)?
    })
}

/// One group per scenario, one colour per contender.
fn by_scenario(
    results: &Results,
    value: fn(&Summary) -> Option<Spread>,
    unit: f64,
) -> Result<Chart> {
    let names = contenders(results);
    let bars = |result: &ScenarioResult| {
        let bar = |one: &ContenderResult| {
            let series = names.iter().position(|name| *name == one.name)?;
            Some((series, value(&one.summary)?.median / unit))
        };
        result.contenders.iter().filter_map(bar).collect()
    };
    let group = |result: &ScenarioResult| Group {
        label: result.scenario.name.to_owned(),
        bars: bars(result),
    };
    let groups = results.scenarios.iter().map(group).collect();
    Ok(Chart {
        title: String::new(),
        axis: String::new(),
        scale: Scale::Linear,
        series: series(&names)?,
        groups,
    })
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
fn overload(results: &Results) -> Result<Chart> {
    let part = |summary: &Summary| {
        let (overload, free) = (summary.overload_out?, summary.loss_free_out?);
        let part = overload.median / free.median * 100.0;
        Spread::of(vec![part])
    };
    Ok(Chart {
        title: "Output while three times the highest rate without loss is offered".into(),
        axis: "per cent of the highest output without loss; more is better".into(),
        ..by_scenario(results, part, 1.0)?
    })
}

fn latency(results: &Results) -> Result<Chart> {
    let mut scenarios = results.scenarios.iter();
    let result = scenarios
        .find(|result| result.scenario.name == LATENCY_OF)
        .with_context(|| {
            format!("the results have no scenario {LATENCY_OF}, which the chart of latencies shows")
        })?;
    let group = |one: &ContenderResult| {
        let summary = &one.summary;
        let (all, aside) = (summary.latency_low?, summary.latency_low_aside);
        let values = [
            Some(all.p50),
            aside.map(|aside| aside.p99),
            Some(all.p99),
            Some(all.p999),
        ];
        let bars = values.into_iter().enumerate();
        Some(Group {
            label: one.name.clone(),
            bars: bars
                .filter_map(|(series, value)| Some((series, value?.median)))
                .collect(),
        })
    };
    let names = ["p50", "p99, stalls set aside", "p99", "p99.9"];
    let series = names.into_iter().zip(palette::PERCENTILES);
    let series = series.map(|(name, colour)| Series {
        name: Some(name.to_owned()),
        colour,
    });
    Ok(Chart {
        title: format!("Latency of one feed of {LOW_RATE} frames per second to one output"),
        axis: "microseconds, logarithmic; less is better".into(),
        scale: Scale::Log,
        series: series.collect(),
        groups: result.contenders.iter().filter_map(group).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_readme_has_each_contender_in_its_colour_and_no_legend() {
        let rates = [("relay", 30.0), ("relay-io-uring", 20.0), ("socat", 1.0)];
        let rates = rates.map(|(name, rate)| (name.to_owned(), rate)).to_vec();
        let chart = one_to_sixteen(rates.clone()).unwrap();
        for (at, (name, rate)) in rates.iter().enumerate() {
            let group = &chart.groups[at];
            assert_eq!((&group.label, &group.bars[..]), (name, &[(at, *rate)][..]));
            assert_eq!(palette::of(name), Some(chart.series[at].colour));
            assert_eq!(chart.series[at].name, None);
        }
        assert!(one_to_sixteen(vec![("nobody".to_owned(), 1.0)]).is_err());
    }
}
