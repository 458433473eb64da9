//! Handles of claims that outlive their store: it was closed while their holders were still
//! working. They can write nothing any more, but their effects elsewhere continue. So their keys
//! don't count as abandoned when the store is opened again in the same process, until the handles
//! are gone.
//!
//! Kept in the process and not on the disk: a holder in another process has died with that process.
//! Only a closing adds to it. Taken under a shard's lock; under it no lock is taken.

use crate::{engine::Engine, spi::Abandon, token::Token};
use parking_lot::Mutex;
#[cfg(not(onlyonce_shuttle))]
use std::sync::LazyLock;
use std::{
    collections::HashMap,
    sync::{Arc, Weak},
};

struct Outlived {
    /// The process that closed the first store. A child of it has none of its holders, and the
    /// lock may have been held when it was made.
    process: u32,
    stores: Mutex<HashMap<u64, Left>>,
}

impl Outlived {
    fn new() -> Self {
        Outlived { process: std::process::id(), stores: Mutex::default() }
    }
}

#[cfg(not(onlyonce_shuttle))]
static OUTLIVED: LazyLock<Outlived> = LazyLock::new(Outlived::new);

// A schedule begins without what the one before it has left.
#[cfg(onlyonce_shuttle)]
shuttle::lazy_static! {
    static ref OUTLIVED: Outlived = Outlived::new();
}

/// The handles that are left of one store.
#[derive(Default)]
struct Left {
    /// The shards of their keys.
    handles: HashMap<Token, u64>,
    /// Openings that have taken these keys over as held. Several if a copy of the directory is
    /// open too.
    openings: Vec<Weak<Engine>>,
}

impl Left {
    fn openings(&self) -> Vec<Arc<Engine>> {
        self.openings.iter().filter_map(Weak::upgrade).collect()
    }
}

fn outlived() -> Option<&'static Mutex<HashMap<u64, Left>>> {
    (OUTLIVED.process == std::process::id()).then_some(&OUTLIVED.stores)
}

/// Registers the handles of one shard that exist while `store` is being closed. Under the shard's
/// lock: a handle that ends later finds itself here.
pub(crate) fn add(store: u64, shard: u64, handles: impl Iterator<Item = Token>) {
    let mut handles = handles.peekable();
    if handles.peek().is_some()
        && let Some(stores) = outlived()
    {
        let mut stores = stores.lock();
        stores.entry(store).or_default().handles.extend(handles.map(|token| (token, shard)));
    }
}

/// Registers an opening of `store` that is notified of the ends of these handles, if there are any.
pub(crate) fn opened(store: u64, engine: &Arc<Engine>) {
    if let Some(stores) = outlived()
        && let Some(left) = stores.lock().get_mut(&store)
    {
        left.openings.retain(|opening| opening.strong_count() > 0);
        left.openings.push(Arc::downgrade(engine));
    }
}

/// How many handles are left of `store`.
pub(crate) fn count(store: u64) -> u64 {
    let count = |stores: &Mutex<HashMap<u64, Left>>| {
        stores.lock().get(&store).map_or(0, |left| left.handles.len() as u64)
    };
    outlived().map_or(0, count)
}

/// Whether this handle is left. Asked under the lock of its key's shard by an opening that has
/// called [`opened`]: so it either gets the answer no, or is notified of the end later.
pub(crate) fn lives(store: u64, token: Token) -> bool {
    let lives = |stores: &Mutex<HashMap<u64, Left>>| {
        stores.lock().get(&store).is_some_and(|left| left.handles.contains_key(&token))
    };
    outlived().is_some_and(lives)
}

/// The present openings of `store`, if this handle is left.
fn openings_of(store: u64, token: Token) -> Option<Vec<Arc<Engine>>> {
    let stores = outlived()?.lock();
    let left = stores.get(&store)?;
    left.handles.contains_key(&token).then(|| left.openings())
}

/// A handle of a closed store has ended. With no lock held.
pub(crate) fn ended(store: u64, token: Token, how: Abandon) {
    let found = outlived().and_then(|stores| {
        let mut stores = stores.lock();
        let left = stores.get_mut(&store)?;
        let shard = left.handles.remove(&token)?;
        let openings = left.openings();
        if left.handles.is_empty() {
            stores.remove(&store);
        }
        Some((shard, openings))
    });
    if let Some((shard, openings)) = found {
        openings.iter().for_each(|engine| engine.earlier_ended(shard, token, how));
    }
}

/// The engines that report a call that came too late: the present openings, or, if there are none,
/// the closed one.
pub(crate) fn tellers(engine: &Engine, token: Token, mut tell: impl FnMut(&Engine)) {
    match openings_of(engine.id, token) {
        Some(openings) if openings.is_empty() => tell(engine),
        Some(openings) => openings.iter().for_each(|opening| tell(opening)),
        None => {}
    }
}
