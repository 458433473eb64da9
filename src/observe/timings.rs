//! Times and sizes, from the moment when a reader has asked for them.

#[cfg(feature = "admin")]
use super::alarms::{Alarm, Alarms};
use super::{
    Timed,
    histogram::{Counts, Histogram},
};
use crate::{key::KeyRef, stats::Count, token::Token};
use std::{
    sync::{Arc, OnceLock},
    time::Instant,
};

/// Off until [`Timings::watch`]; from then on everything is timed.
#[derive(Clone, Default)]
pub(crate) struct Timings(Arc<Watched>);

#[derive(Default)]
struct Watched {
    histograms: OnceLock<Box<[Histogram; Timed::ALL.len()]>>,
    #[cfg(feature = "admin")]
    alarms: Alarms,
}

/// When a step began; `None` while times are off.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Started(Option<Instant>);

impl std::fmt::Debug for Timings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Timings")
    }
}

impl Timings {
    /// Turns times on.
    pub fn watch(&self) {
        self.0.histograms.get_or_init(|| Box::new(std::array::from_fn(|_| Histogram::new())));
    }

    pub fn start(&self) -> Started {
        Started(self.0.histograms.get().map(|_| Instant::now()))
    }

    #[inline]
    pub fn end(&self, what: Timed, started: Started) {
        if let Some(started) = started.0 {
            self.took(what, started);
        }
    }

    fn took(&self, what: Timed, started: Instant) {
        if let Some(histograms) = self.0.histograms.get() {
            let ns = started.elapsed().as_nanos();
            histograms[what as usize].record(u64::try_from(ns).unwrap_or(u64::MAX));
        }
    }

    pub fn size(&self, what: Timed, size: usize) {
        if let Some(histograms) = self.0.histograms.get() {
            histograms[what as usize].record(size as u64);
        }
    }

    /// The counts of `what` since times were turned on.
    pub fn counts(&self, what: Timed) -> Counts {
        self.0.histograms.get().map(|h| h[what as usize].counts()).unwrap_or_default()
    }

    /// Something that may mean money, for the list of the admin service.
    #[cfg_attr(not(feature = "admin"), allow(unused_variables))]
    pub fn alarm(
        &self,
        count: Count,
        hash: u64,
        key: KeyRef<'_>,
        token: Option<Token>,
        now: impl FnOnce() -> u64,
    ) {
        #[cfg(feature = "admin")]
        self.0.alarms.push(Alarm { count, at_ms: now(), hash, key: key.owned(), token });
    }

    #[cfg(feature = "admin")]
    pub fn alarms(&self) -> &Alarms {
        &self.0.alarms
    }
}
