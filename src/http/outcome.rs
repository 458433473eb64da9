//! Counts of what became of requests, and the outcome in a request's span.

use super::{config::Core, problem::Problem};
use std::sync::atomic::{AtomicU64, Ordering};

/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It isn't the layer's.
    Passed,
    /// Its handler ran.
    Executed,
    /// It got the stored answer.
    Replayed,
    /// It got the answer that an interrupted holder left.
    LeftReplayed,
    /// It got the layer's own answer.
    Refused(Problem),
    /// It did not wait, because there was no place.
    WaitRefused,
}

const OWN: [&str; 5] = ["passed", "executed", "replayed", "left_replayed", "wait_refused"];

const ALL: usize = OWN.len() + Problem::ALL.len();

impl Outcome {
    fn place(self) -> usize {
        match self {
            Outcome::Passed => 0,
            Outcome::Executed => 1,
            Outcome::Replayed => 2,
            Outcome::LeftReplayed => 3,
            Outcome::WaitRefused => 4,
            Outcome::Refused(problem) => OWN.len() + problem as usize,
        }
    }
}

/// The name of the outcome at a place.
fn name(place: usize) -> &'static str {
    match place.checked_sub(OWN.len()) {
        Some(problem) => Problem::ALL[problem].name(),
        None => OWN[place],
    }
}

/// How many requests had which outcome.
#[derive(Debug)]
pub(super) struct Outcomes([AtomicU64; ALL]);

impl Default for Outcomes {
    fn default() -> Self {
        Outcomes([const { AtomicU64::new(0) }; ALL])
    }
}

impl Outcomes {
    pub fn all(&self) -> Vec<(&'static str, u64)> {
        let counts = self.0.iter().map(|count| count.load(Ordering::Relaxed));
        counts.enumerate().map(|(place, count)| (name(place), count)).collect()
    }
}

impl<S> Core<S> {
    /// Counts an outcome, and notes it in the request's span.
    pub fn came(&self, outcome: Outcome) {
        let place = outcome.place();
        self.shared.outcomes.0[place].fetch_add(1, Ordering::Relaxed);
        self.span.record("outcome", name(place));
    }
}

#[cfg(feature = "metrics")]
impl<S: crate::spi::IdempotencyStore> super::IdempotencyLayer<S> {
    /// Publishes the layer's figures to the recorder of the crate `metrics`, as
    /// [`Publisher::publish`](crate::metrics::Publisher::publish) does the store's: call both
    /// before each scrape. `docs/operations.md` explains the names.
    pub fn publish(&self) {
        use ::metrics::{counter, gauge};
        for (outcome, count) in self.outcomes() {
            counter!("onlyonce_http_requests_total", "outcome" => outcome).absolute(count);
        }
        let double = self.double_executions();
        counter!("onlyonce_http_double_executions_total").absolute(double);
        gauge!("onlyonce_http_running").set(self.running() as f64);
        gauge!("onlyonce_http_buffered_bytes").set(self.buffered() as f64);
    }
}

/// The name of a request's span.
macro_rules! span {
    () => {
        tracing::debug_span!(
            target: "onlyonce",
            "idempotency",
            outcome = tracing::field::Empty,
            attempt = tracing::field::Empty,
            token = tracing::field::Empty,
        )
    };
}
pub(super) use span;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_and_names_are_each_others() {
        for (at, problem) in Problem::ALL.into_iter().enumerate() {
            assert_eq!(problem as usize, at);
            assert_eq!(name(Outcome::Refused(problem).place()), problem.name());
        }
        assert_eq!(name(Outcome::WaitRefused.place()), "wait_refused");
        assert_eq!(name(Outcome::Executed.place()), "executed");
    }
}
