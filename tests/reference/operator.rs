//! The calls of an operator and of those who only look.

use super::*;

impl World {
    pub fn resolve_complete(
        &mut self,
        key: usize,
        body: Vec<u8>,
        retention: u8,
        force: bool,
    ) -> Outcome {
        let now = self.now();
        let is = self.model.keys[key].is.at(now);
        let completion =
            Completion { head: &[], response: Some(&body), retention: retention_of(retention) };
        let (scope, bytes) = (scope(), name(key));
        let key_ref = KeyRef::new(&scope, &bytes).unwrap();
        let resolution =
            Resolution::Complete { fingerprint: Some(print_of(key, false)), completion };
        let post = match &is {
            Is::Held(held) => {
                Is::Done(done(held, 0, &[], Some(body.clone()), completion.retention, now))
            }
            Is::Absent => {
                let retention = completion.retention.unwrap_or(ms(RETENTION_MS).into());
                Is::Done(Done {
                    token: 0,
                    other: false,
                    attempt: 0,
                    head: Bytes(vec![]),
                    body: Some(Bytes(body.clone())),
                    at: now,
                    replay_until: now + retention.replay_for.as_millis() as u64,
                    expires: now + retention.remember_for.as_millis() as u64,
                })
            }
            Is::Done(_) => is.clone(),
        };
        let result =
            self.store().resolve_with(key_ref, resolution, ResolveOptions::new().force(force));
        self.heard(key, &result, post.clone())?;
        match &is {
            Is::Done(_) => {
                assert_eq!(result, Err(StoreError::AlreadyCompleted));
                return Ok(());
            }
            Is::Held(held) if in_flight(held, now) && !force => {
                assert!(matches!(result, Err(StoreError::NeedsForce { .. })));
                return Ok(());
            }
            _ => {}
        }
        if body.len() > MAX_RESPONSE {
            assert!(matches!(result, Err(StoreError::ResponseTooLarge { .. })));
            return Ok(());
        }
        if self.refused(&result) {
            return Ok(());
        }
        assert_eq!(result, Ok(()));
        let entry = self.store().get(key_ref).unwrap().expect("just completed");
        self.model.token(entry.token.get());
        let Is::Done(mut done) = post else { unreachable!() };
        done.token = entry.token.get();
        self.model.set(key, Is::Done(done), true);
        self.get(key)
    }

    pub fn free(&mut self, key: usize, force: bool, free: bool) -> Outcome {
        let now = self.now();
        let is = self.model.keys[key].is.at(now);
        let resolution = if free { Resolution::Free } else { Resolution::Forget };
        let (scope, bytes) = (scope(), name(key));
        let key_ref = KeyRef::new(&scope, &bytes).unwrap();
        let result =
            self.store().resolve_with(key_ref, resolution, ResolveOptions::new().force(force));
        self.heard(key, &result, Is::Absent)?;
        match &is {
            Is::Absent => {
                assert!(matches!(result, Err(StoreError::NotApplicable { .. })));
                return Ok(());
            }
            Is::Done(_) if free => {
                assert!(matches!(result, Err(StoreError::NotApplicable { .. })));
                return Ok(());
            }
            Is::Done(_) if !force => {
                assert!(matches!(result, Err(StoreError::NeedsForce { .. })));
                return Ok(());
            }
            Is::Held(held) if in_flight(held, now) && !force => {
                assert!(matches!(result, Err(StoreError::NeedsForce { .. })));
                return Ok(());
            }
            _ => {}
        }
        if self.refused(&result) {
            return Ok(());
        }
        assert_eq!(result, Ok(()));
        self.model.set(key, Is::Absent, true);
        Ok(())
    }

    pub fn replace(&mut self, key: usize, body: Vec<u8>) -> Outcome {
        let now = self.now();
        let is = self.model.keys[key].is.at(now);
        let (scope, bytes) = (scope(), name(key));
        let key_ref = KeyRef::new(&scope, &bytes).unwrap();
        let resolution = Resolution::Replace { head: HEAD, response: Some(&body) };
        let mut post = is.clone();
        if let Is::Done(done) = &mut post {
            // Of the new token nothing is known but that it is higher.
            done.token = 0;
            (done.head, done.body) = (Bytes(HEAD.to_vec()), Some(Bytes(body.clone())));
        }
        let result = self.store().resolve(key_ref, resolution);
        self.heard(key, &result, post.clone())?;
        let Is::Done(mut done) = post else {
            assert!(matches!(
                result,
                Err(StoreError::NotApplicable { .. } | StoreError::NeedsForce { .. })
            ));
            return Ok(());
        };
        if done.replay_until <= now {
            assert!(matches!(result, Err(StoreError::NotApplicable { .. })));
            return Ok(());
        }
        if HEAD.len() + body.len() > MAX_RESPONSE {
            assert!(matches!(result, Err(StoreError::ResponseTooLarge { .. })));
            return Ok(());
        }
        if self.refused(&result) {
            return Ok(());
        }
        assert_eq!(result, Ok(()));
        let entry = self.store().get(key_ref).unwrap().expect("just replaced");
        self.model.token(entry.token.get());
        done.token = entry.token.get();
        self.model.set(key, Is::Done(done), true);
        self.get(key)
    }

    /// Of all keys but those that a holder may have nothing is left, in no file.
    pub fn erase(&mut self, force: bool) -> Outcome {
        let now = self.now();
        let is: Vec<Is> = self.model.keys.iter().map(|key| key.is.at(now)).collect();
        let stays = |is: &&Is| match is {
            Is::Held(held) => !force && (held.lives || in_flight(held, now)),
            _ => false,
        };
        let result = self.store().erase_scope(&scope(), force);
        let poisoned = result == Err(StoreError::Poisoned);
        assert!(!poisoned || self.faulty(), "poisoned without a fault");
        if self.dead() || poisoned {
            let erased = is.iter().enumerate().filter(|(_, is)| !stays(is));
            erased.for_each(|(key, _)| self.model.keys[key].maybe.push(Is::Absent));
            return Err(Struck);
        }
        if self.refused(&result) {
            // Each is as it was, or forgotten already.
            for (key, _) in is.iter().enumerate().filter(|(_, is)| !stays(is)) {
                let (scope, name) = (scope(), name(key));
                let found = self.store().get(KeyRef::new(&scope, &name).unwrap()).unwrap();
                if found.is_none() {
                    self.model.set(key, Is::Absent, false);
                }
            }
            return self.entries();
        }
        let erased = result.expect("erase");
        let held = is.iter().filter(stays).count() as u64;
        let keys = is.iter().filter(|is| **is != Is::Absent).count() as u64 - held;
        // (Those that are left are counted by their hashes.)
        let left = if self.model.setting.hash_bits == 64 { held } else { held.min(1) };
        assert_eq!((erased.keys, erased.held.max(left)), (keys, erased.held), "{is:?}");
        assert_eq!(erased.held > 0, held > 0, "{is:?}");
        assert!(erased.held <= held, "{erased:?} {is:?}");
        self.model.all_durable();
        for (key, _) in is.iter().enumerate().filter(|(_, is)| !stays(is)) {
            self.model.set(key, Is::Absent, true);
        }
        if held == 0 {
            self.has_nothing();
        }
        self.entries()
    }

    /// No file has the scope, which is in each record and each claim.
    fn has_nothing(&self) {
        const PAGE: usize = 4096;
        let needle = scope();
        let needle = needle.as_bytes();
        for (file, bytes) in self.disk.snapshot() {
            for from in (0..bytes.len()).step_by(PAGE) {
                let page = &bytes[from..bytes.len().min(from + PAGE)];
                // Most of a small store's files is blank.
                if *page != [0; PAGE][..page.len()] {
                    let page = &bytes[from..bytes.len().min(from + PAGE + needle.len() - 1)];
                    let found = page.windows(needle.len()).any(|bytes| bytes == needle);
                    assert!(!found, "{file} has something of it, behind {from}");
                }
            }
        }
    }

    pub fn get(&mut self, key: usize) -> Outcome {
        let (scope, name) = (scope(), name(key));
        let now = self.now();
        let found = self.store().get(KeyRef::new(&scope, &name).unwrap());
        if self.dead() {
            return Err(Struck);
        }
        let is = self.model.keys[key].is.at(now);
        if let Err(why) = same(&is, found.expect("get").as_ref(), now) {
            panic!("key {key}: {why}; model {is:?}");
        }
        Ok(())
    }

    pub fn entries(&mut self) -> Outcome {
        let now = self.now();
        let listed: Vec<Entry> = match self.store().entries(Filter::ALL).collect() {
            Ok(listed) => listed,
            Err(error) => panic!("entries: {error:?}"),
        };
        if self.dead() {
            return Err(Struck);
        }
        let mut by_key = BTreeMap::new();
        for entry in listed {
            let twice = by_key.insert(entry.key.key().to_vec(), entry);
            assert!(twice.is_none(), "listed twice: {twice:?}");
        }
        for key in 0..KEYS {
            let is = self.model.keys[key].is.at(now);
            if let Err(why) = same(&is, by_key.remove(&name(key)).as_ref(), now) {
                panic!("entries, key {key}: {why}; model {is:?}");
            }
        }
        assert!(by_key.is_empty(), "nobody's: {by_key:?}");
        Ok(())
    }

    pub fn is_poisoned(&self) -> bool {
        self.store().stats().poisoned.is_some()
    }

    /// On a poisoned store: what was acknowledged is still answered, nothing is acknowledged any
    /// more, no claim is granted.
    pub fn check_poisoned(&mut self) {
        let now = self.now();
        for key in 0..KEYS {
            let (scope, name) = (scope(), name(key));
            let key_ref = KeyRef::new(&scope, &name).unwrap();
            let model = self.model.keys[key].clone();
            let certain = model.maybe.is_empty().then(|| model.is.at(now));
            let print = |other| print_of_named(&name, other);
            match certain {
                Some(Is::Done(done)) => match self.store().begin(key_ref, print(done.other)) {
                    Ok(Begin::Replay(record)) => check_record(&done, &record, now),
                    other => panic!("was acknowledged, and is {other:?} on a poisoned store"),
                },
                _ => match self.store().begin(key_ref, print(false)) {
                    Ok(Begin::Execute(claim)) => panic!("{claim:?} granted by a poisoned store"),
                    Ok(Begin::Replay(record)) => {
                        // (A replacement may have the same bytes. Then nothing says that it was.)
                        let mut may = [&model.is].into_iter().chain(&model.maybe);
                        let known = may.find(|is| match is {
                            Is::Done(done) => {
                                let body = done.body.as_deref();
                                record.response() == body.filter(|_| now < done.replay_until)
                                    && record.head() == &*done.head
                            }
                            _ => false,
                        });
                        let Some(known) = known.cloned() else {
                            panic!("{record:?} replayed, but the key is {model:?}");
                        };
                        // What has been shown must be there for ever, unless an operator has
                        // forgotten or replaced it: what came of that is decided by the opening.
                        if self.model.setting.syncs_completions() {
                            let maybe =
                                if known == model.is { model.maybe.clone() } else { vec![] };
                            let shown = KeyModel { is: known, past: vec![], maybe };
                            self.model.keys[key] = shown;
                        }
                    }
                    Ok(_) | Err(BeginError::Poisoned) => {}
                    Err(error) => panic!("{error:?} from a poisoned store"),
                },
            }
        }
        for handle in &mut self.handles {
            assert!(handle.claim.complete(b"after").is_err());
            assert!(handle.claim.save_checkpoint(b"after").is_err());
            assert!(handle.claim.ensure_durable().is_err());
        }
        assert_eq!(self.store().flush(), Err(StoreError::Poisoned));
    }
}
