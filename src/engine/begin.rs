//! `begin`: claims a key, takes it over, or returns its state.

use crate::{
    broken::{self, Broken},
    claim::{Held, NoTakeover, Seen},
    claims::{Entry, Purpose},
    engine::replay::{Lookup, record_of},
    engine::{Blocked, CLAIMS, Engine, Step, StepResult, Wait},
    error::{BeginError, Full},
    index::{Before, HeldTerms, Shard, Undecided},
    key::OwnedKey,
    limits::LEASE_MAX_MS,
    location::Location,
    log::{Frame, claim_bytes},
    observe::Timed,
    options::{check_retention, lease_out_of_bounds, reserve_too_large},
    record::Retention,
    spi::{Abandon, Found, Grant, Interruption, Request, Running, Terms, Ticket},
    stats::Count,
    sync::wait::WakeList,
    token::Token,
};
use smallvec::SmallVec;
use std::{
    ops::Deref,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

/// A request, and the values that stay the same between tries.
pub(crate) struct Begin<'a> {
    pub request: &'a Request,
    pub hash: u64,
    pub terms: GrantTerms,
    /// This call has waited for space in vain.
    pub starved: bool,
    /// Its scope may have another key.
    has_share: bool,
}

impl Begin<'_> {
    /// The largest response for which room is reserved.
    pub fn reserve(&self) -> u32 {
        self.terms.held.reserve
    }
}

/// [`Terms`] completed by the store's options, and checked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct GrantTerms {
    lease_ms: u64,
    /// The first lease in effect: longer when the store keeps the claim alive.
    first_lease_ms: u64,
    held: HeldTerms,
}

/// The answer to a `begin` until its caller has it. If the caller is gone, a granted claim is
/// undone, because its attempt did nothing.
pub(crate) struct Delivery<E: Deref<Target = Engine>> {
    engine: E,
    found: Option<Found>,
}

impl<E: Deref<Target = Engine>> Delivery<E> {
    pub fn new(engine: E, found: Found) -> Self {
        Delivery { engine, found: Some(found) }
    }

    pub fn arrived(mut self) -> Found {
        self.found.take().expect("taken once, here")
    }
}

impl<E: Deref<Target = Engine>> Drop for Delivery<E> {
    fn drop(&mut self) {
        if let Some(Found::Granted(grant)) = self.found.take() {
            self.engine.abandon(&grant.ticket, Abandon::Undelivered);
        }
    }
}

impl Engine {
    /// Prepares a `begin` or a takeover.
    pub fn prepare<'a>(&self, request: &'a Request) -> Result<Begin<'a>, BeginError> {
        let terms = self.resolve_terms(&request.terms)?;
        let hash = self.index.hash_owned(&request.key);
        let has_share = !request.terms.shared;
        Ok(Begin { request, hash, terms, starved: false, has_share })
    }

    fn resolve_terms(&self, terms: &Terms) -> Result<GrantTerms, BeginError> {
        let (lease_ms, windows) = match (terms.lease, terms.retention) {
            // The options were checked when the store was opened.
            (None, None) => (self.config.lease_ms, self.config.windows()),
            (lease, retention) => self.check_terms(lease, retention)?,
        };
        let reserve = terms.reserve.unwrap_or(self.config.max_response as u32);
        if reserve as usize > self.config.max_response {
            let what = reserve_too_large(reserve, self.config.max_response);
            return Err(BeginError::Terms { what });
        }
        let kept_ms = if terms.keep_alive { self.config.execution_ms } else { 0 };
        Ok(GrantTerms {
            lease_ms,
            first_lease_ms: lease_ms.max(kept_ms),
            held: HeldTerms { replay_ms: windows.0, remember_ms: windows.1, reserve },
        })
    }

    /// The lease and the two windows of a retention, where a request has its own.
    fn check_terms(
        &self,
        lease: Option<Duration>,
        retention: Option<Retention>,
    ) -> Result<(u64, (u64, u64)), BeginError> {
        let ms = |d: Duration| u64::try_from(d.as_millis()).unwrap_or(u64::MAX);
        let lease_ms = lease.map_or(self.config.lease_ms, ms);
        if !(1..=LEASE_MAX_MS).contains(&lease_ms) {
            return Err(BeginError::Terms {
                what: lease_out_of_bounds(Duration::from_millis(lease_ms)),
            });
        }
        let retention = retention.unwrap_or(self.config.retention());
        check_retention(retention, lease_ms).map_err(|what| BeginError::Terms { what })?;
        Ok((lease_ms, (ms(retention.replay_for), ms(retention.remember_for))))
    }

    /// Terms with the options where they say nothing.
    pub fn terms_in_force(&self, terms: Terms) -> Result<Terms, BeginError> {
        let GrantTerms { lease_ms, held, .. } = self.resolve_terms(&terms)?;
        Ok(Terms {
            lease: Some(Duration::from_millis(lease_ms)),
            retention: Some(Retention {
                replay_for: Duration::from_millis(held.replay_ms),
                remember_for: Duration::from_millis(held.remember_ms),
            }),
            reserve: Some(held.reserve),
            ..terms
        })
    }

    /// One try of a `begin`, or (with the token that was seen) of a takeover.
    pub fn begin(
        &self,
        begin: &mut Begin<'_>,
        seen: Option<Token>,
    ) -> StepResult<Found, BeginError> {
        let key = begin.request.key.as_ref();
        // Records that are ruled out: another key's, or expired. An epoch makes them exact.
        let mut ruled_out = SmallVec::<[_; 4]>::new();
        let mut expired = false;
        loop {
            let mut wakes = WakeList::default();
            let mut shard = self.index.shard(begin.hash);
            let now = self.now();
            self.check_open()?;
            if let Some(at) = shard.find(begin.hash, key) {
                if let Some(answer) =
                    self.answer_undecided(&mut shard, &mut wakes, at, begin, seen, now)
                {
                    return answer;
                }
                // Interrupted for longer than such keys are kept.
                let expired = shard.undecided.get(at).expect("found under this lock");
                if let Some(position) = self.unsettled(expired) {
                    return Err(Blocked::Wait(Wait::Durable { group: CLAIMS, position }));
                }
                self.forget_undecided(&mut shard, &mut wakes, at);
            }
            self.end_replacing(&mut shard, Some(begin.hash));
            let candidate = shard
                .candidates_and_place(begin.hash)
                .map(|location| (location, self.log.epoch(location.slot())))
                .find(|candidate| !ruled_out.contains(candidate));
            let Some(candidate) = candidate else {
                if !begin.has_share {
                    drop(shard);
                    self.check_share(begin)?;
                    begin.has_share = true;
                    continue;
                }
                return self.grant(&mut shard, begin, expired, now);
            };
            let visible = self.is_visible(candidate.0);
            drop(shard);
            broken::dawdle(Broken::ReuseWhileServed);
            let started = self.timings.start();
            match self.look(begin.hash, candidate.0, key, now) {
                // Swept and written again since, the place may hold another record of this key.
                Lookup::Here(_)
                    if self.log.epoch(candidate.0.slot()) != candidate.1
                        && !broken::is(Broken::ReuseWhileServed) => {}
                Lookup::Here(frame)
                    if broken::is(Broken::LeaseLapsesInCompleting)
                        && !visible
                        && frame.header.time_ms + self.config.lease_ms <= now =>
                {
                    let mut shard = self.index.shard(begin.hash);
                    return self.grant(&mut shard, begin, expired, now);
                }
                Lookup::Here(frame) => {
                    let answer = self.answer_completed(begin, frame, candidate.0, visible, now);
                    self.timings.end(Timed::Replay, started);
                    return answer;
                }
                Lookup::OtherKey | Lookup::Gone => ruled_out.push(candidate),
                Lookup::Expired => {
                    expired = true;
                    ruled_out.push(candidate);
                }
                Lookup::Damaged => {
                    let (segment, offset) = (candidate.0.slot(), candidate.0.offset());
                    return Err(BeginError::Damaged { segment, offset }.into());
                }
            }
        }
    }

    /// The answer for an undecided key; `None` if it has expired.
    fn answer_undecided(
        &self,
        shard: &mut Shard,
        wakes: &mut WakeList,
        at: u32,
        begin: &mut Begin<'_>,
        seen: Option<Token>,
        now: u64,
    ) -> Option<StepResult<Found, BeginError>> {
        let undecided = shard.undecided.get(at)?;
        let key = begin.request.key.as_ref();
        let held = &undecided.held;
        let found = match held.seen(
            begin.request.fingerprint,
            now,
            self.interrupted_ms(undecided.terms.remember_ms),
        ) {
            Seen::Expired => return None,
            Seen::Mismatch => {
                self.alarm(Count::Mismatched, begin.hash, key, None);
                Found::Mismatch { scheme: held.fingerprint.scheme() }
            }
            Seen::InFlight { running_ms } => {
                self.count(begin.hash, Count::SawInFlight);
                let running_for = Duration::from_millis(running_ms);
                Found::InFlight(Running { token: held.token, running_for })
            }
            // Its answer isn't durable yet, and must not be seen before.
            Seen::Interrupted { .. } if self.settling(undecided).is_some() => {
                self.count(begin.hash, Count::SawInFlight);
                let running_for = Duration::from_millis(now.saturating_sub(held.started_ms));
                Found::InFlight(Running { token: held.token, running_for })
            }
            Seen::Interrupted { .. } if seen == Some(held.token) => {
                return Some(self.take_over(shard, wakes, at, begin, now));
            }
            Seen::Interrupted { reason, holder_gone } => {
                self.count(begin.hash, Count::SawInterrupted);
                Found::Interrupted(Interruption {
                    token: held.token,
                    reason,
                    holder_gone,
                    attempts: held.attempt,
                    checkpoint: undecided.checkpoint.clone(),
                    answer: self.answer_bytes(undecided),
                    settle_after: Duration::from_millis(undecided.unsure.rest_ms(now)),
                    interrupted_for: Duration::from_millis(held.interrupted_ms(now)),
                })
            }
        };
        Some(Ok(Step::now(found)))
    }

    /// Grants the first attempt at an absent key.
    fn grant(
        &self,
        shard: &mut Shard,
        begin: &mut Begin<'_>,
        expired: bool,
        now: u64,
    ) -> StepResult<Found, BeginError> {
        self.check_begin()?;
        if expired {
            // The old record counts as expired from now on, whatever the clock says after a crash
            // and whatever becomes of this claim.
            self.cells.note_time(now).map_err(BeginError::from)?;
        }
        let GrantTerms { lease_ms, first_lease_ms, held: terms } = begin.terms;
        let token = self.reserve(begin, claim_bytes(terms.reserve))?;
        let mut held = Held::first(token, begin.request.fingerprint, lease_ms, now);
        held.renew(first_lease_ms, now);
        let key = &begin.request.key;
        let entry = Entry {
            token,
            version: 1,
            attempt: held.attempt,
            started_ms: held.started_ms,
            lease_ms: held.lease_ms,
            replay_ms: terms.replay_ms,
            remember_ms: terms.remember_ms,
            reserve: terms.reserve,
            fingerprint: held.fingerprint,
            history: false,
            interrupted: None,
            key: key.as_ref(),
            checkpoint: None,
            answer_of: None,
        };
        let chain = match self.cells.write(Purpose::Claim, &entry) {
            Ok(Some(chain)) => chain,
            refused => {
                self.log.shared.space.adjust(claim_bytes(terms.reserve) as i64);
                refused.map_err(BeginError::from)?;
                self.refused_full();
                self.count(begin.hash, Count::RefusedFull);
                return Err(BeginError::StoreFull(Full::Claims).into());
            }
        };
        let ticket = Self::ticket(key, &held, terms, begin.hash);
        let at = shard.hold(begin.hash, || Undecided {
            hash: begin.hash,
            key: key.clone(),
            held,
            terms,
            chain,
            version: 1,
            adopted: false,
            earlier: false,
            checkpoint: None,
            answer: None,
            before: None,
            unsure: Default::default(),
            exhausted: false,
            waiters: Default::default(),
            timer: None,
        });
        self.rearm(shard, at, now);
        self.holders.begun(begin.hash);
        self.count(begin.hash, Count::Granted);
        if expired {
            let key = begin.request.key.as_ref();
            self.alarm(Count::BeganAfterExpiry, begin.hash, key, Some(token));
        }
        Ok(self.granted(ticket, at, None, None))
    }

    /// Takes over an interrupted key. Checkpoint, fingerprint and terms are kept.
    fn take_over(
        &self,
        shard: &mut Shard,
        wakes: &mut WakeList,
        at: u32,
        begin: &mut Begin<'_>,
        now: u64,
    ) -> StepResult<Found, BeginError> {
        self.check_begin()?;
        let undecided = shard.undecided.get(at).expect("found above");
        let bytes = claim_bytes(undecided.terms.reserve);
        let (old, attempts) = (undecided.held.clone(), self.config.max_attempts);
        if old.attempt >= attempts {
            let undecided = shard.undecided.get_mut(at).expect("found above");
            if !std::mem::replace(&mut undecided.exhausted, true) {
                let (hash, key) = (begin.hash, begin.request.key.as_ref());
                self.alarm(Count::Exhausted, hash, key, Some(old.token));
            }
            return Err(BeginError::AttemptsExhausted { attempts: old.attempt }.into());
        }
        let token = self.reserve(begin, bytes)?;
        let mut held = match old.take_over(old.token, token, attempts, now) {
            Ok(held) => held,
            Err(NoTakeover::Changed | NoTakeover::Exhausted { .. }) => {
                unreachable!("interrupted, under this token, with attempts left: seen above")
            }
        };
        if begin.request.terms.keep_alive {
            held.renew(held.lease_ms.max(self.config.execution_ms), now);
        }
        let phase = old.phase_at(now);
        let crate::claim::Phase::Interrupted { reason, .. } = phase else {
            unreachable!("interrupted: seen above")
        };
        let undecided = shard.undecided.get_mut(at).expect("found above");
        let before = std::mem::replace(&mut undecided.held, held);
        let version = std::mem::replace(&mut undecided.version, 1);
        let adopted = std::mem::replace(&mut undecided.adopted, false);
        // The next attempt starts without it, on the disk too.
        let answer = undecided.answer.take();
        let chain = match self.write_cells(undecided) {
            Ok(Some(chain)) => chain,
            refused => {
                (undecided.held, undecided.version) = (before, version);
                (undecided.adopted, undecided.answer) = (adopted, answer);
                self.log.shared.space.adjust(bytes as i64);
                refused.map_err(BeginError::from)?;
                self.count(begin.hash, Count::RefusedFull);
                return Err(BeginError::StoreFull(Full::Claims).into());
            }
        };
        self.cells.replace(&mut undecided.chain, chain);
        let attempt = before.attempt;
        undecided.before = Some(Box::new(Before { phase, attempt, answer }));
        let Undecided { hash, key, held, terms, .. } = &*undecided;
        let ticket = Self::ticket(key, held, *terms, *hash);
        let checkpoint = undecided.checkpoint.clone();
        wakes.add(undecided.waiters.take());
        let promised = Self::promise_of(undecided);
        undecided.earlier = false;
        if before.holder_lives {
            // Its handle still exists, and so does its reservation.
            shard.orphans.add(before.token, promised);
        }
        self.rearm(shard, at, now);
        self.holders.begun(begin.hash);
        self.count(begin.hash, Count::TakenOver);
        Ok(self.granted(ticket, at, checkpoint, Some(reason)))
    }

    fn granted(
        &self,
        mut ticket: Ticket,
        at: u32,
        checkpoint: Option<Arc<[u8]>>,
        after: Option<crate::Reason>,
    ) -> Step<Found> {
        ticket.note[1] = u64::from(at);
        let wait = self
            .config
            .syncs_claims()
            .then(|| Wait::Durable { group: CLAIMS, position: self.cells.position() });
        self.claims_written();
        Step { value: Found::Granted(Grant { ticket, checkpoint, after }), wait }
    }

    /// A token, and `bytes` out of the account of free space.
    fn reserve(&self, begin: &mut Begin<'_>, bytes: u64) -> Result<Token, Blocked<BeginError>> {
        let since = self.resources.count();
        if !self.log.shared.space.reserve(bytes) {
            let hopeless = !self.can_grow() || (begin.starved && self.is_starved());
            if hopeless {
                self.count(begin.hash, Count::RefusedFull);
                return Err(match self.refuse_for_space() {
                    Some(what) => BeginError::Unavailable { what },
                    None => BeginError::StoreFull(self.full_of_space()),
                }
                .into());
            }
            begin.starved = true;
            self.wanted_space.fetch_max(bytes, Ordering::AcqRel);
            return Err(Blocked::Wait(Wait::Resources { since }));
        }
        if self.log.shared.space.free() < 2 * self.config.sizes.frame_max as i64 {
            // Ahead of need.
            self.notifiers.keep.notify();
        }
        match self.tokens.take() {
            Some(token) => Ok(token),
            None => {
                self.log.shared.space.adjust(bytes as i64);
                if self.tokens.are_used_up() {
                    let what = "no fencing tokens are left; is the clock right?".into();
                    return Err(BeginError::Unavailable { what }.into());
                }
                Err(Blocked::Wait(Wait::Resources { since }))
            }
        }
    }

    /// Writes the present version of an undecided key into the claims file.
    pub fn write_cells(
        &self,
        undecided: &Undecided,
    ) -> Result<Option<crate::claims::Chain>, crate::poison::Poisoned> {
        let Undecided { held, terms, .. } = undecided;
        let interrupted = match held.phase {
            crate::claim::Phase::Interrupted { reason, at } => Some((reason, at)),
            crate::claim::Phase::InFlight { .. } => None,
        };
        // One that comes from another store is new to this file, whatever its history.
        let takeover = held.history && !undecided.adopted;
        let purpose = match (undecided.version, takeover) {
            (1, false) => Purpose::Claim,
            (1, true) => Purpose::Takeover,
            _ => Purpose::Checkpoint,
        };
        self.cells.write(
            purpose,
            &Entry {
                token: held.token,
                version: undecided.version,
                attempt: held.attempt,
                started_ms: held.started_ms,
                lease_ms: held.lease_ms,
                replay_ms: terms.replay_ms,
                remember_ms: terms.remember_ms,
                reserve: terms.reserve,
                fingerprint: held.fingerprint,
                history: held.history,
                interrupted,
                key: undecided.key.as_ref(),
                checkpoint: undecided.checkpoint.as_deref(),
                answer_of: undecided.answer_of(),
            },
        )
    }

    fn ticket(key: &OwnedKey, held: &Held, terms: HeldTerms, hash: u64) -> Ticket {
        Ticket {
            key: key.clone(),
            fingerprint: held.fingerprint,
            token: held.token,
            attempt: held.attempt,
            retention: Retention {
                replay_for: Duration::from_millis(terms.replay_ms),
                remember_for: Duration::from_millis(terms.remember_ms),
            },
            lease: Duration::from_millis(held.lease_ms),
            reserve: terms.reserve,
            note: [hash, 0],
        }
    }

    /// An undecided key has been interrupted for longer than such keys are kept.
    pub fn forget_undecided(&self, shard: &mut Shard, wakes: &mut WakeList, at: u32) {
        let Some(expired) = shard.undecided.get(at) else { return };
        let token = Some(expired.held.token);
        self.alarm(Count::InterruptedExpired, expired.hash, expired.key.as_ref(), token);
        let gone = shard.decide(at).expect("found above");
        self.forgotten(gone, wakes);
    }

    /// The answer for a completed key.
    fn answer_completed(
        &self,
        begin: &Begin<'_>,
        frame: Frame,
        location: Location,
        visible: bool,
        now: u64,
    ) -> StepResult<Found, BeginError> {
        let header = &frame.header;
        if header.fingerprint != begin.request.fingerprint {
            self.alarm(Count::Mismatched, begin.hash, begin.request.key.as_ref(), None);
            return Ok(Step::now(Found::Mismatch { scheme: header.fingerprint.scheme() }));
        }
        if !visible && !self.log.is_durable(location) {
            self.poison.check().map_err(BeginError::from)?;
            self.count(begin.hash, Count::SawInFlight);
            let token = Token::new(header.token).expect("checked when it was read");
            let running_for = Duration::from_millis(now.saturating_sub(header.time_ms));
            return Ok(Step::now(Found::InFlight(Running { token, running_for })));
        }
        self.count(begin.hash, Count::Replayed);
        Ok(Step::now(Found::Replay(record_of(frame, now, self.time.shift_ms))))
    }
}
