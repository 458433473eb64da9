//! A holder ends its claim: complete, fail, release or undo, under its fencing token.

use crate::{
    broken::{self, Broken},
    claim::Released,
    engine::replay::Lookup,
    engine::{Blocked, CLAIMS, Engine, Step, StepResult, Wait},
    error::{ClaimError, Full},
    index::{Answer, Before, Ended, Shard, Undecided},
    limits::HEAD_BYTES_MAX,
    location::Location,
    log::{
        Appended, Busy, Draft, Encoded, Frame, Kind, Listing, MAIN_CLASS, claim_bytes, class_of,
    },
    options::check_retention,
    record::Reason,
    spi::{Completion, Ticket},
    stats::Count,
    sync::thread_local,
    sync::wait::WakeList,
};
use std::{
    cell::RefCell,
    sync::{Arc, atomic::Ordering},
};

thread_local! {
    /// Frames are made here before their place is known; no allocation once it has grown.
    static FRAME: RefCell<Encoded> = RefCell::new(Encoded::default());
}

/// The bytes of memory that a thread's frame buffer keeps: enough for most responses, and little
/// enough for a thousand threads that have had a large one each.
const FRAME_KEPT: usize = 64 << 10;

/// Runs `f` with this thread's frame buffer.
pub(crate) fn with_frame<R>(f: impl FnOnce(&mut Encoded) -> R) -> R {
    FRAME.with(|frame| {
        let mut frame = frame.borrow_mut();
        let result = f(&mut frame);
        frame.keep(FRAME_KEPT);
        result
    })
}

/// Space that a record may take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reservation {
    pub bytes: u64,
    /// It came with the handle, which ends with the completion.
    pub by_handle: bool,
}

impl Reservation {
    /// Nothing was appended.
    pub fn give_back(self, engine: &Engine) {
        if !self.by_handle {
            engine.log.shared.space.adjust(self.bytes as i64);
        }
    }
}

/// How a key was decided, for a holder that finds it so.
enum Decided {
    /// By this very token.
    Ours(Frame, Location),
    /// By another token, or not at all.
    Fenced,
}

impl Engine {
    /// One try of a completion.
    pub fn complete(
        &self,
        ticket: &Ticket,
        completion: &Completion<'_>,
    ) -> StepResult<(), ClaimError> {
        let retention = completion.retention.unwrap_or(ticket.retention);
        check_retention(retention, 1).map_err(|what| ClaimError::Terms { what })?;
        self.check_size(ticket, completion.head, completion.response.unwrap_or_default())?;
        let now = self.now();
        let after = |window: std::time::Duration| now.saturating_add(window.as_millis() as u64);
        let kind = match completion.response {
            Some(_) => Kind::Completed,
            None => Kind::NotRetained,
        };
        let draft = Draft {
            kind,
            key: ticket.key.as_ref(),
            fingerprint: ticket.fingerprint,
            attempt: ticket.attempt,
            token: ticket.token,
            time_ms: now,
            replay_until_ms: after(retention.replay_for),
            expires_ms: after(retention.remember_for),
            head: completion.head,
            body: completion.response.unwrap_or_default(),
        };
        let class = class_of(retention.remember_for.as_millis() as u64, self.config.remember_ms);
        self.keep_delay(class, now)?;
        let mut wakes = WakeList::default();
        with_frame(|frame| {
            frame.draft(&draft);
            let [hash, at] = ticket.note;
            let mut shard = self.index.shard(hash);
            self.check_claim()?;
            let Some(undecided) = shard.attempt(at as u32, ticket.token) else {
                return self.complete_again(&mut shard, ticket, completion);
            };
            let promised = self.promised(undecided, frame)?;
            let appended = match self.append(hash, class, frame, &draft, now) {
                Ok(appended) => appended,
                Err(halt) => {
                    promised.give_back(self);
                    return Err(halt);
                }
            };
            shard.insert(hash, appended.location);
            let done = shard.decide(at as u32).expect("found above");
            self.count(hash, Count::Completed);
            Ok(self.completed(done, promised, &appended, &mut wakes))
        })
    }

    /// The space for a completion: the holder's promise, or, if no handle keeps one, taken now.
    fn promised(
        &self,
        undecided: &Undecided,
        frame: &Encoded,
    ) -> Result<Reservation, Blocked<ClaimError>> {
        if undecided.held.holder_lives && !undecided.earlier {
            let bytes = claim_bytes(undecided.terms.reserve);
            return Ok(Reservation { bytes, by_handle: true });
        }
        let bytes = frame.used();
        self.reserve_space(bytes)?;
        Ok(Reservation { bytes, by_handle: false })
    }

    /// Takes space that no claim has been promised; waits for more if there can be more.
    pub fn reserve_space(&self, bytes: u64) -> Result<(), Blocked<ClaimError>> {
        let since = self.resources.count();
        if self.log.shared.space.reserve(bytes) {
            return Ok(());
        }
        if !self.can_grow() {
            return Err(ClaimError::StoreFull(Full::Space).into());
        }
        if self.is_starved() {
            // The disk had no room when it was last asked. It is asked again, for the next call.
            self.notifiers.keep.notify();
            return Err(match self.refuse_for_space() {
                Some(what) => ClaimError::Unavailable { what },
                None => ClaimError::StoreFull(self.full_of_space()),
            }
            .into());
        }
        self.wanted_space.fetch_max(bytes, Ordering::AcqRel);
        Err(Blocked::Wait(Wait::Resources { since }))
    }

    /// The consequences of a completion that is in the log, by a holder or an operator. Under the
    /// lock of the key's shard, so that closing the store can wait for it.
    pub fn completed(
        &self,
        done: Ended,
        promised: Reservation,
        appended: &Appended,
        wakes: &mut WakeList,
    ) -> Step<()> {
        self.log.shared.space.adjust(promised.bytes as i64 - appended.used as i64);
        if promised.by_handle {
            self.handle_ended(done.hash);
        }
        let Appended { class, end, .. } = *appended;
        let syncs = self.config.syncs_completions();
        let promised = done.chain.promised || self.cells.is_durable(&done.chain);
        if broken::is(Broken::ClearBeforeDurable) {
            let _ = self.cells.clear(&done.chain);
        } else if syncs || done.chain.replaced_at > 0 || promised {
            self.cells.clear_after(class, end, done.chain);
            // The group that covered it may have ended before the chain was queued.
            if self.log.is_durable(appended.location) {
                let _ = self.cells.class_durable(class, end);
            }
        } else if class != MAIN_CLASS {
            // Its ring is this process's memory.
            self.cells.clear_when_drained(class, end, done.chain);
            if self.log.appender(class).drained() >= end {
                let _ = self.cells.class_drained(class, end);
            }
        } else {
            let _ = self.cells.clear(&done.chain);
        }
        if syncs {
            let group = &self.log.appender(class).group;
            wakes.add(done.waiters.into_iter().filter_map(|waker| group.wake_at(end, waker)));
        } else {
            wakes.add(done.waiters);
        }
        Step { value: (), wait: self.answered_after(class, end) }
    }

    /// The position that a completion waits for before its answer.
    pub fn answered_after(&self, class: u8, end: u64) -> Option<Wait> {
        if self.config.syncs_completions() && !broken::is(Broken::AckBeforeSync) {
            return Some(Wait::Durable { group: class, position: end });
        }
        (class != MAIN_CLASS).then_some(Wait::Drained { class, position: end })
    }

    /// Appends a frame, or returns the lacking resource to wait for.
    pub fn append(
        &self,
        hash: u64,
        class: u8,
        frame: &mut Encoded,
        draft: &Draft<'_>,
        now: u64,
    ) -> Result<Appended, Blocked<ClaimError>> {
        let since = self.resources.count();
        let listing = Listing {
            hash,
            kind: draft.kind,
            time_ms: draft.time_ms,
            expires_ms: draft.expires_ms,
        };
        self.log.append(class, frame, listing, now).map_err(|busy| match busy {
            Busy::Ring { class, len } => Blocked::Wait(Wait::Room { class, len }),
            Busy::Segment { class, since } => Blocked::Wait(Wait::Segment { class, since }),
            Busy::NoSegment => Blocked::Wait(Wait::Resources { since }),
            Busy::Poisoned => Blocked::Fail(ClaimError::Poisoned),
        })
    }

    /// In `Buffered`, waits for the disk when it has fallen too far behind.
    fn keep_delay(&self, class: u8, now: u64) -> Result<(), Blocked<ClaimError>> {
        let Some(max_delay) = self.config.max_delay_ms() else {
            return Ok(());
        };
        let appender = self.log.appender(class);
        match appender.oldest_at_risk() {
            Some(since) if since.saturating_add(max_delay) < now => {
                if appender.group.durable() >= appender.reserved() {
                    return Ok(());
                }
                Err(Blocked::Wait(Wait::Durable { group: class, position: appender.reserved() }))
            }
            _ => Ok(()),
        }
    }

    /// Completed under this token before: joins, with the same bytes.
    fn complete_again(
        &self,
        shard: &mut Shard,
        ticket: &Ticket,
        completion: &Completion<'_>,
    ) -> StepResult<(), ClaimError> {
        match self.decided(shard, ticket)? {
            Decided::Fenced => self.fenced(ticket),
            Decided::Ours(frame, location) => {
                let kept = (frame.header.kind == Kind::Completed).then_some(frame.body());
                if frame.head() != completion.head || kept != completion.response {
                    return Err(ClaimError::DifferentResponse.into());
                }
                let (class, position) = self.log.position_of(location);
                let end = position + frame.header.padded() as u64;
                let wait = (!self.log.is_durable(location))
                    .then(|| self.answered_after(class, end))
                    .flatten();
                Ok(Step { value: (), wait })
            }
        }
    }

    fn decided(&self, shard: &mut Shard, ticket: &Ticket) -> Result<Decided, ClaimError> {
        let now = self.now();
        self.end_replacing(shard, Some(ticket.note[0]));
        for location in shard.candidates(ticket.note[0]) {
            match self.look_locked(location, ticket.key.as_ref(), now) {
                Lookup::Here(frame) if frame.header.token == ticket.token.get() => {
                    return Ok(Decided::Ours(frame, location));
                }
                Lookup::Damaged => {
                    let (segment, offset) = (location.slot(), location.offset());
                    return Err(ClaimError::Damaged { segment, offset });
                }
                _ => {}
            }
        }
        Ok(Decided::Fenced)
    }

    /// The answer to a holder's call other than a completion when the key is not undecided under
    /// its token.
    pub fn not_held<T>(&self, shard: &mut Shard, ticket: &Ticket) -> StepResult<T, ClaimError> {
        match self.decided(shard, ticket)? {
            Decided::Ours(..) => Err(ClaimError::AlreadyCompleted.into()),
            Decided::Fenced => self.fenced(ticket),
        }
    }

    fn fenced<T>(&self, ticket: &Ticket) -> StepResult<T, ClaimError> {
        self.alarm(Count::Fenced, ticket.note[0], ticket.key.as_ref(), Some(ticket.token));
        Err(ClaimError::Fenced.into())
    }

    /// One try of a failure: the outcome is unknown, the answer is kept.
    pub fn fail(&self, ticket: &Ticket, answer: &[u8]) -> StepResult<(), ClaimError> {
        self.check_size(ticket, &[], answer)?;
        let now = self.now();
        let keep = self.interrupted_ms(ticket.retention.remember_for.as_millis() as u64);
        let expires_ms = now.saturating_add(keep);
        let draft = Draft {
            kind: Kind::Failed,
            key: ticket.key.as_ref(),
            fingerprint: ticket.fingerprint,
            attempt: ticket.attempt,
            token: ticket.token,
            time_ms: now,
            replay_until_ms: expires_ms,
            expires_ms,
            head: &[],
            body: answer,
        };
        let class = class_of(keep, self.config.remember_ms);
        let mut wakes = WakeList::default();
        with_frame(|frame| {
            frame.draft(&draft);
            let [hash, at] = ticket.note;
            let mut shard = self.index.shard(hash);
            self.check_claim()?;
            let Some(undecided) = shard.attempt(at as u32, ticket.token) else {
                return self.not_held(&mut shard, ticket);
            };
            if let Some(kept) = &undecided.answer {
                return match self.answer_bytes(undecided).is_some_and(|kept| *kept == *answer) {
                    true => Ok(Step { value: (), wait: self.settled_at(kept) }),
                    false => Err(ClaimError::DifferentResponse.into()),
                };
            }
            // The answer counts only together with its claim.
            if self.config.syncs_completions() && !self.cells.is_durable(&undecided.chain) {
                let position = undecided.chain.written_at;
                return Err(Blocked::Wait(Wait::Durable { group: CLAIMS, position }));
            }
            // The claim's own reservation is for its completion, which may still come.
            let bytes = frame.used();
            self.reserve_space(bytes)?;
            let appended = match self.append(hash, class, frame, &draft, now) {
                Ok(appended) => appended,
                Err(halt) => {
                    self.log.shared.space.adjust(bytes as i64);
                    return Err(halt);
                }
            };
            self.log.shared.space.adjust(bytes as i64 - appended.used as i64);
            let undecided = shard.attempt(at as u32, ticket.token).expect("found above");
            let epoch = self.log.epoch(appended.location.slot());
            let location = Some((appended.location, epoch));
            let token = ticket.token;
            undecided.answer = Some(Answer { token, bytes: Some(answer.into()), location });
            undecided.held.interrupt(Reason::Failed, now);
            undecided.attempt_counts();
            let waiters = undecided.waiters.take();
            if self.config.syncs_completions() {
                let group = &self.log.appender(appended.class).group;
                let later = |waker| group.wake_at(appended.end, waker);
                wakes.add(waiters.into_iter().filter_map(later));
            } else {
                wakes.add(waiters);
            }
            self.rearm(&mut shard, at as u32, now);
            self.count(hash, Count::Failed);
            Ok(Step { value: (), wait: self.answered_after(appended.class, appended.end) })
        })
    }

    /// What a failed holder left.
    pub fn answer_bytes(&self, undecided: &Undecided) -> Option<Arc<[u8]>> {
        self.kept_answer(undecided.answer.as_ref()?)
    }

    /// The same of an answer that a takeover has set aside.
    pub fn kept_answer(&self, answer: &Answer) -> Option<Arc<[u8]>> {
        if let Some(bytes) = &answer.bytes {
            return Some(bytes.clone());
        }
        let (location, epoch) = answer.location?;
        if self.log.epoch(location.slot()) != epoch {
            return None;
        }
        let frame = self.log.read(location)?;
        let is_it = frame.header.kind == Kind::Failed && frame.header.token == answer.token.get();
        is_it.then(|| frame.body().into())
    }

    /// The location of a failed holder's answer that must not be seen yet.
    pub fn settling(&self, undecided: &Undecided) -> Option<Location> {
        self.on_its_way(undecided.answer.as_ref()?)
    }

    /// What to wait for until this answer may be seen. It may be in another class than its own, if
    /// that had no free segment.
    fn settled_at(&self, answer: &Answer) -> Option<Wait> {
        let (class, position) = self.log.position_of(self.on_its_way(answer)?);
        // Frames become durable, and are drained, as a whole.
        self.answered_after(class, position + 1)
    }

    /// The location of an answer that does not yet survive what the store's durability promises.
    fn on_its_way(&self, answer: &Answer) -> Option<Location> {
        let (location, epoch) = answer.location?;
        // A living handle keeps its key longer than the segment its answer, which was durable
        // long before the segment was used again.
        let lies_there = self.log.epoch(location.slot()) == epoch;
        (lies_there && !self.is_visible(location)).then_some(location)
    }

    /// One try of a release.
    pub fn release(&self, ticket: &Ticket) -> StepResult<(), ClaimError> {
        let [hash, at] = ticket.note;
        let mut wakes = WakeList::default();
        let mut shard = self.index.shard(hash);
        self.check_claim()?;
        if shard.attempt(at as u32, ticket.token).is_none() {
            return self.not_held(&mut shard, ticket);
        }
        let undecided = shard.attempt(at as u32, ticket.token).expect("found above");
        if !undecided.held.history
            && let Some(position) = self.unsettled(undecided)
        {
            return Err(Blocked::Wait(Wait::Durable { group: CLAIMS, position }));
        }
        self.give_back(&mut shard, &mut wakes, at as u32, true)?;
        self.count(hash, Count::Released);
        self.claims_written();
        let wait = self
            .config
            .syncs_claims()
            .then(|| Wait::Durable { group: CLAIMS, position: self.cells.position() });
        Ok(Step { value: (), wait })
    }

    /// One try of undoing a takeover that has learned nothing.
    pub fn undo(&self, ticket: &Ticket) -> StepResult<(), ClaimError> {
        let [hash, at] = ticket.note;
        let mut wakes = WakeList::default();
        let mut shard = self.index.shard(hash);
        self.check_claim()?;
        if shard.attempt(at as u32, ticket.token).is_none() {
            return self.not_held(&mut shard, ticket);
        }
        if !self.undo_takeover(&mut shard, &mut wakes, at as u32)? {
            let undecided = shard.attempt(at as u32, ticket.token).expect("found above");
            let has_ended = !undecided.held.holder_lives;
            drop(shard);
            return if has_ended { Ok(Step::now(())) } else { self.release(ticket) };
        }
        let wait = self.config.syncs_claims().then(|| self.claims_durable());
        Ok(Step { value: (), wait })
    }

    /// Restores the state that the takeover by the present attempt has found. `false`: the key was
    /// not taken over, or this attempt is already known to count.
    pub fn undo_takeover(
        &self,
        shard: &mut Shard,
        wakes: &mut WakeList,
        at: u32,
    ) -> Result<bool, ClaimError> {
        let now = self.now();
        let undecided = shard.undecided.get_mut(at).expect("the caller has found it");
        let Some(before) = undecided.before.take() else { return Ok(false) };
        self.handle_gives_up(undecided);
        let Before { phase, attempt, answer } = *before;
        undecided.held.undo(attempt, phase);
        undecided.answer = answer;
        undecided.handle_gone();
        undecided.unsure.again(now);
        wakes.add(undecided.waiters.take());
        self.count(undecided.hash, Count::Undone);
        let written = self.replace_cells(undecided);
        self.rearm(shard, at, now);
        self.claims_written();
        written.map(|()| true)
    }

    /// Gives back the reservation of an undecided key's handle.
    fn handle_gives_up(&self, undecided: &mut Undecided) {
        if std::mem::replace(&mut undecided.held.holder_lives, false) {
            self.log.shared.space.adjust(Self::promise_of(undecided) as i64);
            self.handle_ended(undecided.hash);
            undecided.handle_gone();
        }
    }

    /// Writes the next version of an undecided key. Without a free cell, or a further
    /// version, the one before stays, which a crash makes interrupted as well.
    fn replace_cells(&self, undecided: &mut Undecided) -> Result<(), ClaimError> {
        if undecided.next_version()
            && let Some(chain) = self.write_cells(undecided)?
        {
            self.cells.replace(&mut undecided.chain, chain);
        }
        Ok(())
    }

    /// Undoes an attempt that did nothing, not the key's history.
    pub fn give_back(
        &self,
        shard: &mut Shard,
        wakes: &mut WakeList,
        at: u32,
        write: bool,
    ) -> Result<(), ClaimError> {
        let now = self.now();
        let undecided = shard.undecided.get_mut(at).expect("the caller has found it");
        self.handle_gives_up(undecided);
        match undecided.held.release(now) {
            Released::Absent => {
                let gone = shard.decide(at).expect("found above");
                self.forgotten(gone, wakes);
            }
            Released::Interrupted => {
                // It doesn't count.
                if let Some(before) = undecided.before.take() {
                    undecided.held.attempt = before.attempt;
                }
                wakes.add(undecided.waiters.take());
                if write {
                    self.replace_cells(undecided)?;
                }
                self.rearm(shard, at, now);
            }
        }
        Ok(())
    }

    /// The position up to which the claims file must be durable before a key is forgotten:
    /// otherwise a loss of power could remove the present version of its claim and leave one that
    /// it has replaced.
    pub fn unsettled(&self, undecided: &Undecided) -> Option<u64> {
        let position = self.cells.until_settled(&undecided.chain)?;
        (!broken::is(Broken::ForgetUnsettled)).then_some(position)
    }

    /// An undecided key is absent now: its cells are free, and its waiters begin again.
    pub fn forgotten(&self, gone: Ended, wakes: &mut WakeList) {
        let _ = self.cells.clear(&gone.chain);
        wakes.add(gone.waiters);
    }

    /// Checks that a response fits the claim's reserve, and the sizes of the store: a claim of an
    /// earlier life may have reserved more than the present options allow. A head must fit its own
    /// bound.
    fn check_size(&self, ticket: &Ticket, head: &[u8], body: &[u8]) -> Result<(), ClaimError> {
        if head.len() > HEAD_BYTES_MAX {
            let what = "the head";
            return Err(ClaimError::TooLong { what, len: head.len(), limit: HEAD_BYTES_MAX });
        }
        let limit = (ticket.reserve as usize).min(self.config.max_response);
        let len = head.len() + body.len();
        if len > limit && !body.is_empty() {
            return Err(ClaimError::ResponseTooLarge { len, limit });
        }
        Ok(())
    }
}
