//! Several stores as one: keys are spread over a fixed number of slots, and a map says which store
//! has which slot.

use crate::{
    error::{BeginError, ClaimError, StoreError},
    key::{KeyRef, OwnedKey, Scope},
    spi::{Abandon, ClaimOp, Erased, Found, IdempotencyStore, Request, Terms, Ticket},
    sync::wait::Event,
    token::Token,
};
use parking_lot::{Mutex, RwLock};
use std::{
    collections::HashMap,
    future::poll_fn,
    ops::RangeInclusive,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

/// The number of slots, whatever the number of stores.
pub const SLOTS: u16 = 16_384;

/// Returns the slot of a key, below [`SLOTS`]: a function of scope and key alone, the same in every
/// version and on every platform.
pub fn slot_of(key: KeyRef<'_>) -> u16 {
    let mut hasher = blake3::Hasher::new_derive_key("onlyonce 2026-11 slot");
    hasher.update(&(key.scope().len() as u64).to_le_bytes());
    hasher.update(key.scope()).update(key.key());
    let hash = hasher.finalize();
    u16::from_le_bytes([hash.as_bytes()[0], hash.as_bytes()[1]]) % SLOTS
}

/// The calls that are allowed in a slot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Phase {
    /// All calls.
    #[default]
    Open,
    /// Holders may end their claims; no caller can begin.
    Draining,
    /// No calls.
    Still,
}

/// The map from slots to stores.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlotMap(Vec<(u16, Phase)>);

impl SlotMap {
    /// Makes a map that spreads the slots evenly over `stores` stores, in runs.
    ///
    /// # Panics
    ///
    /// If `stores` is 0 or more than [`SLOTS`].
    pub fn even(stores: u16) -> Self {
        assert!((1..=SLOTS).contains(&stores), "1 to {SLOTS} stores");
        let store = |slot: u16| (u32::from(slot) * u32::from(stores) / u32::from(SLOTS)) as u16;
        SlotMap((0..SLOTS).map(|slot| (store(slot), Phase::Open)).collect())
    }

    /// Assigns slots to a store (by its index in the list of stores), and to a phase.
    ///
    /// # Panics
    ///
    /// If a slot is not below [`SLOTS`].
    pub fn assign(&mut self, slots: RangeInclusive<u16>, store: u16, phase: Phase) {
        for slot in slots {
            self.0[usize::from(slot)] = (store, phase);
        }
    }

    /// Returns the store of a slot, and its phase.
    ///
    /// # Panics
    ///
    /// If the slot is not below [`SLOTS`].
    pub fn get(&self, slot: u16) -> (u16, Phase) {
        self.0[usize::from(slot)]
    }
}

/// Several stores as one. Clones are handles of the same one, and see the same map.
///
/// # Moving slots
///
/// Every process that uses the stores has the same map; the service distributes it (configuration,
/// a table, a watch). A slot moves from one store to another in four steps, and each must have
/// reached
/// **every process** before the next one begins:
///
/// 1. [`Phase::Draining`]: no caller can begin on the slot. Holders continue, and completed keys are
///    not replayed either (`begin` returns `Unavailable`, to be tried again). Wait until the holders
///    have ended ([`is_settled`](Self::is_settled)), at most for the lease.
/// 2. [`Phase::Still`]: the remaining holders wait as well, until the slot is open or for
///    [`set_still_limit`](Self::set_still_limit). Nothing changes in the slot now, once
///    the calls that began before have ended ([`is_settled`](Self::is_settled), and
///    `PostgresStore::drain` for those that were dropped half way). Claims that are dropped now are
///    ended where they are afterwards. A claim that is a transaction (`TransactionStore`) can't
///    follow its key: with these wait in step 1 until all have ended.
/// 3. Copy the slot. Between PostgreSQL stores `PostgresStore::copy_slots` copies it: undecided keys
///    with their tokens and owners included, so that holders continue in the new store. It can be
///    repeated.
/// 4. Assign the slot to the new store, in [`Phase::Open`]. Then delete it in the old one
///    (`PostgresStore::delete_slots`), so that no old state comes back if it is ever moved back.
///
/// Between embedded stores [`Store::copy_slots`](crate::Store::copy_slots) and
/// [`Store::delete_slots`](crate::Store::delete_slots) do the same, with one difference: a holder
/// can't follow its key. So step 2 is left out (under `Draining` nothing changes any more once
/// no key is held), and `copy_slots` is called again until it no longer says that one is held.
/// Store the new map between steps 3 and 4: a process that starts with the old one after step 4
/// would know nothing of what was done since.
///
/// With 16,384 slots a step affects a small part of the keys, for as long as its copy takes.
///
/// ```
/// # use onlyonce::{AsyncStore, ShardedStore, SlotMap, Store};
/// # let dir = tempfile::tempdir()?;
/// let stores = ["a", "b", "c"].map(|name| Store::open(dir.path().join(name)));
/// let stores = stores.into_iter().collect::<Result<Vec<_>, _>>()?;
/// let store = AsyncStore::new(ShardedStore::new(SlotMap::even(3), stores));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct ShardedStore<S>(Arc<Shared<S>>);

#[derive(Debug)]
struct Shared<S> {
    map: RwLock<Current>,
    /// Earlier maps under which calls are still under way.
    earlier: Mutex<Vec<Weak<Arc<SlotMap>>>>,
    stores: Vec<S>,
    /// The slots of the claims that were granted here and are held.
    holders: Mutex<HashMap<Holder, u16>>,
    /// Ends of claims in slots that stand still, to be sent when these are open.
    kept: Mutex<Vec<(Ticket, Abandon)>>,
    /// The map was replaced; also a tick for those that wait for it with a limit.
    moved: Event,
    waiting: AtomicUsize,
    ticking: AtomicBool,
    still_limit: Mutex<Duration>,
}

/// A claim, by its token and the backend's note.
type Holder = (Token, [u64; 2]);

/// How long holders wait for a slot that stands still, if nothing else is set.
const STILL_LIMIT: Duration = Duration::from_secs(10);
/// How exactly that is kept.
const TICK: Duration = Duration::from_millis(50);

/// The present map. Calls keep it as long as they are under way.
type Current = Arc<Arc<SlotMap>>;

impl<S> Clone for ShardedStore<S> {
    fn clone(&self) -> Self {
        ShardedStore(self.0.clone())
    }
}

impl<S: IdempotencyStore> ShardedStore<S> {
    /// Makes one store of several, with this map.
    ///
    /// # Panics
    ///
    /// If the map names a store that is not there.
    pub fn new(map: SlotMap, stores: Vec<S>) -> Self {
        check(&map, stores.len());
        let map = RwLock::new(Arc::new(Arc::new(map)));
        ShardedStore(Arc::new(Shared {
            map,
            earlier: Mutex::default(),
            stores,
            holders: Mutex::default(),
            kept: Mutex::default(),
            moved: Event::new(),
            waiting: AtomicUsize::new(0),
            ticking: AtomicBool::new(false),
            still_limit: Mutex::new(STILL_LIMIT),
        }))
    }

    /// Sets how long a holder's call waits for a slot that [stands still](Phase::Still) before it
    /// returns `Unavailable`. Default: 10 s, kept to 50 ms.
    pub fn set_still_limit(&self, limit: Duration) {
        *self.0.still_limit.lock() = limit;
    }

    /// Returns the stores.
    pub fn stores(&self) -> &[S] {
        &self.0.stores
    }

    /// Returns the present map.
    pub fn map(&self) -> Arc<SlotMap> {
        Arc::clone(&self.0.map.read())
    }

    /// Replaces the map. Calls that have begun end under the old one;
    /// [`is_settled`](Self::is_settled) says when they have.
    ///
    /// # Panics
    ///
    /// If the map names a store that is not there.
    pub fn set_map(&self, map: SlotMap) {
        check(&map, self.0.stores.len());
        let mut earlier = self.0.earlier.lock();
        let old = std::mem::replace(&mut *self.0.map.write(), Arc::new(Arc::new(map)));
        earlier.retain(|old| old.strong_count() > 0);
        earlier.push(Arc::downgrade(&old));
        drop((earlier, old));
        self.0.moved.notify();
        // After the map is replaced: what is kept by then was kept under an earlier one.
        let kept = std::mem::take(&mut *self.0.kept.lock());
        kept.into_iter().for_each(|(ticket, how)| self.end(&ticket, how));
    }

    /// Returns whether all calls of this process that began under an earlier map have ended, and
    /// none of its claims is held in a slot that is [draining](Phase::Draining). (Calls that wait
    /// don't count: those for a key ask again, and holders in a slot that stands still continue
    /// where it is afterwards.)
    pub fn is_settled(&self) -> bool {
        let map = self.map();
        let drains = |slot: &u16| map.get(*slot).1 == Phase::Draining;
        if self.0.holders.lock().values().any(drains) {
            return false;
        }
        let mut earlier = self.0.earlier.lock();
        earlier.retain(|old| old.strong_count() > 0);
        earlier.is_empty()
    }

    /// Returns the store that has this key now.
    pub fn store_of(&self, key: KeyRef<'_>) -> &S {
        self.place(key).1
    }

    /// The map that holds as long as the call is under way, and the key's place in it.
    fn place(&self, key: KeyRef<'_>) -> (Current, &S, Phase) {
        let map = self.0.map.read().clone();
        let (store, phase) = map.get(slot_of(key));
        (map, &self.0.stores[usize::from(store)], phase)
    }

    /// The store of a key that may be begun.
    fn open(&self, key: KeyRef<'_>) -> Result<(Current, &S), BeginError> {
        match self.place(key) {
            (map, store, Phase::Open) => Ok((map, store)),
            _ => Err(BeginError::Unavailable { what: MOVING.into() }),
        }
    }

    /// The store of a holder's key, once its slot does not stand still; `None` if that takes too
    /// long.
    async fn standing(&self, key: KeyRef<'_>) -> Option<(Current, &S)> {
        let mut waiting = None;
        loop {
            let since = self.0.moved.count();
            match self.place(key) {
                (.., Phase::Still) => {}
                (map, store, _) => return Some((map, store)),
            }
            let waits = waiting.get_or_insert_with(|| Waiting::new(&self.0));
            if Instant::now() >= waits.until {
                return None;
            }
            Self::tick(&self.0);
            poll_fn(|context| self.0.moved.poll_since(since, context)).await;
        }
    }

    /// As long as there are waiters they are woken at intervals, to look at the time. Without a
    /// runtime's timers, because there may be none.
    fn tick(shared: &Arc<Shared<S>>) {
        if shared.ticking.swap(true, Ordering::SeqCst) {
            return;
        }
        let shared = shared.clone();
        std::thread::spawn(move || {
            loop {
                std::thread::sleep(TICK);
                shared.moved.notify();
                if shared.waiting.load(Ordering::SeqCst) == 0 {
                    shared.ticking.store(false, Ordering::SeqCst);
                    // One that came in between has found it ticking.
                    let is_last = shared.waiting.load(Ordering::SeqCst) == 0;
                    if is_last || shared.ticking.swap(true, Ordering::SeqCst) {
                        return;
                    }
                }
            }
        });
    }

    /// Notes the holder of a claim that was granted.
    fn granted(&self, found: Result<Found, BeginError>) -> Result<Found, BeginError> {
        if let Ok(Found::Granted(grant)) = &found {
            let ticket = &grant.ticket;
            let slot = slot_of(ticket.key.as_ref());
            self.0.holders.lock().insert((ticket.token, ticket.note), slot);
        }
        found
    }

    /// Ends the claim of a handle that is gone, or keeps that for when its slot is open.
    fn end(&self, ticket: &Ticket, how: Abandon) {
        let mut kept = self.0.kept.lock();
        match self.place(ticket.key.as_ref()) {
            (.., Phase::Still) => kept.push((ticket.clone(), how)),
            (_map, store, _) => {
                drop(kept);
                store.abandon(ticket, how);
            }
        }
    }
}

/// A call that waits.
struct Waiting<'a> {
    waiting: &'a AtomicUsize,
    until: Instant,
}

impl<'a> Waiting<'a> {
    fn new<S>(shared: &'a Shared<S>) -> Self {
        shared.waiting.fetch_add(1, Ordering::SeqCst);
        let until = Instant::now() + *shared.still_limit.lock();
        Waiting { waiting: &shared.waiting, until }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.waiting.fetch_sub(1, Ordering::SeqCst);
    }
}

const MOVING: &str = "the key's slot is being moved to another store";

fn check(map: &SlotMap, stores: usize) {
    let all = map.0.iter().all(|(store, _)| usize::from(*store) < stores);
    assert!(all, "the map names a store that is not there");
}

impl<S: IdempotencyStore> IdempotencyStore for ShardedStore<S> {
    async fn begin(&self, request: &Request) -> Result<Found, BeginError> {
        let (_map, store) = self.open(request.key.as_ref())?;
        self.granted(store.begin(request).await)
    }

    async fn take_over(&self, request: &Request, seen: Token) -> Result<Found, BeginError> {
        let (_map, store) = self.open(request.key.as_ref())?;
        self.granted(store.take_over(request, seen).await)
    }

    async fn write(&self, ticket: &Ticket, op: ClaimOp<'_>) -> Result<(), ClaimError> {
        let Some((_map, store)) = self.standing(ticket.key.as_ref()).await else {
            return Err(ClaimError::Unavailable { what: MOVING.into() });
        };
        let answer = store.write(ticket, op).await;
        let ended = match &answer {
            Ok(()) => matches!(op, ClaimOp::Complete(_) | ClaimOp::Release | ClaimOp::Undo),
            Err(error) => matches!(error, ClaimError::Fenced | ClaimError::AlreadyCompleted),
        };
        if ended {
            self.0.holders.lock().remove(&(ticket.token, ticket.note));
        }
        answer
    }

    async fn changed(&self, request: &Request, seen: Token, at_most: Duration) -> bool {
        // Without keeping the map: this may take long, and changes nothing.
        let store = self.store_of(request.key.as_ref());
        store.changed(request, seen, at_most).await
    }

    async fn look(&self, key: &OwnedKey) -> Result<Option<Found>, BeginError> {
        let store = self.store_of(key.as_ref());
        store.look(key).await
    }

    /// In all stores, one after the other: each may have keys of the scope. The sum. Not while slots
    /// move: a copy could bring back what is gone.
    async fn erase_scope(&self, scope: &Scope, force: bool) -> Result<Erased, StoreError> {
        let map = self.0.map.read().clone();
        if map.0.iter().any(|(_, phase)| *phase != Phase::Open) {
            let what = "slots are being moved to another store; erase again after it".into();
            return Err(StoreError::Unavailable { what });
        }
        let mut sum = Erased::default();
        for store in &self.0.stores {
            let Erased { keys, decisions, held } = store.erase_scope(scope, force).await?;
            sum.keys += keys;
            sum.decisions += decisions;
            sum.held += held;
        }
        Ok(sum)
    }

    fn terms_in_force(&self, terms: Terms) -> Result<Terms, BeginError> {
        // What one of them refuses is wrong.
        let mut shown = terms;
        for store in self.0.stores.iter().rev() {
            shown = store.terms_in_force(terms)?;
        }
        Ok(shown)
    }

    fn now(&self) -> Duration {
        // Each of the stores waits by a clock of its own; durations are the same by all.
        self.0.stores.first().map_or(Duration::ZERO, S::now)
    }

    fn abandon(&self, ticket: &Ticket, how: Abandon) {
        self.end(ticket, how);
        self.0.holders.lock().remove(&(ticket.token, ticket.note));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Changing these numbers would lose every key of a sharded store.
    #[test]
    fn the_slots_are_pinned() {
        let scope = Scope::of(["tenant-7", "orders"]);
        let slots = ["a", "b", "8e03978e"].map(|key| slot_of(KeyRef::new(&scope, key).unwrap()));
        assert_eq!(slots, [7587, 1990, 13600]);
    }

    #[test]
    fn slots_are_spread_evenly() {
        for stores in [1, 3, 1000, SLOTS] {
            let map = SlotMap::even(stores);
            let mut counts = vec![0_u32; usize::from(stores)];
            (0..SLOTS).for_each(|slot| counts[usize::from(map.get(slot).0)] += 1);
            let (least, most) = (counts.iter().min().unwrap(), counts.iter().max().unwrap());
            assert!(most - least <= 1, "{stores}: {least} to {most}");
        }
    }
}
