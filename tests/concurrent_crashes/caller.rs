//! One caller: what it does next is drawn, and what it was answered is noted.

use super::{
    RESPONSES, Shared, World, below, name_of, number_of, one_in, response_of, site,
    story::{Answer, Story, What},
};
use crate::common::{
    self, HOUR, print,
    schedules::{polled, polled_late},
};
use onlyonce::{storage::SimStorage, *};
use std::sync::{Arc, atomic::Ordering::SeqCst};

pub struct Caller {
    pub shared: Arc<Shared>,
    pub story: Arc<Story>,
    pub world: World,
    pub number: usize,
    pub claims: [Option<Claim>; 2],
    pub interrupted: [Option<Interrupted>; 2],
}

fn done(result: Result<(), ClaimError>) -> Option<Answer> {
    match result {
        Ok(()) => Some(Answer::Done),
        Err(ClaimError::Fenced) => Some(Answer::Fenced),
        Err(_) => None,
    }
}

impl Caller {
    pub fn run(mut self) {
        for _ in 0..self.world.calls {
            // A caller whose calls fail gives up. (Of each of these any effect must be considered.)
            if self.story.is_over() || self.story.unanswered(self.number) > 1 {
                return;
            }
            self.step(below(self.world.keys));
        }
        // Dropped claims are interrupted: no step of the key's.
    }

    fn note(&self, key: usize, what: What, call: impl FnOnce() -> Result<(), ClaimError>) {
        self.story.call(self.number, key, what, || ((), done(call())));
    }

    fn begun(&mut self, key: usize, begun: Result<Begin, BeginError>) -> Option<Answer> {
        match begun.ok()? {
            Begin::Execute(claim) => {
                let token = claim.token().get();
                site("granted");
                self.claims[key] = Some(claim);
                Some(Answer::Granted(token))
            }
            Begin::Replay(record) => {
                site("replayed");
                Some(Answer::Replay(number_of(&record)))
            }
            Begin::Interrupted(interrupted) => {
                site("interrupted");
                self.interrupted[key] = Some(interrupted);
                Some(Answer::Busy)
            }
            Begin::InFlight(_) => {
                site("in flight");
                Some(Answer::Busy)
            }
            Begin::Mismatch { .. } => panic!("one fingerprint is in use"),
        }
    }

    fn step(&mut self, key: usize) {
        let (store, story) = (self.shared.store(), self.story.clone());
        if self.world.operators && one_in(3) {
            return self.operate(key);
        }
        if self.world.erases && one_in(5) {
            return self.erase();
        }
        if one_in(12) {
            return story.flush("a flush", || store.flush().is_ok());
        }
        if one_in(12) {
            let _ = store.housekeep();
            return;
        }
        if self.world.copies && one_in(8) {
            return story.copy(|| {
                let copy = SimStorage::new(9);
                store.backup_on(&copy).ok()?;
                site("a backup was taken");
                Some(copy)
            });
        }
        if self.world.fills && one_in(2) {
            return self.fill();
        }
        if let Some(claim) = self.claims[key].take() {
            return self.hold(key, claim);
        }
        if let Some(interrupted) = self.interrupted[key].take() {
            return story.call(self.number, key, What::TakeOver, || {
                let begun = interrupted.take_over();
                ((), self.begun(key, begun))
            });
        }
        if self.world.tasks && one_in(3) {
            return match one_in(2) {
                true => self.begin_and_give_up(key),
                false => self.begin_late(key),
            };
        }
        story.call(self.number, key, What::Begin, || {
            let begun = store.begin(common::key(&name_of(key)), print());
            ((), self.begun(key, begun))
        });
    }

    /// A future that is dropped after a few polls, delivered or not.
    fn begin_and_give_up(&mut self, key: usize) {
        let face = AsyncStore::new(self.shared.store());
        let name = name_of(key);
        let polls = below(3) as u64;
        let (number, story) = (self.number, self.story.clone());
        let undelivered = story.call(number, key, What::Begin, || {
            let begin = face.begin(common::key(&name), print());
            match polled(begin, polls) {
                // The task's claim goes at once: the key is interrupted.
                Some(Ok(Begin::Execute(claim))) => {
                    (false, Some(Answer::Granted(claim.token().get())))
                }
                Some(Ok(Begin::Replay(record))) => {
                    (false, Some(Answer::Replay(number_of(&record))))
                }
                Some(Ok(Begin::InFlight(_) | Begin::Interrupted(_))) => (false, Some(Answer::Busy)),
                _ => (true, None),
            }
        });
        if undelivered {
            site("a future was dropped");
            story.call(number, key, What::Undo, || ((), None));
        }
    }

    /// A task that is polled long after it was woken, from its begin to its completion.
    fn begin_late(&mut self, key: usize) {
        let face = AsyncStore::new(self.shared.store());
        let (number, story, name) = (self.number, self.story.clone(), name_of(key));
        let late = || if one_in(2) { below(40) } else { 0 };
        let claim = story.call(number, key, What::Begin, || {
            match polled_late(face.begin(common::key(&name), print()), late) {
                Ok(Begin::Execute(claim)) => {
                    let token = claim.token().get();
                    (Some(claim), Some(Answer::Granted(token)))
                }
                Ok(Begin::Replay(record)) => (None, Some(Answer::Replay(number_of(&record)))),
                Ok(Begin::InFlight(_) | Begin::Interrupted(_)) => (None, Some(Answer::Busy)),
                _ => (None, None),
            }
        });
        let Some(mut claim) = claim.filter(|_| !story.is_over()) else { return };
        let (token, response) = (claim.token().get(), RESPONSES.fetch_add(1, SeqCst) as u64);
        let bytes = response_of(response, self.world.large);
        if one_in(4) {
            return story.call(number, key, What::Release(token), || {
                let released = polled_late(claim.release(), late);
                ((), done(released))
            });
        }
        story.call(number, key, What::Complete(token, response), || {
            let completed = polled_late(claim.complete(&bytes), late);
            site("a task was woken late");
            ((), done(completed))
        });
    }

    /// A key of its own, so that the index grows.
    fn fill(&mut self) {
        let (store, story, number) = (self.shared.store(), self.story.clone(), self.number);
        let key = self.shared.next_key();
        let claim = story.call(number, key, What::Begin, || {
            match store.begin(common::key(&name_of(key)), print()) {
                Ok(Begin::Execute(claim)) => {
                    let token = claim.token().get();
                    (Some(claim), Some(Answer::Granted(token)))
                }
                Ok(other) => panic!("a new key is {other:?}"),
                Err(_) => (None, None),
            }
        });
        let Some(mut claim) = claim.filter(|_| !story.is_over()) else { return };
        let (token, response) = (claim.token().get(), RESPONSES.fetch_add(1, SeqCst) as u64);
        let bytes = response_of(response, false);
        story.call(number, key, What::Complete(token, response), || {
            ((), done(claim.complete(&bytes)))
        });
    }

    fn hold(&mut self, key: usize, mut claim: Claim) {
        let token = claim.token().get();
        match below(9) {
            0 => self.note(key, What::Fail(token), || claim.fail(b"500")),
            1 => self.note(key, What::Checkpoint(token), || claim.save_checkpoint(b"half")),
            2 => return self.note(key, What::Release(token), || claim.release()),
            3 => return drop(claim),
            4 => {
                self.note(key, What::EnsureDurable(token), || claim.ensure_durable());
                site("made durable");
            }
            _ => {
                let response = RESPONSES.fetch_add(1, SeqCst) as u64;
                let bytes = response_of(response, self.world.large);
                let retention = self.world.other_class.then(|| Retention::from(4 * HOUR));
                let completion = Completion { response: Some(&bytes), retention, head: b"" };
                self.note(key, What::Complete(token, response), || claim.complete_with(completion));
                site("completed");
            }
        }
        self.claims[key] = Some(claim);
    }

    /// All keys: a story has a line for each.
    fn erase(&self) {
        let (store, story, number) = (self.shared.store(), &self.story, self.number);
        story.call(number, 0, What::Erase, || {
            let answer = story.call(number, 1, What::Erase, || {
                let answer = match store.erase_scope(&common::SCOPE, one_in(2)) {
                    Ok(erased) if erased.held == 0 => {
                        site("a scope was erased");
                        Some(Answer::Done)
                    }
                    Ok(_) => {
                        site("a scope was erased but for what is in use");
                        Some(Answer::Refused)
                    }
                    Err(_) => None,
                };
                (answer, answer)
            });
            ((), answer)
        });
    }

    fn operate(&self, key: usize) {
        let (store, name) = (self.shared.store(), name_of(key));
        let name = common::key(&name);
        let response = RESPONSES.fetch_add(1, SeqCst) as u64;
        let bytes = response_of(response, self.world.large);
        let completion = Completion { response: Some(&bytes), retention: None, head: b"" };
        let (what, resolution) = match below(4) {
            0 => (What::Free, Resolution::Free),
            1 => (What::Decide(response), Resolution::Complete { fingerprint: None, completion }),
            _ => (What::Forget, Resolution::Forget),
        };
        self.story.call(self.number, key, what, || {
            match store.resolve_with(name, resolution, ResolveOptions::forced()) {
                Ok(()) => {
                    site("an operator decided");
                    ((), Some(Answer::Done))
                }
                Err(
                    StoreError::AlreadyCompleted | StoreError::NotApplicable { state: "completed" },
                ) => ((), Some(Answer::Completed)),
                Err(StoreError::NotApplicable { .. } | StoreError::NeedsForce { .. }) => {
                    ((), Some(Answer::Refused))
                }
                Err(_) => ((), None),
            }
        });
    }
}
