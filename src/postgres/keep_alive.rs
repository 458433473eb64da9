//! Leases that the library renews by itself, many in one statement.

use super::{inner::Inner, row::Owner, terms::millis};
use crate::{key::OwnedKey, spi::Ticket, token::Token};
use parking_lot::Mutex;
use std::{collections::HashMap, sync::Arc, time::Duration};
use tokio::{
    sync::Notify,
    time::{Instant, timeout, timeout_at},
};

/// Claims that are kept alive.
#[derive(Default)]
pub(super) struct KeptAlive {
    claims: Mutex<HashMap<(Token, Owner), Kept>>,
    more: Notify,
}

struct Kept {
    key: OwnedKey,
    lease: Duration,
    next: Instant,
    /// A hung execution is not kept alive for ever.
    until: Instant,
}

/// Renewed so many times within a lease.
const TIMES: u32 = 3;
/// How many leases one statement renews.
const BATCH: usize = 500;

impl KeptAlive {
    pub fn remove(&self, token: Token, owner: Owner) {
        self.claims.lock().remove(&(token, owner));
    }

    /// When the next one is due.
    fn next(&self) -> Option<Instant> {
        self.claims.lock().values().map(|kept| kept.next).min()
    }

    /// The claims that are due now, with their next time set.
    fn due(&self) -> Vec<(Token, Owner, OwnedKey, Duration)> {
        let now = Instant::now();
        let mut claims = self.claims.lock();
        claims.retain(|_, kept| kept.until > now);
        let due = claims.iter_mut().filter(|(_, kept)| kept.next <= now);
        due.map(|((token, owner), kept)| {
            kept.next = now + kept.lease / TIMES;
            (*token, *owner, kept.key.clone(), kept.lease)
        })
        .collect()
    }
}

impl Inner {
    /// Renews this claim's lease until it ends, or for the execution limit.
    pub fn keep_alive(&self, ticket: &Ticket) {
        let now = Instant::now();
        let lease = ticket.lease;
        let until = now + self.options.execution_limit;
        let kept = Kept { key: ticket.key.clone(), lease, next: now + lease / TIMES, until };
        self.kept.claims.lock().insert((ticket.token, Owner::of(ticket)), kept);
        self.kept.more.notify_one();
    }

    /// Starts the task that renews.
    pub fn start_keeping(self: &Arc<Self>) {
        let keeping = self.runtime.spawn(keep(self.clone()));
        self.tasks.lock().push(keeping.abort_handle());
    }

    async fn renew_due(&self) {
        let mut due = self.kept.due();
        // In a fixed order, so that two stores' batches don't wait for each other.
        due.sort_by(|a, b| a.2.cmp(&b.2));
        for batch in due.chunks(BATCH) {
            let scopes: Vec<&[u8]> = batch.iter().map(|(_, _, key, _)| key.scope()).collect();
            let keys: Vec<&[u8]> = batch.iter().map(|(_, _, key, _)| key.key()).collect();
            let tokens: Vec<i64> = batch.iter().map(|(token, ..)| token.get() as i64).collect();
            let owners: Vec<&[u8]> = batch.iter().map(|(_, owner, ..)| &owner.0[..]).collect();
            let leases: Vec<i64> = batch.iter().map(|(.., lease)| millis(*lease)).collect();
            // Never for longer than until the next renewal.
            let limit = batch.iter().map(|(.., lease)| *lease / TIMES).min().unwrap_or_default();
            let tries = self.tries();
            let sql = &self.sql.keep_alive;
            let params: [&(dyn tokio_postgres::types::ToSql + Sync); 5] =
                [&scopes, &keys, &tokens, &owners, &leases];
            match timeout(limit, self.execute(&tries, sql, &params)).await {
                Ok(Ok(_)) => {}
                Ok(Err(trouble)) => tracing::debug!(why = trouble.what(), "leases not renewed"),
                Err(_) => tracing::debug!("leases not renewed in time"),
            }
        }
    }
}

async fn keep(inner: Arc<Inner>) {
    loop {
        inner.renew_due().await;
        let more = inner.kept.more.notified();
        match inner.kept.next() {
            Some(next) => drop(timeout_at(next, more).await),
            None => more.await,
        }
    }
}
