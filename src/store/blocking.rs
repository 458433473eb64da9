//! The blocking methods of claims and of those who wait, for the embedded store.

use crate::{
    error::{BeginError, ClaimError},
    spi::{ClaimOp, Completion, IdempotencyStore},
    store::Store,
    store::claim::{Begin, Claim, Interrupted, Pending},
};
use std::time::Duration;

impl Claim<Store> {
    /// The operation took effect, and this is its answer, which every retry gets from now on. As
    /// durable as the store's [`Durability`](crate::Durability) says when this returns.
    ///
    /// May be called again: with the same bytes it succeeds, with others it is
    /// [`ClaimError::DifferentResponse`]. After [`ClaimError::ResponseTooLarge`] the claim is
    /// still held. It counts after the lease has passed, too, if nobody has taken the key over.
    pub fn complete(&mut self, response: &[u8]) -> Result<(), ClaimError> {
        self.complete_with(Completion { response: Some(response), ..Completion::default() })
    }

    /// [`complete`](Self::complete) with a head or another retention.
    pub fn complete_with(&mut self, completion: Completion<'_>) -> Result<(), ClaimError> {
        self.store.write_blocking(self.ticket(), ClaimOp::Complete(completion))?;
        self.ended = true;
        Ok(())
    }

    /// The operation took effect, but its answer is too large to keep: retries learn that it is
    /// done, and get `head` (at most 4 KiB).
    pub fn complete_without_response(&mut self, head: &[u8]) -> Result<(), ClaimError> {
        self.complete_with(Completion { head, ..Completion::default() })
    }

    /// The outcome is unknown. The key is interrupted and keeps `answer`; durable like a
    /// completion. Whoever still has the claim can complete it later. Takes free space, beside
    /// what the claim has been promised: [`ClaimError::StoreFull`] if there is none, and the claim
    /// is still held. Another answer than before is [`ClaimError::DifferentResponse`].
    pub fn fail(&mut self, answer: &[u8]) -> Result<(), ClaimError> {
        self.store.write_blocking(self.ticket(), ClaimOp::Fail(answer))
    }

    /// Records how far the operation got (at most 4 KiB), for the next holder; durable like a
    /// completion. Renews the lease. From then on a release no longer frees the key.
    pub fn save_checkpoint(&mut self, bytes: &[u8]) -> Result<(), ClaimError> {
        self.store.write_blocking(self.ticket(), ClaimOp::Checkpoint(bytes))
    }

    /// The lease begins anew, also if it had passed and nobody took over. Withdraws the answer
    /// of a failure. Cheap: nothing is written.
    pub fn renew(&mut self) -> Result<(), ClaimError> {
        self.store.write_blocking(self.ticket(), ClaimOp::Renew)
    }

    /// Makes this claim survive a loss of power, whatever the store's
    /// [`Durability`](crate::Durability): before the first outside effect.
    pub fn ensure_durable(&mut self) -> Result<(), ClaimError> {
        self.store.write_blocking(self.ticket(), ClaimOp::EnsureDurable)
    }

    /// The attempt did nothing. At the first attempt, and without a checkpoint, the key is free
    /// again; otherwise it is interrupted (given back), because an earlier attempt may have done
    /// something.
    pub fn release(mut self) -> Result<(), ClaimError> {
        self.store.write_blocking(self.ticket(), ClaimOp::Release)?;
        self.ended = true;
        Ok(())
    }
}

impl Pending<Store> {
    /// Waits for the holder to end, for `at_most`, and begins again: the record, the claim (if
    /// the holder released it and nobody was quicker), the interruption, or still in flight.
    pub fn wait(self, at_most: Duration) -> Result<Begin, BeginError> {
        let Pending { store, request, mut running } = self;
        let until = store.now().saturating_add(at_most);
        loop {
            let left = until.saturating_sub(store.now());
            let changed = store.changed_blocking(&request, running.token, left);
            let begin = store.begin_request(request.clone(), None)?;
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
    /// Takes the key over: the next attempt, with the last checkpoint. If it has changed
    /// meanwhile (another taker was quicker, the holder finished after all), says what is true
    /// now.
    pub fn take_over(self) -> Result<Begin, BeginError> {
        let Interrupted { store, request, stuck } = self;
        store.begin_request(request, Some(stuck.token))
    }
}
