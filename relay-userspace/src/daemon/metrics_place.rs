//! Has metrics served where the rules say, and tries again where that is refused: an address may be
//! taken, or not be there yet. Rules run whether their metrics are served or not.

use std::time::{Duration, Instant};

use log::Level::{Info, Warn};

use crate::{
    config::rules::{Listen, Metrics},
    events::Event,
};

/// The target of the lines.
const LOG: &str = module_path!();
/// How long after a refusal to try again.
const AGAIN: Duration = Duration::from_secs(5);

/// Serves metrics as asked for from now on, or nothing without. Says where, if that is new, or why
/// not.
pub type Serve = Box<dyn FnMut(Option<&Metrics>) -> Result<Option<Listen>, String> + Send>;

/// Where metrics are served.
pub struct MetricsPlace {
    serve: Serve,
    /// Why they are not where the rules say.
    refused: Option<String>,
    /// When to try again.
    again: Option<Instant>,
}

impl MetricsPlace {
    /// Nowhere yet.
    pub const fn new(serve: Serve) -> Self {
        Self {
            serve,
            refused: None,
            again: None,
        }
    }

    /// Has them served as the rules say.
    pub fn follow(&mut self, wanted: Option<&Metrics>, now: Instant) {
        match (self.serve)(wanted) {
            Ok(place) => {
                if let Some(place) = place {
                    let text = format!("metrics are served at {place}");
                    Event::new(LOG, Info, "metrics", &text).by_text().say();
                }
                (self.refused, self.again) = (None, None);
            }
            Err(why) => {
                if self.refused.as_ref() != Some(&why) {
                    let text = format!(
                        "{why}. The rules run without it; trying again every {} s",
                        AGAIN.as_secs()
                    );
                    Event::new(LOG, Warn, "metrics", &text).by_text().say();
                }
                (self.refused, self.again) = (Some(why), Some(now + AGAIN));
            }
        }
    }

    /// When to call [`Self::follow`] again.
    pub const fn again(&self) -> Option<Instant> {
        self.again
    }

    /// Why metrics are not served, if they should be.
    pub fn problem(&self) -> Option<&str> {
        self.refused.as_deref()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[test]
    fn what_is_refused_is_tried_again_and_is_no_problem_any_more_once_it_is_served() {
        let metrics = Metrics {
            listen: Listen::Tcp("127.0.0.1:9474".parse().unwrap()),
            outputs: true,
        };
        let answers = vec![Ok(Some(metrics.listen.clone())), Err("taken".to_owned())];
        let answers = Arc::new(Mutex::new(answers));
        let serve = move |_: Option<&Metrics>| answers.lock().unwrap().pop().unwrap();
        let mut place = MetricsPlace::new(Box::new(serve));
        let now = Instant::now();
        place.follow(Some(&metrics), now);
        assert_eq!(place.problem(), Some("taken"));
        assert_eq!(place.again(), Some(now + AGAIN));
        place.follow(Some(&metrics), now);
        assert_eq!((place.problem(), place.again()), (None, None));
    }
}
