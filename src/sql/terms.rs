//! The terms of claims that a store's options allow.

use crate::{
    error::BeginError,
    limits::LEASE_MAX_MS,
    options::{check_retention, lease_out_of_bounds, reserve_too_large},
    record::Retention,
    spi::Terms,
};
use std::time::Duration;

/// Terms of a claim, resolved by the store's own and checked. Milliseconds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct GrantTerms {
    pub lease: i64,
    pub replay: i64,
    pub remember: i64,
    pub keep: i64,
    pub reserve: i32,
}

/// The terms that hold where a claim has none of its own, and the bounds of all.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    pub lease: Duration,
    pub retention: Retention,
    pub interrupted_retention: Option<Duration>,
    pub max_attempts: u32,
    pub max_response: usize,
}

impl Bounds {
    pub fn resolve(&self, terms: &Terms) -> Result<GrantTerms, BeginError> {
        let options = self;
        let lease = millis(terms.lease.unwrap_or(options.lease));
        if !(1..=LEASE_MAX_MS as i64).contains(&lease) {
            let what = lease_out_of_bounds(terms.lease.unwrap_or(options.lease));
            return Err(BeginError::Terms { what });
        }
        let retention = terms.retention.unwrap_or(options.retention);
        check_retention(retention, lease as u64).map_err(|what| BeginError::Terms { what })?;
        let most = options.max_response as u32;
        let reserve = terms.reserve.unwrap_or(most);
        if reserve > most {
            let what = reserve_too_large(reserve, options.max_response);
            return Err(BeginError::Terms { what });
        }
        Ok(GrantTerms {
            lease,
            replay: millis(retention.replay_for),
            remember: millis(retention.remember_for),
            keep: self.keep_ms(retention),
            reserve: reserve as i32,
        })
    }

    /// Terms with the options where they say nothing.
    pub fn terms_in_force(&self, terms: Terms) -> Result<Terms, BeginError> {
        self.resolve(&terms)?;
        Ok(Terms {
            lease: terms.lease.or(Some(self.lease)),
            retention: terms.retention.or(Some(self.retention)),
            reserve: terms.reserve.or(Some(self.max_response as u32)),
            ..terms
        })
    }

    /// How long an interrupted key with this retention is kept.
    pub fn keep_ms(&self, retention: Retention) -> i64 {
        const WEEK_MS: i64 = 7 * 24 * 3_600_000;
        match self.interrupted_retention {
            Some(window) => millis(window),
            None => millis(retention.remember_for).max(WEEK_MS),
        }
    }
}

/// Milliseconds, as many as a column takes.
pub(crate) fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}
