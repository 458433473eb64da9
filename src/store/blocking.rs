//! The blocking methods of `Claim`, `Pending` and `Interrupted`, for the embedded store, and an
//! operator's.

use crate::{
    decisions::Decision,
    engine::resolve::{Resolution, ResolveOptions},
    error::{BeginError, ClaimError, StoreError},
    key::KeyRef,
    spi::{ClaimOp, Completion, IdempotencyStore},
    store::Store,
    store::claim::{Begin, Claim, Interrupted, Pending},
};
use std::time::Duration;

impl Store {
    /// Records an operator's decision about a key, under a new token: a holder is fenced, and
    /// waiters are woken. It is durable when this returns, whatever the store's
    /// [`Durability`](crate::Durability). Blocks for one or more syncs.
    ///
    /// [`Resolution::Replace`] is for completed keys only. A key in flight, and forgetting a
    /// completed one, needs [`ResolveOptions::force`].
    ///
    /// # Errors
    /// [`StoreError::NeedsForce`], [`StoreError::NotApplicable`] or
    /// [`StoreError::AlreadyCompleted`] if the decision doesn't fit the
    /// key's state; [`StoreError::ResponseTooLarge`], [`StoreError::TooLong`] or
    /// [`StoreError::Terms`] for a completion that can't be stored; [`StoreError::StoreFull`],
    /// [`StoreError::Damaged`], [`StoreError::Poisoned`], [`StoreError::Closed`] or
    /// [`StoreError::Forked`] from the store. A refusal changes nothing.
    pub fn resolve(&self, key: KeyRef<'_>, resolution: Resolution<'_>) -> Result<(), StoreError> {
        self.resolve_with(key, resolution, ResolveOptions::new())
    }

    /// Resolves like [`resolve`](Self::resolve): forced, only if the key's last attempt is still the
    /// one that was looked at, or with a name and a note for the [`decisions`](Self::decisions).
    ///
    /// # Errors
    /// As with [`resolve`](Self::resolve). [`StoreError::NotApplicable`] also if the key has become
    /// something else since it was looked at; [`StoreError::StoreFull`] also, before anything is
    /// decided, if the disk has no room for the record of the decision.
    pub fn resolve_with(
        &self,
        key: KeyRef<'_>,
        resolution: Resolution<'_>,
        options: ResolveOptions<'_>,
    ) -> Result<(), StoreError> {
        self.engine()?.decide(key, &resolution, options)
    }

    /// Returns the decisions that operators have taken, oldest first, as far as they are kept. Reads
    /// their files. Imports of absent keys are not among them.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] if a file can't be read; [`StoreError::Closed`] or
    /// [`StoreError::Forked`] from the store.
    pub fn decisions(&self) -> Result<Vec<Decision>, StoreError> {
        self.engine()?.decisions()
    }
}

impl Claim<Store> {
    /// Completes the key: the operation took effect, and every retry gets this answer from now on.
    /// When this returns, it is as durable as the store's [`Durability`](crate::Durability) says.
    /// Blocks for that.
    ///
    /// It may be called again, and succeeds with the same bytes. It also succeeds after the lease
    /// has passed, if the key has not been taken over.
    ///
    /// # Errors
    /// [`ClaimError::Fenced`] if the key was taken over, resolved or has expired;
    /// [`ClaimError::DifferentResponse`] if it was completed with other bytes before;
    /// [`ClaimError::ResponseTooLarge`], after which the claim is still held;
    /// [`ClaimError::Poisoned`], [`ClaimError::Closed`] or [`ClaimError::Forked`] from the store.
    /// [`ClaimError::key_state`] says what is known of the key then.
    pub fn complete(&mut self, response: &[u8]) -> Result<(), ClaimError> {
        self.complete_with(Completion { response: Some(response), ..Completion::default() })
    }

    /// Completes the key like [`complete`](Self::complete), with a head or another retention.
    ///
    /// # Errors
    /// As with [`complete`](Self::complete), and [`ClaimError::TooLong`] for the head or
    /// [`ClaimError::Terms`] for the retention, after which the claim is still held.
    pub fn complete_with(&mut self, completion: Completion<'_>) -> Result<(), ClaimError> {
        self.store.write_blocking(self.ticket(), ClaimOp::Complete(completion))?;
        self.ended = true;
        Ok(())
    }

    /// Completes the key without its answer, which is too large to keep: retries learn that the
    /// operation was executed, and get `head` (at most 4 KiB).
    ///
    /// # Errors
    /// As with [`complete_with`](Self::complete_with).
    pub fn complete_without_response(&mut self, head: &[u8]) -> Result<(), ClaimError> {
        self.complete_with(Completion { head, ..Completion::default() })
    }

    /// Reports that the outcome is unknown. The key is interrupted and keeps `answer`; durable like
    /// a completion. The holder can still complete the claim later. The answer takes free space,
    /// beside the claim's own reservation.
    ///
    /// # Errors
    /// As with [`complete`](Self::complete), and [`ClaimError::StoreFull`] if there is no free
    /// space, after which the claim is still held. An answer that differs from an earlier one is
    /// [`ClaimError::DifferentResponse`].
    pub fn fail(&mut self, answer: &[u8]) -> Result<(), ClaimError> {
        self.store.write_blocking(self.ticket(), ClaimOp::Fail(answer))
    }

    /// Stores how far the operation has got (at most 4 KiB), for the next holder; durable like a
    /// completion. Renews the lease, and withdraws the answer of a failure. From then on a release
    /// no longer frees the key.
    ///
    /// # Errors
    /// [`ClaimError::TooLong`] or [`ClaimError::StoreFull`], after which the claim is still held;
    /// [`ClaimError::Fenced`], [`ClaimError::AlreadyCompleted`], and errors of the store, as with
    /// [`complete`](Self::complete).
    pub fn save_checkpoint(&mut self, bytes: &[u8]) -> Result<(), ClaimError> {
        self.store.write_blocking(self.ticket(), ClaimOp::Checkpoint(bytes))
    }

    /// Starts the lease again, also after it has passed, if the key has not been taken over.
    /// Withdraws the answer of a failure. Nothing is written, and this never waits for the disk.
    ///
    /// # Errors
    /// [`ClaimError::Fenced`], [`ClaimError::AlreadyCompleted`], and errors of the store, as with
    /// [`complete`](Self::complete).
    pub fn renew(&mut self) -> Result<(), ClaimError> {
        self.store.write_blocking(self.ticket(), ClaimOp::Renew)
    }

    /// Makes this claim survive a loss of power, whatever the store's
    /// [`Durability`](crate::Durability). Call it before the first outside effect. Blocks for a
    /// sync if the claim isn't durable yet.
    ///
    /// # Errors
    /// As with [`renew`](Self::renew).
    pub fn ensure_durable(&mut self) -> Result<(), ClaimError> {
        self.store.write_blocking(self.ticket(), ClaimOp::EnsureDurable)
    }

    /// Undoes the takeover: it could not be learned what became of the attempts before this one,
    /// and this one did nothing else. The key is interrupted as it was, with the same number of
    /// attempts, reason, answer and checkpoint, and with a
    /// [`settle_after`](Interrupted::settle_after) that grows each time. A claim that was not taken
    /// over, or whose attempt has [failed](Self::fail), is released instead. Blocks for a sync in
    /// `Synced`.
    ///
    /// # Errors
    /// As with [`release`](Self::release).
    pub fn undo(mut self) -> Result<(), ClaimError> {
        self.store.write_blocking(self.ticket(), ClaimOp::Undo)?;
        self.ended = true;
        Ok(())
    }

    /// Records that no attempt before this one had an effect, and that none can have one any more.
    /// This is the first attempt from then on, without a checkpoint, and a release makes the key
    /// absent. Durable like a checkpoint.
    ///
    /// # Errors
    /// As with [`save_checkpoint`](Self::save_checkpoint); and
    /// [`NotApplicable`](ClaimError::NotApplicable) where the claim is in a transaction of
    /// PostgreSQL.
    pub fn nothing_happened(&mut self) -> Result<(), ClaimError> {
        self.store.write_blocking(self.ticket(), ClaimOp::NothingHappened)?;
        self.starts_over();
        Ok(())
    }

    /// Gives the claim back: the attempt did nothing. At the first attempt, and without a
    /// checkpoint, the key is free again; otherwise it is interrupted (given back), because an
    /// earlier attempt may have had an effect. Blocks for a sync in `Synced`.
    ///
    /// # Errors
    /// As with [`renew`](Self::renew). The claim is dropped then, which leaves the key interrupted
    /// if it was still held.
    pub fn release(mut self) -> Result<(), ClaimError> {
        self.store.write_blocking(self.ticket(), ClaimOp::Release)?;
        self.ended = true;
        Ok(())
    }
}

impl Pending<Store> {
    /// Waits for the holder to end, for `at_most`, and begins again. Returns the record, a claim
    /// (if the holder released its own and no other caller was faster), the interruption, or still
    /// in flight. Blocks, timed by the store's clock.
    ///
    /// # Errors
    /// As with [`Store::begin`].
    pub fn wait(self, at_most: Duration) -> Result<Begin, BeginError> {
        let Pending { store, request, mut running } = self;
        let until = store.now().saturating_add(at_most);
        loop {
            let left = until.saturating_sub(store.now());
            let changed = store.changed_blocking(&request, running.token, left);
            let begin = store.begin_request((*request).clone(), None)?;
            match begin {
                Begin::InFlight(again) if changed && store.now() < until => {
                    running = again.running;
                }
                begin => return Ok(begin),
            }
        }
    }
}

impl Interrupted<Store> {
    /// Takes the key over, for the next attempt, with the last checkpoint. If the key has changed
    /// in between (another caller was faster, or the holder finished after all), returns its
    /// present state.
    ///
    /// # Errors
    /// As with [`Store::begin`], and [`BeginError::AttemptsExhausted`].
    pub fn take_over(self) -> Result<Begin, BeginError> {
        let Interrupted { store, request, stuck } = self;
        store.begin_request(*request, Some(stuck.token))
    }
}
