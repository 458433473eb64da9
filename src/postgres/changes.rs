//! Waiters are woken when their key has changed: in this process at once, in others by `NOTIFY`,
//! and if that fails by asking again.
//!
//! A `NOTIFY` takes a lock that serialises its senders on a server until their commits end, so a
//! completion never carries one: that would end group commit. Changes are announced a little later,
//! in batches, by transactions that wait for no disk, and only while another store listens, because
//! each of them gives the disk work. (A listener holds a shared advisory lock, which every session
//! can see.)

use super::{begin::hidden_token, crowd::hash, inner::Inner, pool::Heard, row::RowState};
use crate::{spi::Request, token::Token};
use parking_lot::Mutex;
use std::{
    collections::HashMap,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, AtomicI32, Ordering},
    },
    time::Duration,
};
use tokio::{
    sync::{Notify, mpsc},
    time::{Instant, sleep, timeout, timeout_at},
};

/// How long changes are gathered before they are announced.
const GATHER: Duration = Duration::from_millis(5);
/// How many changes fit the payload of one notification (less than 8,000 bytes).
const CHANGES_MAX: usize = 400;
/// How long the answer to "does another store listen?" is used.
const BELIEVED: Duration = Duration::from_millis(1000);
/// The intervals at which a waiter looks when no notifications come, at first and at the end.
const LOOK_FIRST: Duration = Duration::from_millis(25);
const LOOK_LAST: Duration = Duration::from_millis(400);
/// The interval at which a waiter looks although it would be notified.
const LOOK_TOLD: Duration = Duration::from_millis(1000);

/// The waiters, by the hash of their key.
#[derive(Default)]
pub(super) struct Changes {
    waiting: Mutex<HashMap<u64, Waiters>>,
    /// A connection listens.
    heard: AtomicBool,
    listening: AtomicBool,
    /// The server process that listens for this store.
    ear: AtomicI32,
    teller: Mutex<Option<Teller>>,
}

/// How other stores are notified.
struct Teller {
    changes: mpsc::UnboundedSender<u64>,
    /// Until then no other store is believed to listen, so that a change wakes no task in vain.
    nobody_until: Instant,
}

struct Waiters {
    told: Arc<Notify>,
    count: usize,
}

/// A waiter.
struct Waiting<'a> {
    changes: &'a Changes,
    hash: u64,
    told: Arc<Notify>,
}

impl Changes {
    fn wait_for(&self, hash: u64) -> Waiting<'_> {
        let mut waiting = self.waiting.lock();
        let waiters = waiting
            .entry(hash)
            .or_insert_with(|| Waiters { told: Arc::new(Notify::new()), count: 0 });
        waiters.count += 1;
        Waiting { changes: self, hash, told: waiters.told.clone() }
    }

    /// A key has changed, by a call of this store.
    pub fn changed(&self, hash: u64, tell: bool) {
        self.wake(hash);
        if tell
            && let Some(teller) = &*self.teller.lock()
            && teller.nobody_until <= Instant::now()
        {
            let _ = teller.changes.send(hash);
        }
    }

    fn wake(&self, hash: u64) {
        if let Some(waiters) = self.waiting.lock().get(&hash) {
            waiters.told.notify_waiters();
        }
    }

    /// Makes every waiter look again.
    pub fn wake_all(&self) {
        self.waiting.lock().values().for_each(|waiters| waiters.told.notify_waiters());
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut waiting = self.changes.waiting.lock();
        if let Some(waiters) = waiting.get_mut(&self.hash) {
            waiters.count -= 1;
            if waiters.count == 0 {
                waiting.remove(&self.hash);
            }
        }
    }
}

impl Inner {
    /// Resolves with `true` when the attempt `seen` may no longer be in flight, with `false`
    /// after `at_most`.
    pub async fn changed(
        self: &Arc<Self>,
        request: &Request,
        seen: Token,
        at_most: Duration,
    ) -> bool {
        let until = Instant::now() + at_most.min(Duration::from_secs(30 * 24 * 3600));
        if self.here.running(&request.key).is_some() {
            return timeout_at(until, self.here.ended(&request.key)).await.is_ok();
        }
        if seen == hidden_token() {
            // The holder is a transaction: asking again waits for its lock.
            sleep(at_most.min(LOOK_FIRST)).await;
            return !at_most.is_zero();
        }
        self.listen();
        let waiting = self.changes.wait_for(hash(request.key.as_ref()));
        let mut pause = LOOK_FIRST;
        loop {
            // Registered before looking, so that no change falls in between.
            let told = waiting.told.notified();
            tokio::pin!(told);
            told.as_mut().enable();
            if self.check_open().is_err() {
                return true;
            }
            let lease_left = match self.look(&self.tries(), request.key.as_ref()).await {
                Ok(Some(row)) => match row.says() {
                    RowState::Held if row.token == seen.get() as i64 => {
                        Some(super::row::ms(row.lease_until - row.now))
                    }
                    _ => return true,
                },
                Ok(None) => return true,
                Err(_) => None,
            };
            let now = Instant::now();
            if now >= until {
                return false;
            }
            let mut next = match self.changes.heard.load(Ordering::SeqCst) {
                true => LOOK_TOLD,
                false => pause,
            };
            if let Some(left) = lease_left {
                next = next.min(left.max(Duration::from_millis(1)));
            }
            pause = (pause * 2).min(LOOK_LAST);
            let _ = timeout(next.min(until - now), told).await;
        }
    }

    /// Starts listening, once.
    fn listen(self: &Arc<Self>) {
        let is_told = self.options.notify;
        if is_told && !self.changes.listening.swap(true, Ordering::SeqCst) {
            let listening = self.runtime.spawn(listen(self.clone()));
            self.tasks.lock().push(listening.abort_handle());
        }
    }

    /// Whether another store listens. If that can't be found out, it may.
    async fn others_listen(&self) -> bool {
        let lock = self.names.lock.wrapping_add(2);
        let own = self.changes.ear.load(Ordering::SeqCst);
        let asked = self.query(&self.tries(), &self.sql.listeners, &[&lock, &own]).await;
        match asked.as_deref() {
            Ok([row]) => row.try_get(0).unwrap_or(true),
            _ => true,
        }
    }

    /// Starts the task that notifies other stores.
    pub fn start_telling(self: &Arc<Self>) {
        let (changes, gathered) = mpsc::unbounded_channel();
        *self.changes.teller.lock() = Some(Teller { changes, nobody_until: Instant::now() });
        let telling = self.runtime.spawn(tell(self.clone(), gathered));
        self.tasks.lock().push(telling.abort_handle());
    }
}

async fn tell(inner: Arc<Inner>, mut changes: mpsc::UnboundedReceiver<u64>) {
    let mut gathered = Vec::new();
    let mut believed: Option<(Instant, bool)> = None;
    while changes.recv_many(&mut gathered, CHANGES_MAX).await > 0 {
        sleep(GATHER).await;
        let room = CHANGES_MAX.saturating_sub(gathered.len());
        for _ in 0..room {
            match changes.try_recv() {
                Ok(hash) => gathered.push(hash),
                Err(_) => break,
            }
        }
        let now = Instant::now();
        let others = match believed {
            Some((until, others)) if now < until => others,
            _ => {
                let others = inner.others_listen().await;
                // Counted from the question, because the answer may have been slow.
                believed = Some((now + BELIEVED, others));
                if !others && let Some(teller) = &mut *inner.changes.teller.lock() {
                    teller.nobody_until = now + BELIEVED;
                }
                others
            }
        };
        if !others {
            gathered.clear();
            continue;
        }
        let payload: String = gathered.drain(..).map(|hash| format!("{hash:016x},")).collect();
        let channel = &inner.names.channel;
        let told = inner.query(&inner.tries(), &inner.sql.notify, &[channel, &payload]).await;
        if let Err(trouble) = told {
            tracing::debug!(why = trouble.what(), "changes were not announced; waiters ask again");
        }
    }
}

async fn listen(inner: Arc<Inner>) {
    let lock = inner.names.lock.wrapping_add(2);
    let listen = format!("LISTEN {}; SELECT pg_advisory_lock_shared({lock})", inner.names.channel);
    loop {
        let over = Arc::new(Notify::new());
        let heard = ear(Arc::downgrade(&inner), over.clone());
        if let Ok(session) = inner.pool.sessions.connect_and_hear(Some(heard)).await
            && let Ok(row) = session.query_one("SELECT pg_backend_pid()", &[]).await
            && session.batch_execute(&listen).await.is_ok()
        {
            inner.changes.ear.store(row.get(0), Ordering::SeqCst);
            // Until then others may still believe that no store listens.
            sleep(BELIEVED + GATHER).await;
            inner.changes.heard.store(true, Ordering::SeqCst);
            // Changes before this were not notified.
            inner.changes.wake_all();
            over.notified().await;
            inner.changes.heard.store(false, Ordering::SeqCst);
            inner.changes.wake_all();
        }
        sleep(LOOK_LAST).await;
    }
}

/// Wakes the waiters whose keys are named; notes the end of the connection.
fn ear(inner: Weak<Inner>, over: Arc<Notify>) -> Heard {
    Arc::new(move |payload| {
        if payload.is_empty() {
            over.notify_one();
        }
        let Some(inner) = inner.upgrade() else { return };
        for hash in payload.split(',').filter_map(|hash| u64::from_str_radix(hash, 16).ok()) {
            inner.changes.wake(hash);
        }
    })
}
