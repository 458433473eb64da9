//! A holder continues: renew, checkpoint, make the claim durable.

use crate::{
    engine::{CLAIMS, Engine, Step, StepResult, Wait},
    error::{ClaimError, Full},
    index::Undecided,
    limits::{CHECKPOINT_BYTES_MAX, COUNT_MAX},
    spi::Ticket,
};

impl Engine {
    /// Starts the lease again. Nothing is written: a crash ends every lease.
    pub fn renew(&self, ticket: &Ticket) -> StepResult<(), ClaimError> {
        let [hash, at] = ticket.note;
        let mut shard = self.index.shard(hash);
        let now = self.now();
        self.check_claim()?;
        let Some(undecided) = shard.attempt(at as u32, ticket.token) else {
            return self.not_held(&mut shard, ticket);
        };
        undecided.held.renew(undecided.held.lease_ms, now);
        // The holder continues: the answer of an earlier failure is not its answer any more.
        undecided.answer = None;
        self.rearm(&mut shard, at as u32, now);
        Ok(Step::now(()))
    }

    /// Stores how far the holder has got, durable like a completion, for the next holder.
    pub fn checkpoint(&self, ticket: &Ticket, bytes: &[u8]) -> StepResult<(), ClaimError> {
        if bytes.len() > CHECKPOINT_BYTES_MAX {
            let (what, limit) = ("the checkpoint", CHECKPOINT_BYTES_MAX);
            return Err(ClaimError::TooLong { what, len: bytes.len(), limit }.into());
        }
        let change = |undecided: &mut Undecided| {
            undecided.checkpoint = Some(bytes.into());
            undecided.held.history = true;
        };
        self.rewrite(ticket, change, |_| {})
    }

    /// No attempt before this one had an effect: removes the key's history.
    pub fn nothing_happened(&self, ticket: &Ticket) -> StepResult<(), ClaimError> {
        let change = |undecided: &mut Undecided| {
            undecided.checkpoint = None;
            undecided.held.clear_history();
        };
        self.rewrite(ticket, change, Undecided::attempt_counts)
    }

    /// Stores a changed claim, durable like a completion, and renews its lease. It stays as it was
    /// if there is no room; `written` is for what follows only from success.
    fn rewrite(
        &self,
        ticket: &Ticket,
        change: impl FnOnce(&mut Undecided),
        written: impl FnOnce(&mut Undecided),
    ) -> StepResult<(), ClaimError> {
        let [hash, at] = ticket.note;
        let mut shard = self.index.shard(hash);
        let now = self.now();
        self.check_claim()?;
        let Some(undecided) = shard.attempt(at as u32, ticket.token) else {
            return self.not_held(&mut shard, ticket);
        };
        let before = (undecided.checkpoint.clone(), undecided.held.clone(), undecided.version);
        if !undecided.next_version() {
            return Err(no_version_left().into());
        }
        change(undecided);
        undecided.held.renew(undecided.held.lease_ms, now);
        let Some(chain) = self.write_cells(undecided).map_err(ClaimError::from)? else {
            (undecided.checkpoint, undecided.held, undecided.version) = before;
            return Err(ClaimError::StoreFull(Full::Claims).into());
        };
        undecided.answer = None;
        written(undecided);
        self.cells.replace(&mut undecided.chain, chain);
        self.rearm(&mut shard, at as u32, now);
        drop(shard);
        self.claims_written();
        let wait = self.config.syncs_completions().then(|| self.claims_durable());
        Ok(Step { value: (), wait })
    }

    /// Makes the claim survive a loss of power, whatever the store's durability.
    pub fn ensure_durable(&self, ticket: &Ticket) -> StepResult<(), ClaimError> {
        let [hash, at] = ticket.note;
        let mut shard = self.index.shard(hash);
        self.check_claim()?;
        let Some(undecided) = shard.attempt(at as u32, ticket.token) else {
            return self.not_held(&mut shard, ticket);
        };
        // An operator may complete the key before the sync, which would then cover that the claim
        // is cleared, while the record is not durable yet.
        undecided.chain.promised = true;
        Ok(Step { value: (), wait: Some(self.claims_durable()) })
    }

    /// The wait for everything that is in the claims file by now.
    pub fn claims_durable(&self) -> Wait {
        Wait::Durable { group: CLAIMS, position: self.cells.position() }
    }
}

fn no_version_left() -> ClaimError {
    let what = format!("a claim has at most {COUNT_MAX} versions, and this was the last");
    ClaimError::Unavailable { what }
}
