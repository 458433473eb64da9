//! Callers of this process for keys that are locked wait without a connection.
//!
//! A statement that finds its key locked by another transaction waits on its connection for a
//! moment only. From then on one caller at a time asks for the key, and the others wait for their
//! turn here: a key that is asked for often can't use up the connections.
//!
//! A key whose claim is an open transaction of this process is known without asking at all.

use crate::{key::OwnedKey, spi::Running, token::Token};
use parking_lot::Mutex;
use std::{collections::HashMap, sync::Arc, time::Duration};
use tokio::{
    sync::{Notify, OwnedSemaphorePermit, Semaphore},
    time::{Instant, sleep, timeout_at},
};

/// How long a statement waits for a lock on its connection, and how long a caller pauses before it
/// asks again.
pub(super) const LOCK_FIRST: Duration = Duration::from_millis(25);

/// The keys that were found locked and have callers, by their hash.
#[derive(Debug, Default)]
pub(super) struct Crowds(Mutex<HashMap<u64, Crowd>>);

#[derive(Debug)]
struct Crowd {
    turn: Arc<Semaphore>,
    members: usize,
}

/// One call's wait for a key that may be locked.
#[derive(Debug)]
pub(super) struct Patience<'a> {
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

/// The claims of this process that are open transactions.
#[derive(Debug, Default)]
pub(super) struct OpenHere {
    open: Mutex<HashMap<OwnedKey, (Token, Instant)>>,
    ended: Notify,
}

/// An open one. Dropped when its transaction has ended.
#[derive(Debug)]
pub(super) struct Here {
    all: Arc<OpenHere>,
    key: OwnedKey,
    token: Token,
}

impl OpenHere {
    pub fn opened(self: &Arc<Self>, key: &OwnedKey, token: Token) -> Here {
        self.open.lock().insert(key.clone(), (token, Instant::now()));
        Here { all: self.clone(), key: key.clone(), token }
    }

    /// What runs under this key here.
    pub fn running(&self, key: &OwnedKey) -> Option<Running> {
        let open = self.open.lock();
        let (token, since) = open.get(key)?;
        Some(Running { token: *token, running_for: since.elapsed() })
    }

    /// Resolves when nothing runs here under this key.
    pub async fn ended(&self, key: &OwnedKey) {
        loop {
            let ended = self.ended.notified();
            tokio::pin!(ended);
            ended.as_mut().enable();
            if self.running(key).is_none() {
                return;
            }
            ended.await;
        }
    }
}

impl Drop for Here {
    fn drop(&mut self) {
        let mut open = self.all.open.lock();
        // Another claim of the key may have been opened in the meantime.
        if open.get(&self.key).is_some_and(|(token, _)| *token == self.token) {
            open.remove(&self.key);
        }
        drop(open);
        self.all.ended.notify_waiters();
    }
}
