//! What is written down of a run: what the relay held and when, what is said of it at the end, and
//! what was done last.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use relay_tests::background::eventually;
use relay_tests::soak::Sample;

use super::{AGREES, Run, judge};

/// How often what the relay holds is looked at.
const SAMPLE_EVERY: Duration = Duration::from_secs(2);
/// How many actions are printed when it fails.
const LAST_ACTIONS: usize = 30;

impl Run {
    /// Looks at what the relay holds: at home always, and else now and then.
    pub(super) fn sample(&mut self, at_home: bool) -> Result<()> {
        if !at_home && self.sampled.elapsed() < SAMPLE_EVERY {
            return Ok(());
        }
        self.sampled = Instant::now();
        let relay = &self.system()?.relay;
        let mut held = relay.held()?;
        let mut map_entries = relay.map_entries().ok();
        if at_home && let Some((first, entries)) = &self.first {
            // Connections of commands are closed in a moment, and the notes of copies that came
            // back are forgotten after ten seconds.
            let same = eventually(AGREES, || {
                held = relay.held().unwrap_or_else(|_| held.clone());
                map_entries = relay.map_entries().ok();
                held == *first && map_entries == *entries
            });
            ensure!(
                same.is_some(),
                "at home the relay held {first:?} at first and {entries:?} map entries, and holds \
                 {held:?} and {map_entries:?}"
            );
        }
        let sample = Sample {
            at: self.started.elapsed().as_secs_f64(),
            resident_kib: relay.resident_kib()?,
            locked_kib: relay.locked_kib()?,
            descriptors: held.files.values().sum(),
            threads: held.threads.values().sum(),
            map_entries,
            at_home,
        };
        if at_home {
            println!("at home: {sample:?}");
            self.first.get_or_insert((held, map_entries));
        }
        let life = self.record.lives.last_mut().context("there is no relay")?;
        life.samples.push(sample);
        Ok(())
    }

    /// Fails if a life grew.
    pub(super) fn judge(&mut self) -> Result<()> {
        let mut grew = Vec::new();
        for (number, life) in (1..).zip(&self.record.lives) {
            let (said, judged) = match judge::judge(life) {
                Ok(said) => (said, true),
                Err(why) => (why, false),
            };
            let said = format!(
                "life {number}, from {:.0} s to {}: {said}",
                life.began, life.ended
            );
            println!("{said}");
            if !judged {
                grew.push(said.clone());
            }
            self.record.verdicts.push(said);
        }
        ensure!(grew.is_empty(), "{}", grew.join("\n"));
        println!("{:?}\n{:?}", self.record.actions, self.record.frames);
        Ok(())
    }

    pub(super) fn write_record(&mut self) -> Result<()> {
        self.record.seconds = self.started.elapsed().as_secs_f64();
        let Some(path) = &self.plan.record else {
            return Ok(());
        };
        let extension = format!("{}.json", self.backend.name());
        let path = path.with_extension(extension);
        let text = serde_json::to_string_pretty(&self.record)?;
        fs::write(&path, text + "\n").with_context(|| format!("writing {}", path.display()))
    }

    pub(super) fn last_words(&self) -> String {
        let from = self.journal.len().saturating_sub(LAST_ACTIONS);
        let last = self.journal.get(from..).unwrap_or_default();
        format!(
            "seed {}, {:?}; the last actions:\n{}",
            self.plan.seed,
            self.backend,
            last.join("\n")
        )
    }
}
