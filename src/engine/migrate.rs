//! Taking in keys of another store, with everything that is known of them.
//!
//! Each gets a token of this store, after this store has been set to give out only tokens that are
//! higher than all of the other one's: so the tokens of a key rise, however often it moves between
//! two stores, and older data of it in either store has a lower token.

use crate::{
    claim::{Held, Phase},
    clock,
    engine::{Engine, Step, StepResult},
    error::{Full, StoreError},
    index::{HeldTerms, Undecided},
    key::{KeyRef, OwnedKey},
    limits::TIME_MAX_MS,
    log::{Draft, Frame},
    sync::wait::WakeList,
    token::Token,
};
use std::sync::Arc;

/// A key on its way to another store.
#[derive(Debug)]
pub(crate) enum Migrating {
    Record(Frame),
    Undecided(Box<MovedClaim>),
}

/// An undecided key that is not held.
#[derive(Debug)]
pub(crate) struct MovedClaim {
    pub key: OwnedKey,
    pub held: Held,
    pub terms: HeldTerms,
    pub checkpoint: Option<Arc<[u8]>>,
    pub answer: Option<Arc<[u8]>>,
}

/// The place of an undecided key in its new store.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Taken {
    pub hash: u64,
    pub at: u32,
    pub token: Token,
}

impl Migrating {
    pub fn key(&self) -> KeyRef<'_> {
        match self {
            Migrating::Record(frame) => frame.key(),
            Migrating::Undecided(stray) => stray.key.as_ref(),
        }
    }
}

/// A time of another store's, by this one's clock. The windows that remain are kept.
fn shifted(time: u64, shift_ms: i64) -> u64 {
    clock::shifted(time, shift_ms).min(TIME_MAX_MS)
}

impl Engine {
    /// From now on all tokens given out here are higher than those of another store so far.
    pub fn follow_tokens_of(&self, other: &Engine) {
        self.tokens.skip_to(other.tokens.above_all());
        self.notifiers.keep.notify();
    }

    /// Whether a key that `wants` is held, or its end is not durable yet.
    pub fn is_any_held(&self, wants: impl Fn(KeyRef<'_>) -> bool) -> bool {
        let now = self.now();
        self.index.shards().any(|shard| {
            shard.undecided.iter().any(|(_, undecided)| {
                let held = &undecided.held;
                let runs =
                    held.holder_lives || matches!(held.phase_at(now), Phase::InFlight { .. });
                (runs || self.settling(undecided).is_some()) && wants(undecided.key.as_ref())
            })
        })
    }

    /// The keys of one shard that `wants`. They are not held, and nothing of them is under way.
    pub fn moving_of_shard(
        &self,
        shard: usize,
        wants: impl Fn(KeyRef<'_>) -> bool,
    ) -> Result<Vec<Migrating>, StoreError> {
        self.check_open()?;
        let now = self.now();
        let (mut keys, locations) = {
            let mut shard = self.index.shard(shard as u64);
            self.end_replacing(&mut shard, None);
            let undecided = shard.undecided.iter().filter_map(|(_, undecided)| {
                let Undecided { held, terms, checkpoint, .. } = undecided;
                let known = !held.expired(now, self.interrupted_ms(terms.remember_ms));
                (known && wants(undecided.key.as_ref())).then(|| {
                    Migrating::Undecided(Box::new(MovedClaim {
                        key: undecided.key.clone(),
                        held: Held { phase: held.phase_at(now), ..held.clone() },
                        terms: *terms,
                        checkpoint: checkpoint.clone(),
                        answer: self.answer_bytes(undecided),
                    }))
                })
            });
            let keys: Vec<_> = undecided.collect();
            let locations = shard.locations().map(|l| (l, self.log.epoch(l.slot())));
            (keys, locations.collect::<Vec<_>>())
        };
        for (location, epoch) in locations {
            let Some(frame) = self.listed(shard, location, epoch)? else { continue };
            let lives = frame.header.kind.is_record() && frame.header.expires_ms > now;
            if lives && wants(frame.key()) {
                keys.push(Migrating::Record(frame));
            }
        }
        Ok(keys)
    }

    /// Stores another store's record for a key that is absent here.
    pub fn adopt_record(&self, record: &Frame, shift_ms: i64) -> StepResult<(), StoreError> {
        let (key, header) = (record.key(), &record.header);
        let hash = self.index.hash(key);
        let mut wakes = WakeList::default();
        let mut shard = self.index.shard(hash);
        let now = self.now();
        self.check_claim()?;
        self.check_absent(&mut shard, &mut wakes, hash, key, now)?;
        let shifted = |time: u64| shifted(time, shift_ms);
        let draft = Draft {
            kind: header.kind,
            key,
            fingerprint: header.fingerprint,
            attempt: header.attempt,
            token: self.operator_token()?,
            time_ms: shifted(header.time_ms),
            replay_until_ms: shifted(header.replay_until_ms),
            expires_ms: shifted(header.expires_ms),
            head: record.head(),
            body: record.body(),
        };
        // Durable with all the others, at the end.
        self.put_record(&mut shard, &mut wakes, hash, &draft, None, now)?;
        Ok(Step::now(()))
    }

    /// Takes in another store's undecided key that is absent here. Its answer comes after it.
    pub fn adopt_stray(&self, stray: &MovedClaim, shift_ms: i64) -> StepResult<Taken, StoreError> {
        let hash = self.index.hash(stray.key.as_ref());
        let mut wakes = WakeList::default();
        let mut shard = self.index.shard(hash);
        let now = self.now();
        self.check_claim()?;
        self.check_absent(&mut shard, &mut wakes, hash, stray.key.as_ref(), now)?;
        let phase = match stray.held.phase {
            Phase::InFlight { lease_until } => {
                Phase::InFlight { lease_until: shifted(lease_until, shift_ms) }
            }
            Phase::Interrupted { reason, at } => {
                Phase::Interrupted { reason, at: shifted(at, shift_ms) }
            }
        };
        let started_ms = shifted(stray.held.started_ms, shift_ms);
        let token = self.operator_token()?;
        let most = self.config.max_response as u32;
        let undecided = Undecided {
            hash,
            key: stray.key.clone(),
            held: Held { token, phase, started_ms, holder_lives: false, ..stray.held.clone() },
            terms: HeldTerms { reserve: stray.terms.reserve.min(most), ..stray.terms },
            chain: Default::default(),
            version: 1,
            adopted: true,
            earlier: false,
            checkpoint: stray.checkpoint.clone(),
            answer: None,
            before: None,
            unsure: Default::default(),
            exhausted: false,
            waiters: Default::default(),
            timer: None,
        };
        let Some(chain) = self.write_cells(&undecided).map_err(StoreError::from)? else {
            return Err(StoreError::StoreFull(Full::Claims).into());
        };
        let at = shard.hold(undecided.hash, || Undecided { chain, ..undecided });
        self.rearm(&mut shard, at, now);
        self.claims_written();
        Ok(Step::now(Taken { hash, at, token }))
    }
}
