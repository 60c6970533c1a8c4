//! What it costs that operators can watch: the relay with a monitor for every rule, `silence`, and
//! metrics that are scraped once per second, beside the same relay without, in turns.

use std::path::Path;

use anyhow::Result;

use crate::{
    cell,
    contender::Contender,
    pairs,
    relay::Options,
    results::{Spread, WatchedResult},
    scenario::{self, Scenario},
};

/// The scenarios that it is measured in.
const SCENARIOS: [&str; 1] = ["1-4"];
/// The least part of the rate without loss that is good enough.
pub const ENOUGH: f64 = 0.97;

/// The scenarios.
pub fn scenarios() -> impl Iterator<Item = Scenario> {
    SCENARIOS.iter().flat_map(|name| scenario::named(name))
}

/// Measures a scenario.
///
/// # Errors
///
/// Nothing can be started, or an account is wrong.
pub fn measure(scenario: &Scenario, relay: &Path, programs: &Path) -> Result<WatchedResult> {
    let contender = |watched| Contender::Relay {
        binary: relay.to_owned(),
        options: Options {
            watched,
            ..Options::default()
        },
    };
    let (watched, plain) = (contender(true), contender(false));
    let pairs = pairs::both((scenario, &watched), (scenario, &plain), programs)?;
    Ok(WatchedResult {
        name: scenario.name.into(),
        loss_free: pairs.loss_free,
        overload: pairs.overload,
    })
}

/// A table, its head first.
pub fn rows(results: &[WatchedResult]) -> Vec<Vec<String>> {
    let head = [
        "all on / all off",
        "copies out without loss",
        "under overload",
        "enough",
    ];
    let row = |result: &WatchedResult| {
        let ratio = |ratio: Spread| cell::ratios(Some(ratio));
        let enough = match result.loss_free.median >= ENOUGH {
            true => "yes",
            false => "no",
        };
        vec![
            result.name.clone(),
            ratio(result.loss_free),
            ratio(result.overload),
            enough.into(),
        ]
    };
    let head = head.map(str::to_owned).to_vec();
    std::iter::once(head)
        .chain(results.iter().map(row))
        .collect()
}
