//! Operators' decisions: completing, freeing or forgetting a key, or replacing its answer, under a
//! new token.

use crate::{
    claim::Phase,
    decisions::{By, Standing, Verdict},
    engine::complete::{Reservation, with_frame},
    engine::replay::Lookup,
    engine::{Blocked, CLAIMS, Engine, Step, StepResult, Wait},
    error::StoreError,
    fingerprint::Fingerprint,
    index::{Replacing, Shard},
    key::KeyRef,
    limits::{HEAD_BYTES_MAX, RETENTION_MAX_MS},
    location::Location,
    log::{Appended, Draft, Frame, Kind, class_of},
    observe::events,
    options::check_retention,
    record::Retention,
    spi::Completion,
    sync::wait::WakeList,
    token::Token,
};
use std::time::Duration;

/// An operator's decision about a key.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum Resolution<'a> {
    /// The operation took effect, and this is its answer. On an absent key: an import, which
    /// needs the fingerprint of the request.
    Complete {
        /// The fingerprint of the request; only for an absent key.
        fingerprint: Option<Fingerprint>,
        /// The answer.
        completion: Completion<'a>,
    },
    /// The operation did not take effect: the key is absent.
    Free,
    /// The key is forgotten, as if it had never been used. On a completed key this needs `force`,
    /// because a retry then executes again.
    Forget,
    /// The stored answer is wrong: a completed key gets this one, and keeps its fingerprint, its
    /// attempts, the time of its completion and its end. Retries that have got the earlier answer
    /// don't learn of it.
    Replace {
        /// The head of the new answer, at most 4 KiB.
        head: &'a [u8],
        /// The new answer; `None`: it is not retained.
        response: Option<&'a [u8]>,
    },
}

/// How a decision is carried out: forced, about which attempt, in whose name. By default it is not
/// forced, and is about whichever attempt is the key's last, in no name.
///
/// ```
/// use onlyonce::{Fingerprint, KeyRef, ResolveOptions, Resolution, Scope, Store, StoreError};
///
/// let (store, scope) = (Store::in_memory()?, Scope::global());
/// let key = KeyRef::new(&scope, "k")?;
/// let claim = store.begin(key, Fingerprint::of(["book"]))?;
/// // A retry could execute beside the holder.
/// let refused = store.resolve(key, Resolution::Free);
/// assert_eq!(refused, Err(StoreError::NeedsForce { state: "in flight" }));
/// store.resolve_with(key, Resolution::Free, ResolveOptions::forced())?;
/// # drop(claim);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct ResolveOptions<'a> {
    pub(crate) force: bool,
    pub(crate) seen: Option<Token>,
    pub(crate) by: By<'a>,
}

impl<'a> ResolveOptions<'a> {
    /// Returns the defaults.
    pub fn new() -> Self {
        ResolveOptions::default()
    }

    /// Returns the defaults, forced.
    pub fn forced() -> Self {
        ResolveOptions::new().force(true)
    }

    /// Sets whether the decision is carried out where a retry may execute beside, or after, an
    /// attempt that had an effect: on a key in flight, and to forget a completed one.
    pub fn force(self, force: bool) -> Self {
        ResolveOptions { force, ..self }
    }

    /// Sets the token that the key's last attempt must still have
    /// ([`Entry::token`](crate::Entry::token)): between a look at the key and the decision another
    /// attempt may have had an effect.
    pub fn seen(self, seen: impl Into<Option<Token>>) -> Self {
        ResolveOptions { seen: seen.into(), ..self }
    }

    /// Sets who decides, and why. All decisions about keys that are there are kept, see
    /// [`decisions`](crate::decisions); this one with a name and a note.
    pub fn by(self, by: By<'a>) -> Self {
        ResolveOptions { by, ..self }
    }
}

impl Resolution<'_> {
    /// What is decided, without the answer.
    pub(crate) fn verdict(&self) -> Verdict {
        match self {
            Resolution::Complete { .. } => Verdict::Complete,
            Resolution::Free => Verdict::Free,
            Resolution::Forget => Verdict::Forget,
            Resolution::Replace { .. } => Verdict::Replace,
        }
    }
}

/// The refusal where another attempt has begun since the key was looked at.
pub(crate) const OTHER_TOKEN: &str = "not what it was when it was looked at";

/// A completion that an operator decides.
struct ByOperator<'a> {
    hash: u64,
    key: KeyRef<'a>,
    fingerprint: Fingerprint,
    completion: &'a Completion<'a>,
}

/// The state that is resolved.
enum Present {
    Absent,
    Undecided(u32),
    Completed(Frame, Location),
}

impl Engine {
    /// One try of an operator's decision.
    pub fn resolve(
        &self,
        key: KeyRef<'_>,
        resolution: &Resolution<'_>,
        force: bool,
        seen: Option<Token>,
    ) -> StepResult<(), StoreError> {
        let hash = self.index.hash(key);
        let mut wakes = WakeList::default();
        let mut shard = self.index.shard(hash);
        let now = self.now();
        self.check_claim()?;
        self.end_replacing(&mut shard, Some(hash));
        let present = self.present(&shard, hash, key, now)?;
        if let Some(seen) = seen {
            let state = match self.token_of(&shard, &present) {
                Some(token) if token == seen => None,
                Some(_) => Some(OTHER_TOKEN),
                None => Some("absent"),
            };
            if let Some(state) = state {
                return Err(StoreError::NotApplicable { state }.into());
            }
        }
        if let Present::Completed(_, location) = present
            && let Some(wait) = self.replacement_of(&shard, location)
        {
            match (resolution, wait) {
                // Joins: it is forgotten once.
                (Resolution::Forget, (wait, false)) if force => {
                    return Ok(Step { value: (), wait: Some(wait) });
                }
                // Decided about what it is then.
                (_, (wait, _)) => return Err(Blocked::Wait(wait)),
            }
        }
        let (standing, known) = match present {
            Present::Absent => (
                Standing::Absent,
                matches!(resolution, Resolution::Complete { fingerprint: Some(_), .. }),
            ),
            // Its state is known when it is durable.
            Present::Completed(_, location) if !self.is_visible(location) => {
                let state = "being completed; ask again";
                return Err(StoreError::NotApplicable { state }.into());
            }
            Present::Completed(..) => (Standing::Completed, true),
            Present::Undecided(at) => {
                let undecided = shard.undecided.get(at).expect("found under this lock");
                match undecided.held.phase_at(now) {
                    Phase::InFlight { .. } => (Standing::InFlight, true),
                    Phase::Interrupted { .. } => (Standing::Interrupted, true),
                }
            }
        };
        if let Some(refusal) = resolution.verdict().refusal(standing, force, known) {
            return Err(refusal.into());
        }
        match (resolution, present) {
            (Resolution::Replace { head, response }, Present::Completed(frame, location)) => {
                self.replace(&mut shard, hash, &frame, location, (head, *response), now)
            }
            (Resolution::Complete { fingerprint: Some(print), completion }, Present::Absent) => {
                self.check_absent(&mut shard, &mut wakes, hash, key, now)?;
                let by = ByOperator { hash, key, fingerprint: *print, completion };
                self.complete_by_operator(&mut shard, &mut wakes, by, None)
            }
            (Resolution::Complete { completion, .. }, Present::Undecided(at)) => {
                let undecided = shard.undecided.get(at).expect("found under this lock");
                let fingerprint = undecided.held.fingerprint;
                let by = ByOperator { hash, key, fingerprint, completion };
                self.complete_by_operator(&mut shard, &mut wakes, by, Some(at))
            }
            (Resolution::Free | Resolution::Forget, Present::Undecided(at)) => {
                let undecided = shard.undecided.get(at).expect("found under this lock");
                if let Some(position) = self.unsettled(undecided) {
                    return Err(Blocked::Wait(Wait::Durable { group: CLAIMS, position }));
                }
                self.free(&mut shard, &mut wakes, hash, at);
                Ok(Step { value: (), wait: Some(self.claims_durable()) })
            }
            (Resolution::Forget, Present::Completed(frame, location)) => {
                self.forget(&mut shard, hash, &frame, location, now)
            }
            _ => unreachable!("refused by the verdict's rules"),
        }
    }

    /// The token of the last attempt.
    fn token_of(&self, shard: &Shard, present: &Present) -> Option<Token> {
        match present {
            Present::Absent => None,
            Present::Undecided(at) => shard.undecided.get(*at).map(|u| u.held.token),
            Present::Completed(frame, _) => Token::new(frame.header.token),
        }
    }

    fn present(
        &self,
        shard: &Shard,
        hash: u64,
        key: KeyRef<'_>,
        now: u64,
    ) -> Result<Present, StoreError> {
        if let Some(at) = shard.find(hash, key) {
            let undecided = shard.undecided.get(at).expect("found under this lock");
            if !undecided.held.expired(now, self.interrupted_ms(undecided.terms.remember_ms)) {
                return Ok(Present::Undecided(at));
            }
        }
        for location in shard.candidates(hash) {
            match self.look_locked(location, key, now) {
                Lookup::Here(frame) => return Ok(Present::Completed(frame, location)),
                Lookup::Damaged => {
                    let (segment, offset) = (location.slot(), location.offset());
                    return Err(StoreError::Damaged { segment, offset });
                }
                _ => {}
            }
        }
        Ok(Present::Absent)
    }

    /// Makes sure that a key of another store's is absent here: not even undecided for longer than
    /// such keys are kept and not yet swept.
    pub fn check_absent(
        &self,
        shard: &mut Shard,
        wakes: &mut WakeList,
        hash: u64,
        key: KeyRef<'_>,
        now: u64,
    ) -> Result<(), Blocked<StoreError>> {
        self.end_replacing(shard, Some(hash));
        if !matches!(self.present(shard, hash, key, now)?, Present::Absent) {
            let state = "there already, in the store that it is to be copied to";
            return Err(StoreError::NotApplicable { state }.into());
        }
        if let Some(at) = shard.find(hash, key) {
            let expired = shard.undecided.get(at).expect("found under this lock");
            if let Some(position) = self.unsettled(expired) {
                return Err(Blocked::Wait(Wait::Durable { group: CLAIMS, position }));
            }
            self.forget_undecided(shard, wakes, at);
        }
        Ok(())
    }

    /// A new token, or the wait for one.
    pub fn operator_token(&self) -> Result<Token, Blocked<StoreError>> {
        let since = self.resources.count();
        self.tokens.take().ok_or(Blocked::Wait(Wait::Resources { since }))
    }

    fn complete_by_operator(
        &self,
        shard: &mut Shard,
        wakes: &mut WakeList,
        by: ByOperator<'_>,
        at: Option<u32>,
    ) -> StepResult<(), StoreError> {
        let ByOperator { hash, key, fingerprint, completion } = by;
        let now = self.now();
        let body = completion.response.unwrap_or_default();
        self.check_operator_size(completion.head, body)?;
        let held = at.and_then(|at| shard.undecided.get(at));
        let retention = completion.retention.unwrap_or(Retention {
            replay_for: Duration::from_millis(
                held.map_or(self.config.replay_ms, |u| u.terms.replay_ms),
            ),
            remember_for: Duration::from_millis(
                held.map_or(self.config.remember_ms, |u| u.terms.remember_ms),
            ),
        });
        check_retention(retention, 1).map_err(|what| StoreError::Terms { what })?;
        let remember_ms = retention.remember_for.as_millis() as u64;
        let attempt = held.map_or(0, |u| u.held.attempt);
        let token = self.operator_token()?;
        let draft = Draft {
            kind: match completion.response {
                Some(_) => Kind::Completed,
                None => Kind::NotRetained,
            },
            key,
            fingerprint,
            attempt,
            token,
            time_ms: now,
            replay_until_ms: now.saturating_add(retention.replay_for.as_millis() as u64),
            expires_ms: now.saturating_add(remember_ms.min(RETENTION_MAX_MS)),
            head: completion.head,
            body,
        };
        let step = self.put_record(shard, wakes, hash, &draft, at, now)?;
        events::resolved(hash, "complete");
        Ok(step)
    }

    /// Stores a record for which no claim has reserved space, for an absent key or in the place of
    /// an undecided one.
    pub fn put_record(
        &self,
        shard: &mut Shard,
        wakes: &mut WakeList,
        hash: u64,
        draft: &Draft<'_>,
        at: Option<u32>,
        now: u64,
    ) -> StepResult<(), StoreError> {
        shard.reserve(1);
        let (appended, bytes) = self.append_unpromised(hash, draft, now)?;
        shard.insert(hash, appended.location);
        match at {
            Some(at) => {
                self.supersede(shard, at);
                let done = shard.decide(at).expect("found under this lock");
                let promised = Reservation { bytes, by_handle: false };
                self.completed(done, promised, &appended, wakes);
            }
            None => self.log.shared.space.adjust(bytes as i64 - appended.used as i64),
        }
        // No claim's deadline leads to its expiry.
        if self.index.deadline_set(draft.expires_ms) {
            self.notifiers.expire.notify();
        }
        let wait = Wait::Durable { group: appended.class, position: appended.end };
        Ok(Step { value: (), wait: Some(wait) })
    }

    /// Appends a record for which no claim has reserved space; returns also how much was taken out
    /// of the account of free space for it, which the caller settles.
    fn append_unpromised(
        &self,
        hash: u64,
        draft: &Draft<'_>,
        now: u64,
    ) -> Result<(Appended, u64), Blocked<StoreError>> {
        self.check_operator_size(draft.head, draft.body)?;
        let class = class_of(draft.expires_ms.saturating_sub(now), self.config.remember_ms);
        with_frame(|frame| {
            frame.draft(draft);
            let bytes = frame.used();
            self.reserve_space(bytes)?;
            match self.append(hash, class, frame, draft, now) {
                Ok(appended) => Ok((appended, bytes)),
                Err(halt) => {
                    Reservation { bytes, by_handle: false }.give_back(self);
                    Err(halt.into())
                }
            }
        })
    }

    /// A completed key gets another answer, under a new token and with the same end. Others see
    /// the earlier one until the new one is durable, as with a record that is forgotten: if the
    /// sync fails, what was acknowledged is still there.
    fn replace(
        &self,
        shard: &mut Shard,
        hash: u64,
        replaced: &Frame,
        location: Location,
        (head, response): (&[u8], Option<&[u8]>),
        now: u64,
    ) -> StepResult<(), StoreError> {
        let header = &replaced.header;
        if response.is_some() && header.replay_until_ms <= now {
            let state = "completed, and its answer is not replayed any more";
            return Err(StoreError::NotApplicable { state }.into());
        }
        let draft = Draft {
            kind: match response {
                Some(_) => Kind::Completed,
                None => Kind::NotRetained,
            },
            key: replaced.key(),
            fingerprint: header.fingerprint,
            attempt: header.attempt,
            token: self.operator_token()?,
            time_ms: header.time_ms,
            replay_until_ms: header.replay_until_ms,
            expires_ms: header.expires_ms,
            head,
            body: response.unwrap_or_default(),
        };
        let (appended, bytes) = self.append_unpromised(hash, &draft, now)?;
        self.log.shared.space.adjust(bytes as i64 - appended.used as i64);
        let (record, by) = (self.place_of(location), self.place_of(appended.location));
        shard.replacing.push(Replacing { hash, record, by, is_record: true });
        events::resolved(hash, "replace");
        let wait = Wait::Durable { group: appended.class, position: appended.end };
        Ok(Step { value: (), wait: Some(wait) })
    }

    pub(super) fn check_operator_size(&self, head: &[u8], body: &[u8]) -> Result<(), StoreError> {
        if head.len() > HEAD_BYTES_MAX {
            let what = "the head";
            return Err(StoreError::TooLong { what, len: head.len(), limit: HEAD_BYTES_MAX });
        }
        let (len, limit) = (head.len() + body.len(), self.config.max_response);
        match len > limit && !body.is_empty() {
            true => Err(StoreError::ResponseTooLarge { len, limit }),
            false => Ok(()),
        }
    }

    /// The handle of this key, if one exists, is fenced from now on; its reservation ends with it.
    fn supersede(&self, shard: &mut Shard, at: u32) {
        let undecided = shard.undecided.get_mut(at).expect("found under this lock");
        if std::mem::replace(&mut undecided.held.holder_lives, false) {
            let bytes = Self::promise_of(undecided);
            shard.orphans.add(undecided.held.token, bytes);
        }
    }

    /// An undecided key is absent. The token of a claim that follows is higher than its.
    fn free(&self, shard: &mut Shard, wakes: &mut WakeList, hash: u64, at: u32) {
        events::resolved(hash, "free");
        self.supersede(shard, at);
        let gone = shard.decide(at).expect("found under this lock");
        self.forgotten(gone, wakes);
    }

    /// A completed key is absent to all callers as soon as its tombstone is durable, and not
    /// before: otherwise a crash could bring the record back beside a claim that was granted in
    /// between. A tombstone outlives the record that it ends.
    fn forget(
        &self,
        shard: &mut Shard,
        hash: u64,
        killed: &Frame,
        location: Location,
        now: u64,
    ) -> StepResult<(), StoreError> {
        let token = self.operator_token()?;
        let appended = self.bury(hash, killed, token, now)?;
        let (record, by) = (self.place_of(location), self.place_of(appended.location));
        shard.replacing.push(Replacing { hash, record, by, is_record: false });
        events::resolved(hash, "forget");
        let wait = Wait::Durable { group: appended.class, position: appended.end };
        Ok(Step { value: (), wait: Some(wait) })
    }

    /// Appends the tombstone of a record; the caller holds the lock of its shard. It ends records
    /// that have a lower token than its own.
    pub fn bury(
        &self,
        hash: u64,
        killed: &Frame,
        token: Token,
        now: u64,
    ) -> Result<Appended, Blocked<StoreError>> {
        let expires_ms = killed.header.expires_ms;
        let draft = Draft {
            kind: Kind::Tombstone,
            key: killed.key(),
            fingerprint: killed.header.fingerprint,
            attempt: 0,
            token,
            time_ms: now,
            replay_until_ms: expires_ms,
            expires_ms,
            head: &[],
            body: &[],
        };
        let class = class_of(expires_ms.saturating_sub(now), self.config.remember_ms);
        with_frame(|frame| {
            frame.draft(&draft);
            let bytes = frame.used();
            self.reserve_space(bytes)?;
            let appended = match self.append(hash, class, frame, &draft, now) {
                Ok(appended) => appended,
                Err(halt) => {
                    self.log.shared.space.adjust(bytes as i64);
                    return Err(halt.into());
                }
            };
            self.log.shared.space.adjust(bytes as i64 - appended.used as i64);
            Ok(appended)
        })
    }

    /// A record's place, and which use of its segment that is in.
    fn place_of(&self, location: Location) -> (Location, Option<u32>) {
        (location, self.log.epoch(location.slot()))
    }

    /// The wait for the end of a record that an operator has replaced or forgotten, and whether
    /// another record comes in its place.
    fn replacement_of(&self, shard: &Shard, location: Location) -> Option<(Wait, bool)> {
        let record = self.place_of(location);
        let replacing = shard.replacing.iter().find(|r| r.record == record)?;
        let (group, position) = self.log.position_of(replacing.by.0);
        // Frames become durable as a whole.
        Some((Wait::Durable { group, position: position + 1 }, replacing.is_record))
    }

    /// Takes the entries of records out of the index whose tombstones or replacements have become
    /// durable, and puts the replacements in: of this hash, or of all. Every look for records in a
    /// shard begins with this.
    #[inline]
    pub fn end_replacing(&self, shard: &mut Shard, hash: Option<u64>) {
        if !shard.replacing.is_empty() {
            self.end_replacing_now(shard, hash);
        }
    }

    #[cold]
    fn end_replacing_now(&self, shard: &mut Shard, hash: Option<u64>) {
        let mut replacing = std::mem::take(&mut shard.replacing);
        replacing.retain(|r| {
            if hash.is_some_and(|hash| hash != r.hash) {
                return true;
            }
            let is_there = |place: (Location, Option<u32>)| self.place_of(place.0) == place;
            if !is_there(r.record) {
                // It had expired, and what was to come in its place as well: its segment is used
                // again.
                return false;
            }
            // A segment is used again long after it was durable.
            let expired = !is_there(r.by);
            let durable = expired || self.log.is_durable(r.by.0);
            if durable {
                shard.remove(r.hash, r.record.0);
                if r.is_record && !expired {
                    shard.insert(r.hash, r.by.0);
                }
            }
            !durable
        });
        shard.replacing = replacing;
    }
}
