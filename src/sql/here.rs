//! Claims of this process that are open transactions: a key that runs here is known without asking the
//! server.

use crate::{key::OwnedKey, spi::Running, token::Token};
use parking_lot::Mutex;
use std::{collections::HashMap, sync::Arc};
use tokio::{sync::Notify, time::Instant};

/// The claims of this process that are open transactions.
#[derive(Debug, Default)]
pub(crate) struct OpenHere {
    open: Mutex<HashMap<OwnedKey, (Token, Instant)>>,
    ended: Notify,
}

/// An open one. Dropped when its transaction has ended.
#[derive(Debug)]
pub(crate) struct Here {
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
