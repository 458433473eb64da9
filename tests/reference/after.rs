//! The end of a process, the opening after it, and what must be found then.

use super::*;

impl World {
    pub fn forget_handles(&mut self) {
        self.handles.clear();
        self.seen.clear();
    }

    pub fn reopen(&mut self, back: bool) -> Outcome {
        let before = self.now();
        let result = self.store.take().expect("open").close().map(drop);
        self.forget_handles();
        if self.dead() || (self.faulty() && result == Err(StoreError::Poisoned)) {
            return Err(Struck);
        }
        assert_eq!(result, Ok(()));
        if back {
            self.clock.set_wall(before - 1_800_000);
        }
        if let Err(error) = self.open() {
            assert!(self.faulty(), "closed in good order, but {error:?}");
            return Err(Struck);
        }
        if self.dead() {
            return Err(Struck);
        }
        assert_eq!(self.now(), before, "time goes on from where it was");
        self.clock.set_wall(before);
        self.observe(false);
        Ok(())
    }

    pub fn crash(&mut self, disk: SimStorage, power: bool) {
        let before = self.now();
        self.forget_handles();
        self.store = None;
        self.disk = disk;
        self.fault = None;
        let inspection = Inspection::open_on(Arc::new(self.disk.clone()), self.clock.clone(), None);
        if let Ok(all) = &inspection {
            self.compare_alone(all);
        }
        self.open().expect("opens after a crash");
        assert!(self.now() >= before, "time goes on");
        self.compare_with_inspection(&inspection.expect("what opens can be inspected"));
        self.observe(power);
    }

    /// A backup is what a process that is killed now would leave, with all of it durable.
    pub fn backup(&mut self) -> Outcome {
        let copy = SimStorage::new(1);
        let result = self.store().backup_on(&copy);
        if self.dead() || (self.faulty() && result.is_err()) {
            return Err(Struck);
        }
        let backup = result.unwrap_or_else(|error| panic!("no backup: {error}"));
        assert_eq!(backup.problems, []);
        self.model.all_durable();
        let mut beside = self.again(copy);
        beside.adopt(beside.disk.clone(), false);
        beside.apply(Op::Entries)?;
        beside.leave();
        Ok(())
    }

    /// The process has ended: its store and handles are gone.
    pub fn leave(&mut self) {
        self.forget_handles();
        self.store = None;
    }

    /// The same moment of the model, on another disk. Time passes for each by itself: what one lives
    /// through does not make the other's claims expire.
    pub fn again(&self, disk: SimStorage) -> World {
        World {
            model: self.model.clone(),
            clock: ManualClock::at(self.clock.wall_ms()),
            disk,
            store: None,
            handles: vec![],
            seen: vec![],
            fault: None,
        }
    }

    pub fn try_open_on(&self, disk: &SimStorage) -> Result<Store, OpenError> {
        let options = self.model.setting.options(&self.clock);
        options.open_on(Arc::new(disk.clone()) as Arc<dyn Storage>)
    }

    /// Opens what a crash has left, and compares.
    pub fn adopt(&mut self, disk: SimStorage, power: bool) {
        self.disk = disk;
        self.fault = None;
        self.open().unwrap_or_else(|error| panic!("does not open after a crash: {error:?}"));
        self.observe(power);
    }

    /// Whoever looks at the directory before it is opened sees what the opening will find.
    fn compare_with_inspection(&self, inspection: &Inspection) {
        let now = self.now();
        if self.model.setting.hash_bits < 64 || inspection.info().now_ms != now {
            return;
        }
        assert_eq!(inspection.verify(|_| {}).problems, []);
        let scope = scope();
        for key in 0..KEYS {
            let bytes = name(key);
            let key_ref = KeyRef::new(&scope, &bytes).unwrap();
            let seen = inspection.get(key_ref).unwrap().map(|item| item.entry);
            let found = self.store().get(key_ref).unwrap();
            if let (Some(Entry { state: State::Interrupted { at, .. }, .. }), None) =
                (&seen, &found)
            {
                // How long an interrupted key is kept is the store's option.
                assert!(at + INTERRUPTED_MS <= now, "key {key} is lost");
                continue;
            }
            assert_eq!(short(&seen), short(&found), "key {key}");
        }
    }

    /// An inspection of one key finds of it what one of all does.
    fn compare_alone(&self, all: &Inspection) {
        if self.model.setting.hash_bits < 64 {
            return;
        }
        let scope = scope();
        for key in 0..KEYS {
            let bytes = name(key);
            let key_ref = KeyRef::new(&scope, &bytes).unwrap();
            let disk = Arc::new(self.disk.clone());
            let alone = Inspection::open_key_on(disk, self.clock.clone(), None, key_ref).unwrap();
            let [alone, all] = [&alone, all].map(|seen| short(&seen.get(key_ref)));
            assert_eq!(alone, all, "key {key}");
        }
    }

    /// After an opening: what each key is must be one of what it may be, and is believed.
    pub fn observe(&mut self, power: bool) {
        let now = self.now();
        let scope = scope();
        for key in 0..KEYS {
            let bytes = name(key);
            let key_ref = KeyRef::new(&scope, &bytes).unwrap();
            let found = self
                .store()
                .get(key_ref)
                .unwrap_or_else(|e| panic!("get of key {key} after opening: {e:?}"));
            let model = &self.model.keys[key];
            let mut may = vec![model.is.clone()];
            may.extend(model.maybe.iter().cloned());
            if power {
                may.extend(model.past.iter().cloned());
            }
            // What failed is in the log and its checkpoints are not: in `Buffered` either can be
            // lost without the other.
            let mut answers = vec![];
            if power && self.model.setting.durability == 2 && !model.past.is_empty() {
                answers = may.iter().filter_map(Is::answer).collect();
            }
            let mut why = Vec::new();
            let mut adopted = None;
            for candidate in &may {
                match self.after_crash(candidate, found.as_ref(), now, &answers) {
                    Ok(is) => {
                        adopted = Some(is);
                        break;
                    }
                    Err(because) => why.push(because),
                }
            }
            let Some(is) = adopted else {
                panic!(
                    "key {key} after {}: {}\nis none of {may:?}\nbecause {why:#?}",
                    if power { "a loss of power" } else { "a restart" },
                    short(&found),
                );
            };
            if let Some(entry) = &found {
                self.model.highest_token = self.model.highest_token.max(entry.token.get());
            }
            self.model.keys[key] = KeyModel { is, past: vec![], maybe: vec![] };
            self.check_by_begin(key);
        }
        let _ = self.entries();
    }

    /// What a begin says must fit what `get` says.
    pub fn check_by_begin(&mut self, key: usize) {
        let now = self.now();
        let is = self.model.keys[key].is.at(now);
        let other = match &is {
            Is::Absent => return,
            Is::Held(held) => held.other,
            Is::Done(done) => done.other,
        };
        for other in [other, !other] {
            let handles = self.handles.len();
            self.begin(key, other, 0, None).expect("no fault now");
            assert_eq!(self.handles.len(), handles);
        }
    }

    /// Whether what was found is what becomes of `is` by a crash; and then what it is exactly.
    pub fn after_crash(
        &self,
        is: &Is,
        found: Option<&Entry>,
        now: u64,
        answers: &[(u64, Option<Bytes>)],
    ) -> Result<Is, String> {
        match (is, found) {
            (Is::Absent, None) => Ok(Is::Absent),
            (Is::Done(done), None) if done.expires <= now => Ok(Is::Absent),
            (Is::Held(held), None) => {
                // The handle died with the process.
                let over = Held { lives: false, ..held.clone() };
                match over.phase {
                    Phase::Interrupted { at, .. } if at + INTERRUPTED_MS <= now => Ok(Is::Absent),
                    // In flight when the process died, or the lease had passed without anybody
                    // writing that down: interrupted at the earliest when it passed.
                    Phase::InFlight { until } if until + INTERRUPTED_MS <= now => Ok(Is::Absent),
                    _ => Err("it is lost".into()),
                }
            }
            (Is::Done(done), Some(entry)) => {
                let mut done = done.clone();
                if done.token == 0 {
                    if entry.token.get() <= self.model.highest_token {
                        return Err("token is old".into());
                    }
                    done.token = entry.token.get();
                }
                same(&Is::Done(done.clone()).at(now), Some(entry), now)?;
                Ok(Is::Done(done))
            }
            (Is::Held(held), Some(entry)) => {
                let State::Interrupted { reason, at, holder_gone, checkpoint, answer } =
                    &entry.state
                else {
                    return Err("not interrupted".into());
                };
                let mut held = held.clone();
                if held.token == 0 {
                    if entry.token.get() <= self.model.highest_token {
                        return Err("token is old".into());
                    }
                    held.token = entry.token.get();
                }
                if held.token != entry.token.get() {
                    return Err(format!("token {} of another attempt", entry.token));
                }
                if held.attempt != entry.attempts {
                    return Err("another number of attempts".into());
                }
                if !holder_gone {
                    return Err("the holder is gone".into());
                }
                if checkpoint.as_deref() != held.checkpoint.as_deref() {
                    return Err("another checkpoint".into());
                }
                let says = answer.as_deref().map(|answer| Bytes(answer.to_vec()));
                if says != held.answer && answers.contains(&(held.token, says.clone())) {
                    held.answer = says.clone();
                    held.phase = Phase::Interrupted { reason: *reason, at: *at };
                }
                if says != held.answer
                    && says.as_ref().is_some_and(|says| held.withdrawn.contains(says))
                    && !matches!(held.phase, Phase::Interrupted { reason: Reason::Failed, .. })
                {
                    held.answer = says;
                }
                // The record of a failure is kept as long as an interrupted key is; a holder that
                // lives keeps the key for longer, and then nothing tells of the failure.
                if answer.is_none() && held.failed_at + INTERRUPTED_MS <= now {
                    held.answer = None;
                    if matches!(held.phase, Phase::Interrupted { reason: Reason::Failed, .. }) {
                        held.phase = Phase::Interrupted { reason: *reason, at: *at };
                    }
                }
                if answer.as_deref() != held.answer.as_deref() {
                    return Err("another answer".into());
                }
                match held.phase {
                    Phase::Interrupted { reason: Reason::Failed, at: when } => {
                        // The interruption counts from the failure or from the crash, and from
                        // then on from the same moment.
                        let since = if held.noted { when..=when } else { when..=now };
                        if *reason != Reason::Failed || !since.contains(at) {
                            return Err(format!("failed at {when}, not {reason:?} at {at}"));
                        }
                    }
                    Phase::Interrupted { reason: before, at: when } => {
                        let failed_before = *reason == Reason::Failed && held.answer.is_some();
                        if ![before, Reason::Crashed].contains(reason) && !failed_before {
                            return Err(format!("reason {reason:?}"));
                        }
                        if held.noted && !self.model.setting.tight && *at != when {
                            return Err(format!("interrupted anew at {at}"));
                        }
                        if *at < when || *at > now {
                            return Err(format!("interrupted at {at}"));
                        }
                    }
                    Phase::InFlight { .. } => {
                        if *at > now {
                            return Err(format!("interrupted at {at}"));
                        }
                    }
                }
                held.phase = Phase::Interrupted { reason: *reason, at: *at };
                held.lives = false;
                held.noted = true;
                held.before = None;
                Ok(Is::Held(held))
            }
            (Is::Absent, Some(_)) => Err("it was absent".into()),
            (Is::Done(_), None) => Err("the record is lost".into()),
        }
    }

    /// Everything ends: claims are dropped, keys expire, segments come back. Nothing may leak.
    pub fn wind_down(&mut self) {
        while !self.handles.is_empty() {
            self.drop_claim(0, false).expect("no fault");
        }
        self.seen.clear();
        self.clock.advance(ms(60 * 24 * 3_600_000));
        for _ in 0..6 {
            self.clock.advance(ms(1));
            self.store().housekeep().unwrap();
        }
        self.entries().expect("no fault");
        let stats = self.store().stats();
        assert_eq!((stats.holders, stats.in_flight, stats.interrupted), (0, 0, 0), "{stats:?}");
        assert_eq!(stats.records, 0, "index entries stay: {stats:?}");
        assert_eq!(stats.segments_free, stats.segments, "segments stay: {stats:?}");
        let frame_max = stats.segment_bytes as i64 - stats.space_free as i64;
        let each = frame_max / stats.segments as i64;
        assert!(each < 12_000, "space has leaked: {stats:?}");
        assert_eq!(each * stats.segments as i64, frame_max, "space has leaked: {stats:?}");
        let cells = if self.model.setting.tight { 14 } else { 214 };
        assert_eq!(stats.cells_free, cells, "cells have leaked: {stats:?}");
    }
}
