//! Callers of this process for keys that are locked wait without a connection.
//!
//! A statement that finds its key locked by another transaction waits on its connection for a
//! moment only. From then on one caller at a time asks for the key, and the others wait for their
//! turn here: a key that is asked for often can't use up the connections.

use crate::key::KeyRef;
use parking_lot::Mutex;
use std::{collections::HashMap, sync::Arc, time::Duration};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, sleep, timeout_at},
};

/// How long a statement waits for a lock on its connection, and how long a caller pauses before it
/// asks again.
pub(crate) const LOCK_FIRST: Duration = Duration::from_millis(25);

/// The hash by which a key is named in crowds and notifications.
pub(crate) fn hash(key: KeyRef<'_>) -> u64 {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&[key.scope().len() as u8]).update(key.scope()).update(key.key());
    u64::from_le_bytes(hasher.finalize().as_bytes()[..8].try_into().expect("eight bytes"))
}

/// The keys that were found locked and have callers, by their hash.
#[derive(Debug, Default)]
pub(crate) struct Crowds(Mutex<HashMap<u64, Crowd>>);

#[derive(Debug)]
struct Crowd {
    turn: Arc<Semaphore>,
    members: usize,
}

/// One call's wait for a key that may be locked.
#[derive(Debug)]
pub(crate) struct Patience<'a> {
    crowds: &'a Crowds,
    hash: u64,
    until: Instant,
    turn: Option<OwnedSemaphorePermit>,
    member: Option<Arc<Semaphore>>,
}

impl Crowds {
    /// A call that begins now and waits for locks for so long.
    pub fn patience(&self, hash: u64, limit: Duration) -> Patience<'_> {
        let until = Instant::now() + limit;
        Patience { crowds: self, hash, until, turn: None, member: None }
    }

    fn join(&self, hash: u64, create: bool) -> Option<Arc<Semaphore>> {
        let mut crowds = self.0.lock();
        if create {
            let crowd = || Crowd { turn: Arc::new(Semaphore::new(1)), members: 0 };
            crowds.entry(hash).or_insert_with(crowd);
        }
        let crowd = crowds.get_mut(&hash)?;
        crowd.members += 1;
        Some(crowd.turn.clone())
    }

    fn leave(&self, hash: u64) {
        let mut crowds = self.0.lock();
        if let Some(crowd) = crowds.get_mut(&hash) {
            crowd.members -= 1;
            if crowd.members == 0 {
                crowds.remove(&hash);
            }
        }
    }
}

impl Patience<'_> {
    /// Waits for the caller's turn, if the key is known to be locked; `false` when its time is over.
    pub async fn turn(&mut self) -> bool {
        if self.turn.is_some() {
            return true;
        }
        if self.member.is_none() {
            self.member = self.crowds.join(self.hash, false);
        }
        let Some(turn) = self.member.clone() else { return true };
        match timeout_at(self.until, turn.acquire_owned()).await {
            Ok(turn) => {
                self.turn = turn.ok();
                true
            }
            Err(_) => false,
        }
    }

    /// The key was found locked; whether to ask again. Pauses before.
    pub async fn locked(&mut self) -> bool {
        let now = Instant::now();
        if now >= self.until {
            return false;
        }
        if self.turn.is_some() {
            sleep(LOCK_FIRST.min(self.until - now)).await;
        } else if self.member.is_none() {
            self.member = self.crowds.join(self.hash, true);
        }
        true
    }
}

impl Drop for Patience<'_> {
    fn drop(&mut self) {
        self.turn = None;
        if self.member.take().is_some() {
            self.crowds.leave(self.hash);
        }
    }
}
