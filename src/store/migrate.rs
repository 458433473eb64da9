//! Moving slots of a [`ShardedStore`](crate::ShardedStore) from one embedded store to another.

use crate::{
    engine::driver as drive,
    engine::migrate::Migrating,
    engine::resolve::Resolution,
    engine::{Engine, Step},
    error::StoreError,
    key::KeyRef,
    limits::SHARDS,
    observe::Call,
    record::Retention,
    spi::Ticket,
    store::Store,
    store::sharded::slot_of,
};
use std::{ops::RangeInclusive, sync::Arc, time::Duration};

impl Store {
    /// Copies the keys of slots to another store, and returns how many there were. They are durable
    /// there when this returns, whatever its [`Durability`](crate::Durability). A record keeps its
    /// bytes and its remaining time (its times are the other store's, if the two clocks differ), an
    /// interrupted key its reason, attempts, checkpoint and answer. Each gets a token that is
    /// higher than all that either store has given out. It reads the whole log, and blocks for
    /// syncs.
    ///
    /// Nothing may change in the slots during the copy ([`Phase::Still`](crate::Phase::Still), and
    /// no call under way, see [`ShardedStore::is_settled`](crate::ShardedStore::is_settled)).
    ///
    /// It can be repeated: what the other store has of the slots, perhaps from a copy that was
    /// broken off, is forgotten first. This store is not changed, whatever happens.
    ///
    /// # Errors
    /// [`StoreError::NotApplicable`] as long as a claim on one of the keys is held, silent or not:
    /// a holder can't follow its key into another embedded store. The same if the other store is
    /// this one. [`StoreError::Damaged`] if a record of this store can't be read. Other errors are
    /// the other store's: it is full, its `max_response` is too small, it is poisoned.
    pub fn copy_slots(&self, to: &Store, slots: RangeInclusive<u16>) -> Result<u64, StoreError> {
        let (from, into) = (self.engine()?, to.engine()?);
        // Before anything is deleted.
        from.check_open()?;
        if Arc::ptr_eq(from, into) {
            let state = "in the store that it is to be copied to";
            return Err(StoreError::NotApplicable { state });
        }
        let wanted = |key: KeyRef<'_>| slots.contains(&slot_of(key));
        if from.is_any_held(wanted) {
            let state = "held, so that its slot can't be moved yet";
            return Err(StoreError::NotApplicable { state });
        }
        to.delete_slots(slots.clone())?;
        self.copy_keys(to, &wanted)
    }

    /// Copies the keys that `wanted` chooses to another store in which they are absent, as
    /// [`copy_slots`](Self::copy_slots) does, and returns how many there were: for a new store with
    /// other sizes, or without the keys of one scope.
    ///
    /// # Errors
    /// As with [`copy_slots`](Self::copy_slots).
    pub fn copy_keys(
        &self,
        to: &Store,
        wanted: &dyn Fn(KeyRef<'_>) -> bool,
    ) -> Result<u64, StoreError> {
        let (from, into) = (self.engine()?, to.engine()?);
        from.check_open()?;
        if Arc::ptr_eq(from, into) {
            let state = "in the store that it is to be copied to";
            return Err(StoreError::NotApplicable { state });
        }
        if from.is_any_held(wanted) {
            let state = "held, so that it can't be copied yet";
            return Err(StoreError::NotApplicable { state });
        }
        into.follow_tokens_of(from);
        let shift_ms = into.now() as i64 - from.now() as i64;
        let mut copied = 0;
        for shard in 0..SHARDS {
            for moving in from.moving_of_shard(shard, wanted)? {
                copied += 1;
                adopt(to, &moving, shift_ms)?;
            }
        }
        into.commit_all()?;
        Ok(copied)
    }

    /// Copies the decisions about the keys that `wanted` chooses to another store, behind those that
    /// it has; returns how many.
    ///
    /// # Errors
    /// As with [`decisions`](Self::decisions) and [`resolve_with`](Self::resolve_with).
    pub fn copy_decisions(
        &self,
        to: &Store,
        wanted: &dyn Fn(KeyRef<'_>) -> bool,
    ) -> Result<u64, StoreError> {
        let (mut decisions, into) = (self.decisions()?, to.engine()?);
        decisions.retain(|decision| wanted(decision.key.as_ref()));
        let copied = decisions.len() as u64;
        decisions.into_iter().try_for_each(|one| into.adopt_decision(one))?;
        Ok(copied)
    }

    /// Forgets the keys of slots that another store has now, and returns how many there were. It is
    /// durable when this returns.
    ///
    /// # Errors
    /// [`StoreError::NotApplicable`] as long as a claim on one of the keys is held, and errors of
    /// the store.
    pub fn delete_slots(&self, slots: RangeInclusive<u16>) -> Result<u64, StoreError> {
        let engine = self.engine()?;
        let wanted = |key: KeyRef<'_>| slots.contains(&slot_of(key));
        if engine.is_any_held(wanted) {
            let state = "held, so that its slot can't be deleted yet";
            return Err(StoreError::NotApplicable { state });
        }
        let mut deleted = 0;
        for shard in 0..SHARDS {
            for moving in engine.moving_of_shard(shard, wanted)? {
                deleted += 1;
                run(self, |engine| {
                    let forgotten = engine.resolve(moving.key(), &Resolution::Forget, true, None);
                    // Durable with all the others, at the end.
                    forgotten.map(|_| Step::now(()))
                })?;
            }
        }
        engine.commit_all()?;
        Ok(deleted)
    }
}

fn run<T>(
    store: &Store,
    step: impl FnMut(&Engine) -> crate::engine::StepResult<T, StoreError>,
) -> Result<T, StoreError> {
    let engine = store.engine()?;
    drive::run(engine, Call::plain(engine.timings(), "move", 0), step)
}

fn adopt(to: &Store, moving: &Migrating, shift_ms: i64) -> Result<(), StoreError> {
    let stray = match moving {
        Migrating::Record(frame) => return run(to, |engine| engine.adopt_record(frame, shift_ms)),
        Migrating::Undecided(stray) => stray,
    };
    let taken = run(to, |engine| engine.adopt_stray(stray, shift_ms))?;
    let Some(answer) = &stray.answer else { return Ok(()) };
    let ticket = Ticket {
        key: stray.key.clone(),
        fingerprint: stray.held.fingerprint,
        token: taken.token,
        attempt: stray.held.attempt,
        retention: Retention {
            replay_for: Duration::from_millis(stray.terms.replay_ms),
            remember_for: Duration::from_millis(stray.terms.remember_ms),
        },
        lease: Duration::from_millis(stray.held.lease_ms),
        reserve: to.engine()?.config().max_response as u32,
        note: [taken.hash, u64::from(taken.at)],
    };
    run(to, |engine| Ok(engine.fail(&ticket, answer)?))
}
