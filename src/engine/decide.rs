//! Operators' decisions with who took them and why: noted first, then carried out.

use crate::{
    decisions::{self, By, Decision, Outcome, Pen, Standing, Was, WasState},
    engine::Engine,
    engine::driver,
    engine::entries::State,
    engine::resolve::{OTHER_TOKEN, Resolution, ResolveOptions},
    error::StoreError,
    key::KeyRef,
    observe::Call,
    token::Token,
};
use std::sync::Arc;

impl Engine {
    /// Carries out a decision about a key, and notes who took it.
    pub fn decide(
        self: &Arc<Self>,
        key: KeyRef<'_>,
        resolution: &Resolution<'_>,
        ResolveOptions { force, seen, by }: ResolveOptions<'_>,
    ) -> Result<(), StoreError> {
        // Noted first, about exactly the attempt that was looked at: if that has changed by the time
        // it is carried out, both are repeated (or refused, if the caller named it).
        const TRIES: usize = 16;
        for again in (0..TRIES).rev() {
            let Some(decision) = self.decision(key, resolution, force, seen, by) else {
                return self.carry_out(key, resolution, force, seen);
            };
            let about = decision.was.token;
            let number = self.decisions.note(&self.pen(), decision)?;
            let done = self.carry_out(key, resolution, force, Some(about));
            let outcome = match &done {
                Ok(()) => Outcome::Done,
                Err(error) => Outcome::Refused(error.to_string()),
            };
            self.decisions.ended(&self.pen(), number, &outcome);
            let changed = matches!(
                done,
                Err(StoreError::NotApplicable { state })
                    if state == OTHER_TOKEN || state == "absent"
            );
            if !changed || seen.is_some() || again == 0 {
                return done;
            }
        }
        unreachable!("the last try returns")
    }

    fn carry_out(
        self: &Arc<Self>,
        key: KeyRef<'_>,
        resolution: &Resolution<'_>,
        force: bool,
        seen: Option<Token>,
    ) -> Result<(), StoreError> {
        let call = Call::plain(&self.timings, "resolve", self.index.hash(key));
        driver::run(self, call, |engine| engine.resolve(key, resolution, force, seen))?;
        if !self.config.syncs_completions() {
            // The claim that this decided is still on the disk, and would come back if the decision
            // were lost.
            self.made_durable()?;
        }
        Ok(())
    }

    /// The decisions that are kept, oldest first. Reads their files.
    pub fn decisions(&self) -> Result<Vec<Decision>, StoreError> {
        if self.is_closed() {
            return Err(StoreError::Closed);
        }
        let since = self.shown(self.now()).saturating_sub(self.config.decisions_ms);
        let since = if self.config.decisions_ms == 0 { u64::MAX } else { since };
        decisions::read_all(&*self.storage, self.id, since)
            .map_err(|error| StoreError::Unavailable { what: error.to_string() })
    }

    /// Takes in a decision of another store, behind those of this one.
    pub fn adopt_decision(&self, decision: Decision) -> Result<(), StoreError> {
        self.decisions.adopt(&self.pen(), decision)
    }

    /// Erases the decisions about the keys of a scope; returns how many.
    pub fn erase_decisions(&self, scope: &[u8]) -> Result<u64, StoreError> {
        self.decisions.erase(&self.pen(), scope)
    }

    /// What the journal of decisions writes with.
    fn pen(&self) -> Pen<'_> {
        Pen {
            storage: &*self.storage,
            poison: &self.poison,
            store: self.id,
            now_ms: self.time.shown(self.now()),
            kept_ms: self.config.decisions_ms,
        }
    }

    /// A decision as it is noted before it is carried out. `None` if the key is absent (an import),
    /// or if the decision is refused anyway: a refusal writes nothing.
    fn decision(
        &self,
        key: KeyRef<'_>,
        resolution: &Resolution<'_>,
        force: bool,
        seen: Option<Token>,
        by: By<'_>,
    ) -> Option<Decision> {
        self.check_claim().ok()?;
        let entry = self.get(key).ok()??;
        if seen.is_some_and(|seen| seen != entry.token) {
            return None;
        }
        let (state, checkpoint, head, answer) = match entry.state {
            State::InFlight { checkpoint, .. } => (WasState::InFlight, checkpoint, vec![], None),
            State::Interrupted { reason, checkpoint, answer, .. } => {
                let answer = answer.map(|answer| answer.to_vec());
                (WasState::Interrupted(reason), checkpoint, vec![], answer)
            }
            State::Completed(record) => {
                let answer = record.response().map(<[u8]>::to_vec);
                (WasState::Completed, None, record.head().to_vec(), answer)
            }
        };
        let (new_head, new_answer) = match resolution {
            Resolution::Complete { completion, .. } => (completion.head, completion.response),
            Resolution::Free | Resolution::Forget => (&[][..], None),
            Resolution::Replace { head, response } => (*head, *response),
        };
        self.check_operator_size(new_head, new_answer.unwrap_or_default()).ok()?;
        let standing = match state {
            WasState::InFlight => Standing::InFlight,
            WasState::Interrupted(_) => Standing::Interrupted,
            WasState::Completed => Standing::Completed,
        };
        let verdict = resolution.verdict();
        if verdict.refusal(standing, force, false).is_some() {
            return None;
        }
        let (actor, note) = by.kept();
        let fingerprint = entry.fingerprint;
        Some(Decision {
            number: 0,
            at_ms: self.time.shown(self.now()),
            actor,
            note,
            verdict,
            key: entry.key,
            was: Was {
                state,
                fingerprint,
                token: entry.token,
                attempts: entry.attempts,
                checkpoint: checkpoint.map(|bytes| bytes.to_vec()),
                head,
                answer,
            },
            head: new_head.to_vec(),
            answer: new_answer.map(<[u8]>::to_vec),
            outcome: Outcome::Unknown,
        })
    }
}
