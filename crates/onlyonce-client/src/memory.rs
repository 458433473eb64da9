//! Keys that outlive the process.

use crate::{
    error::KeyFault,
    key::{Intention, Key},
};
use http::HeaderValue;
use onlyonce::{
    AnyStore, AsyncStore, Begin, Fingerprint, KeyRef, Retention, Scope,
    spi::{IdempotencyStore, Terms},
};
use std::{fmt, time::Duration};

/// How often another caller of the same intention, or one that died, is waited for.
const ROUNDS: usize = 8;

/// The keys of intentions, in a store of `onlyonce`: a name gets its key at its first use, on the
/// disk before anything is sent, and the same key at each later one, in this process and in later
/// ones, for as long as the store remembers it (its retention, counted from the first use).
///
/// A key stays when its request has an answer: a client that dies before it has acted on the answer
/// asks again under the same name, and gets the answer replayed. So a name stands for one intention
/// only, and for one request: another method, address or body under it is refused. The retention must
/// be at least as long as a caller may still come back to an intention.
///
/// ```
/// use http::Request;
/// use onlyonce_client::{Intention, Memory, Policy};
/// # let dir = tempfile::tempdir()?;
/// # let folder = dir.path();
///
/// let store = onlyonce::Store::open(folder)?;
/// let policy = Policy::new().memory(Memory::new(store));
/// let request = Request::post("http://shop/orders")
///     .extension(Intention::new("order-4711"))
///     .body(())?;
/// # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
/// let parts = request.into_parts().0;
/// let key = policy.key_of(&parts, b"one book").await?;
/// assert_eq!(policy.key_of(&parts, b"one book").await?, key);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
#[must_use]
pub struct Memory {
    store: AsyncStore<AnyStore>,
    scope: Scope,
    retention: Option<Retention>,
}

impl Memory {
    /// Makes a memory in a store: the client's own, or one that several clients share, who then
    /// share the names too.
    pub fn new(store: impl IdempotencyStore) -> Self {
        let store = AsyncStore::new(AnyStore::new(store));
        Memory { store, scope: Scope::of(["onlyonce-client"]), retention: None }
    }

    /// Sets the scope of the names: what one client of several that share a store is called.
    pub fn scope(mut self, scope: Scope) -> Self {
        self.scope = scope;
        self
    }

    /// Sets how long a name keeps its key. Default: the store's retention.
    pub fn retention(mut self, time: Duration) -> Self {
        self.retention = Some(Retention::of(time));
        self
    }

    /// The key of an intention, whose request consists of these parts.
    pub(crate) async fn key_of(
        &self,
        intention: &Intention,
        request: [&[u8]; 3],
    ) -> Result<Key, KeyFault> {
        let failed = |error: &dyn fmt::Display| KeyFault::Memory(error.to_string());
        let name = KeyRef::new(&self.scope, &intention.0).map_err(|error| failed(&error))?;
        let terms = Terms { retention: self.retention, reserve: Some(1024), ..Terms::default() };
        let begin = self.store.begin_with(name, Fingerprint::of(request), terms).await;
        let mut begin = begin.map_err(|error| failed(&error))?;
        for _ in 0..ROUNDS {
            let next = match begin {
                Begin::Execute(mut claim) => {
                    let key = Key::random();
                    let stored = claim.complete(key.header().as_bytes()).await;
                    stored.map_err(|error| failed(&error))?;
                    return Ok(key);
                }
                Begin::Replay(record) => {
                    let key =
                        record.response().and_then(|bytes| HeaderValue::from_bytes(bytes).ok());
                    return key.map(Key::sent).ok_or_else(|| failed(&"the record is no key"));
                }
                Begin::Mismatch { .. } => return Err(KeyFault::OtherRequest),
                Begin::InFlight(pending) => pending.wait(Duration::from_secs(1)).await,
                // Nothing is sent before the key is stored: nothing was sent.
                Begin::Interrupted(interrupted) => interrupted.take_over().await,
            };
            begin = next.map_err(|error| failed(&error))?;
        }
        Err(failed(&"another caller has had the intention's name for too long"))
    }
}

impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Memory").field("retention", &self.retention).finish_non_exhaustive()
    }
}
