//! The calls of those who begin and of those who hold a claim, and what they must answer.

use super::*;

impl World {
    pub fn begin(&mut self, key: usize, other: bool, terms: u8, seen: Option<Seen>) -> Outcome {
        let now = self.now();
        let is = self.model.keys[key].is.at(now);
        let wanted = terms_of(terms);
        let taken = seen.as_ref().map(|seen| seen.token);
        // What it would be if a claim is granted.
        let mut post = is.clone();
        let mut attempts = None;
        match &is {
            Is::Absent => {
                let lease_ms = wanted.lease.map_or(LEASE_MS, |d| d.as_millis() as u64);
                post = Is::Held(Held {
                    token: 0,
                    other,
                    attempt: 1,
                    lease_ms,
                    retention: wanted.retention.unwrap_or(ms(RETENTION_MS).into()),
                    reserve: wanted.reserve.map_or(MAX_RESPONSE, |n| n as usize),
                    phase: Phase::InFlight { until: now + lease_ms },
                    lives: true,
                    history: false,
                    checkpoint: None,
                    answer: None,
                    withdrawn: vec![],
                    failed_at: 0,
                    noted: false,
                    before: None,
                });
                attempts = Some((1, None, None));
            }
            Is::Held(held) if held.other == other && taken == Some(held.token) => {
                if let Phase::Interrupted { reason, .. } = held.phase_at(now) {
                    post = Is::Held(Held {
                        token: 0,
                        attempt: held.attempt + 1,
                        phase: Phase::InFlight { until: now + held.lease_ms },
                        lives: true,
                        history: true,
                        answer: None,
                        withdrawn: vec![],
                        noted: false,
                        before: Some(Box::new(Held {
                            phase: held.phase_at(now),
                            before: None,
                            ..held.clone()
                        })),
                        ..held.clone()
                    });
                    attempts = Some((held.attempt + 1, Some(reason), held.checkpoint.clone()));
                }
            }
            _ => {}
        }
        let result = match seen {
            Some(seen) => seen.interrupted.take_over(),
            None => {
                let (scope, name) = (scope(), name(key));
                let key = KeyRef::new(&scope, &name).unwrap();
                self.store().begin_with(key, print_of_named(&name, other), wanted)
            }
        };
        self.heard(key, &result, post.clone())?;
        if let Some((attempt, ..)) = attempts
            && attempt > MAX_ATTEMPTS
        {
            let exhausted = BeginError::AttemptsExhausted { attempts: MAX_ATTEMPTS };
            assert_eq!(result.map(|_| ()), Err(exhausted));
            return Ok(());
        }
        if attempts.is_some() && self.refused(&result) {
            return Ok(());
        }
        let begun = result.unwrap_or_else(|e| panic!("begin of {is:?}: {e:?}"));
        match (is, begun) {
            (_, Begin::Execute(claim)) => {
                let Some((attempt, after, checkpoint)) = attempts else {
                    panic!("granted, but the key is {:?}", self.model.keys[key]);
                };
                assert_eq!((claim.attempt(), claim.after()), (attempt, after));
                assert_eq!(claim.checkpoint(), checkpoint.as_deref());
                let token = claim.token().get();
                self.model.token(token);
                let mut reserve = 0;
                if let Is::Held(held) = &mut post {
                    held.token = token;
                    reserve = held.reserve;
                }
                let durable = self.model.setting.syncs_claims();
                self.model.set(key, post, durable);
                self.handles.push(Handle { claim, key, token, reserve });
            }
            (is, _) if attempts.is_some() => panic!("not granted, though {is:?}"),
            (Is::Held(held), Begin::Mismatch { .. }) => assert_ne!(held.other, other),
            (Is::Done(done), Begin::Mismatch { .. }) => assert_ne!(done.other, other),
            (Is::Done(done), Begin::Replay(record)) => {
                assert_eq!(done.other, other);
                check_record(&done, &record, now);
            }
            (Is::Held(held), Begin::InFlight(_)) => {
                assert_eq!(held.other, other);
                assert!(matches!(held.phase_at(now), Phase::InFlight { .. }), "{held:?}");
            }
            (Is::Held(held), Begin::Interrupted(found)) => {
                assert_eq!(held.other, other);
                check_interrupted(&held, &found, now);
            }
            (is, begun) => panic!("{is:?}, but the store says {begun:?}"),
        }
        Ok(())
    }

    /// Begins; if the key is interrupted, returns that.
    pub fn see(&mut self, key: usize, other: bool) -> Result<Option<Seen>, Struck> {
        let now = self.now();
        let is = self.model.keys[key].is.at(now);
        let Is::Held(held) = &is else { return Ok(None) };
        if held.other != other || matches!(held.phase_at(now), Phase::InFlight { .. }) {
            return Ok(None);
        }
        let (scope, name) = (scope(), name(key));
        let result =
            self.store().begin(KeyRef::new(&scope, &name).unwrap(), print_of_named(&name, other));
        self.heard(key, &result, is.clone())?;
        match result {
            Ok(Begin::Interrupted(found)) => {
                check_interrupted(held, &found, now);
                Ok(Some(Seen { interrupted: found, key, other, token: held.token }))
            }
            other => panic!("{is:?}, but the store says {other:?}"),
        }
    }

    pub fn take_over(&mut self, seen: Seen) -> Outcome {
        self.begin(seen.key, seen.other, 0, Some(seen))
    }

    /// The key of a handle as of now, and what its owner's calls answer if it isn't held.
    pub fn owned(&self, at: usize, now: u64) -> Result<(usize, Held), (usize, ClaimError)> {
        let Handle { key, token, .. } = self.handles[at];
        match self.model.keys[key].is.at(now) {
            Is::Held(held) if held.token == token => Ok((key, held)),
            Is::Done(done) if done.token == token => Err((key, ClaimError::AlreadyCompleted)),
            _ => Err((key, ClaimError::Fenced)),
        }
    }

    pub fn complete(
        &mut self,
        handle: usize,
        body: Option<Vec<u8>>,
        retention: u8,
        head: bool,
    ) -> Outcome {
        let Some(at) = self.handle(handle) else { return Ok(()) };
        let now = self.now();
        let head = head_of(head);
        let completion =
            Completion { head, response: body.as_deref(), retention: retention_of(retention) };
        let Handle { key, token, .. } = self.handles[at];
        let owned = self.owned(at, now);
        let is = self.model.keys[key].is.at(now);
        let post = match &owned {
            Ok((_, held)) => {
                Is::Done(done(held, token, head, body.clone(), completion.retention, now))
            }
            Err(_) => is.clone(),
        };
        let reserve = self.handles[at].reserve;
        let result = self.handles[at].claim.complete_with(completion);
        self.heard(key, &result, post.clone())?;
        let len = head.len() + body.as_ref().map_or(0, Vec::len);
        if len > reserve && body.as_ref().is_some_and(|b| !b.is_empty()) {
            assert_eq!(result, Err(ClaimError::ResponseTooLarge { len, limit: reserve }));
            return Ok(());
        }
        match owned {
            Ok(_) => {
                // What was granted can be completed: a live handle's completion is never refused.
                assert_eq!(result, Ok(()));
                let durable = self.model.setting.syncs_completions();
                self.model.set(key, post, durable);
            }
            Err((_, ClaimError::AlreadyCompleted)) => {
                let Is::Done(done) = is else { unreachable!() };
                if *done.head == *head && done.body.as_deref() == body.as_deref() {
                    assert_eq!(result, Ok(()));
                } else {
                    assert_eq!(result, Err(ClaimError::DifferentResponse));
                }
            }
            Err((_, error)) => assert_eq!(result, Err(error)),
        }
        Ok(())
    }

    pub fn fail(&mut self, handle: usize, answer: Vec<u8>) -> Outcome {
        let Some(at) = self.handle(handle) else { return Ok(()) };
        let now = self.now();
        let key = self.handles[at].key;
        let owned = self.owned(at, now);
        let mut post = self.model.keys[key].is.at(now);
        if let (Ok(_), Is::Held(held)) = (&owned, &mut post) {
            // Said again, it is as it was.
            let phase = held.phase_at(now);
            if !matches!(phase, Phase::Interrupted { reason: Reason::Failed, .. }) {
                held.phase = Phase::Interrupted { reason: Reason::Failed, at: now };
            }
            if held.answer.is_none() {
                held.failed_at = now;
            }
            held.answer = Some(Bytes(answer.clone()));
            held.noted = false;
            held.before = None;
        }
        let limit = self.handles[at].reserve;
        let result = self.handles[at].claim.fail(&answer);
        self.heard(key, &result, post.clone())?;
        if answer.len() > limit {
            let len = answer.len();
            assert_eq!(result, Err(ClaimError::ResponseTooLarge { len, limit }));
            return Ok(());
        }
        match owned {
            Ok((_, held)) => {
                if held.answer.is_some_and(|kept| kept.0 != answer) {
                    assert_eq!(result, Err(ClaimError::DifferentResponse));
                    return Ok(());
                }
                if self.refused(&result) {
                    return Ok(());
                }
                assert_eq!(result, Ok(()));
                let durable = self.model.setting.syncs_completions();
                self.model.set(key, post, durable);
            }
            Err((_, error)) => assert_eq!(result, Err(error)),
        }
        Ok(())
    }

    pub fn release(&mut self, handle: usize) -> Outcome {
        let Some(at) = self.handle(handle) else { return Ok(()) };
        let now = self.now();
        let owned = self.owned(at, now);
        let Handle { claim, key, .. } = self.handles.swap_remove(at);
        let result = claim.release();
        self.ended(key, owned, result, |held| given_back(held, now))
    }

    pub fn undo(&mut self, handle: usize) -> Outcome {
        let Some(at) = self.handle(handle) else { return Ok(()) };
        let now = self.now();
        let owned = self.owned(at, now);
        let Handle { claim, key, .. } = self.handles.swap_remove(at);
        let result = claim.undo();
        self.ended(key, owned, result, |held| match &held.before {
            Some(before) => Is::Held(Held {
                attempt: before.attempt,
                phase: before.phase,
                answer: before.answer.clone(),
                withdrawn: before.withdrawn.clone(),
                failed_at: before.failed_at,
                lives: false,
                noted: true,
                before: None,
                ..held.clone()
            }),
            None => given_back(held, now),
        })
    }

    /// A call that leaves no handle.
    fn ended(
        &mut self,
        key: usize,
        owned: Result<(usize, Held), (usize, ClaimError)>,
        result: Result<(), ClaimError>,
        post: impl FnOnce(&Held) -> Is,
    ) -> Outcome {
        let post = match &owned {
            Ok((_, held)) => post(held),
            Err(_) => self.model.keys[key].is.clone(),
        };
        self.heard(key, &result, post.clone())?;
        match owned {
            Ok((_, held)) => {
                assert_eq!(result, Ok(()));
                if self.model.setting.tight {
                    // For want of a cell the version before may stay on the disk.
                    self.model.keys[key].maybe.push(Is::Held(held));
                }
                let durable = self.model.setting.syncs_claims();
                self.model.set(key, post, durable);
            }
            Err((_, error)) => assert_eq!(result, Err(error)),
        }
        Ok(())
    }

    pub fn nothing_happened(&mut self, handle: usize) -> Outcome {
        let Some(at) = self.handle(handle) else { return Ok(()) };
        let now = self.now();
        let key = self.handles[at].key;
        let owned = self.owned(at, now);
        let mut post = self.model.keys[key].is.clone();
        if let (Ok(_), Is::Held(held)) = (&owned, &mut post) {
            held.renew(now);
            (held.attempt, held.history, held.checkpoint) = (1, false, None);
            (held.noted, held.before) = (false, None);
        }
        let result = self.handles[at].claim.nothing_happened();
        self.heard(key, &result, post.clone())?;
        match owned {
            Ok(_) => {
                if self.refused(&result) {
                    return Ok(());
                }
                assert_eq!(result, Ok(()));
                let durable = self.model.setting.syncs_completions();
                self.model.set(key, post, durable);
            }
            Err((_, error)) => assert_eq!(result, Err(error)),
        }
        Ok(())
    }

    pub fn renew(&mut self, handle: usize) -> Outcome {
        let Some(at) = self.handle(handle) else { return Ok(()) };
        let now = self.now();
        let key = self.handles[at].key;
        let owned = self.owned(at, now);
        let result = self.handles[at].claim.renew();
        let is = self.model.keys[key].is.clone();
        self.heard(key, &result, is)?;
        match owned {
            Ok(_) => {
                assert_eq!(result, Ok(()));
                self.model.adjust(key, |held| {
                    held.renew(now);
                    held.noted = false;
                });
            }
            Err((_, error)) => assert_eq!(result, Err(error)),
        }
        Ok(())
    }

    pub fn checkpoint(&mut self, handle: usize, bytes: Vec<u8>) -> Outcome {
        let Some(at) = self.handle(handle) else { return Ok(()) };
        let now = self.now();
        let key = self.handles[at].key;
        let owned = self.owned(at, now);
        let mut post = self.model.keys[key].is.clone();
        if let (Ok(_), Is::Held(held)) = (&owned, &mut post) {
            held.renew(now);
            held.checkpoint = Some(Bytes(bytes.clone()));
            held.history = true;
            held.noted = false;
        }
        let result = self.handles[at].claim.save_checkpoint(&bytes);
        self.heard(key, &result, post.clone())?;
        if bytes.len() > 4096 {
            assert!(matches!(result, Err(ClaimError::TooLong { limit: 4096, .. })));
            return Ok(());
        }
        match owned {
            Ok(_) => {
                if self.refused(&result) {
                    return Ok(());
                }
                assert_eq!(result, Ok(()));
                let durable = self.model.setting.syncs_completions();
                self.model.set(key, post, durable);
            }
            Err((_, error)) => assert_eq!(result, Err(error)),
        }
        Ok(())
    }

    pub fn ensure_durable(&mut self, handle: usize) -> Outcome {
        let Some(at) = self.handle(handle) else { return Ok(()) };
        let now = self.now();
        let key = self.handles[at].key;
        let owned = self.owned(at, now);
        let result = self.handles[at].claim.ensure_durable();
        let is = self.model.keys[key].is.clone();
        self.heard(key, &result, is)?;
        match owned {
            Ok((_, held)) => {
                assert_eq!(result, Ok(()));
                // The claim is; the failed answer that it may have by now need not be.
                match held.answer {
                    None => self.model.keys[key].past.clear(),
                    Some(_) => self.model.keys[key].past.retain(|is| is.held(held.token).is_some()),
                }
            }
            Err((_, error)) => assert_eq!(result, Err(error)),
        }
        Ok(())
    }

    pub fn drop_claim(&mut self, handle: usize, panics: bool) -> Outcome {
        let Some(at) = self.handle(handle) else { return Ok(()) };
        let now = self.now();
        let owned = self.owned(at, now);
        let Handle { claim, key, .. } = self.handles.swap_remove(at);
        let mut reason = Reason::Dropped;
        if panics {
            reason = Reason::Panicked;
            let panicked = catch_unwind(AssertUnwindSafe(move || {
                let _claim = claim;
                // Without the hook's message.
                resume_unwind(Box::new("a holder panics"))
            }));
            assert!(panicked.is_err());
        } else {
            drop(claim);
        }
        if owned.is_ok() {
            self.model.adjust(key, |held| {
                held.lives = false;
                held.before = None;
                held.phase = match held.phase_at(now) {
                    Phase::InFlight { .. } => Phase::Interrupted { reason, at: now },
                    phase => phase,
                };
            });
        }
        Ok(())
    }
}

fn given_back(held: &Held, now: u64) -> Is {
    if !held.history {
        return Is::Absent;
    }
    Is::Held(Held {
        phase: Phase::Interrupted { reason: Reason::GivenBack, at: now },
        // A takeover that did nothing doesn't count.
        attempt: held.before.as_ref().map_or(held.attempt, |before| before.attempt),
        lives: false,
        noted: true,
        before: None,
        ..held.clone()
    })
}
