//! Undecided claims of earlier lives are taken into the new one.

use crate::{
    broken::{self, Broken},
    claim::{Held, Phase},
    engine::{Engine, outlived},
    index::{Answer, HeldTerms, KEPT_IN_MEMORY, Undecided as Entry},
    poison::Poisoned,
    recover::claims::cells_of,
    recover::decide::{Failure, Undecided, interruption},
    stats::Count,
    token::Token,
};

impl Engine {
    /// Takes the undecided claims into the new life, all interrupted, and writes down since when.
    pub(super) fn adopt_claims(&self, undecided: Vec<Undecided>) -> Result<(), Poisoned> {
        let now = self.now();
        self.cells.adopt(cells_of(&undecided))?;
        let mut expired = Vec::new();
        let mut in_memory = 0;
        for Undecided { found, failure } in undecided {
            let (reason, at) = interruption(&found, failure.is_some(), now);
            let (noted, failed_as) = (found.interrupted.is_some(), found.failed_as());
            let hash = self.index.hash(found.key.as_ref());
            let lives = outlived::lives(self.id, found.token);
            let keep_ms = self.interrupted_ms(found.remember_ms);
            let until = if lives { u64::MAX } else { at.saturating_add(keep_ms) };
            let answer = failure
                .and_then(|failure| self.answer_found(failed_as, failure, until, &mut in_memory));
            let mut undecided = Entry {
                hash,
                held: Held {
                    token: found.token,
                    fingerprint: found.fingerprint,
                    attempt: found.attempt,
                    started_ms: found.started_ms,
                    lease_ms: found.lease_ms,
                    phase: Phase::Interrupted { reason, at },
                    holder_lives: false,
                    history: found.history,
                },
                terms: HeldTerms {
                    replay_ms: found.replay_ms,
                    remember_ms: found.remember_ms,
                    // No more than today's options can promise.
                    reserve: found.reserve.min(self.config.max_response as u32),
                },
                key: found.key,
                chain: found.chain,
                // Never one that an earlier life has used.
                version: match broken::is(Broken::ReuseVersions) {
                    true => found.version,
                    false => found.used,
                },
                checkpoint: found.checkpoint,
                answer,
                adopted: false,
                earlier: false,
                before: None,
                unsure: Default::default(),
                exhausted: false,
                waiters: Default::default(),
                timer: None,
            };
            // A handle of it may have outlived the store that this process had open before.
            undecided.held.holder_lives = lives;
            if undecided.held.expired(now, self.interrupted_ms(undecided.terms.remember_ms)) {
                let token = Some(undecided.held.token);
                self.alarm(Count::InterruptedExpired, hash, undecided.key.as_ref(), token);
                expired.push(undecided.chain);
                continue;
            }
            if !noted {
                // Without a free cell the time of the interruption is that of the next opening;
                // nothing else is lost.
                if undecided.next_version()
                    && let Some(chain) = self.write_cells(&undecided)?
                {
                    self.cells.replace(&mut undecided.chain, chain);
                }
            }
            let mut shard = self.index.shard(hash);
            undecided.held.holder_lives = outlived::lives(self.id, undecided.held.token);
            if undecided.held.holder_lives {
                undecided.earlier = true;
                self.holders.begun(hash);
            }
            let at = shard.hold(undecided.hash, || undecided);
            self.rearm(&mut shard, at, now);
        }
        self.sync_claims()?;
        // The versions that they had replaced are gone from the disk.
        expired.iter().try_for_each(|chain| self.cells.clear(chain))?;
        self.sync_claims()
    }

    /// The answer of a failed holder whose key is kept `until` then. If the log has it for so long,
    /// it stays there; if not, because the key is kept from the opening on or by a living handle, it
    /// is kept in memory, as far as there is room; then it is known for as long as the log has it.
    fn answer_found(
        &self,
        token: Token,
        failure: Failure,
        until: u64,
        in_memory: &mut usize,
    ) -> Option<Answer> {
        let Failure { location, expires_ms, .. } = failure;
        if expires_ms < until {
            let frame = self.log.read(location)?;
            if *in_memory + frame.body().len() <= KEPT_IN_MEMORY {
                *in_memory += frame.body().len();
                return Some(Answer { token, bytes: Some(frame.body().into()), location: None });
            }
        }
        let there = (location, self.log.epoch(location.slot()));
        Some(Answer { token, bytes: None, location: Some(there) })
    }
}
