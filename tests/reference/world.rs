//! A store beside its model: how a call is made and what its answer counts for.

use super::*;

pub struct Handle {
    pub claim: Claim,
    pub key: usize,
    pub token: u64,
    /// What it may store at most: it keeps its terms when the key is somebody else's.
    pub reserve: usize,
}

pub struct Seen {
    pub interrupted: Interrupted,
    pub key: usize,
    pub other: bool,
    pub token: u64,
}

/// The run ends: the fault has struck.
#[derive(Debug)]
pub struct Struck;

/// A store and its model.
pub struct World {
    pub model: Model,
    pub clock: ManualClock,
    pub disk: SimStorage,
    pub store: Option<Store>,
    pub handles: Vec<Handle>,
    pub seen: Vec<Seen>,
    /// The call of the disk at which a fault strikes, and whether the process dies of it.
    pub fault: Option<(u64, bool)>,
}

pub type Outcome = Result<(), Struck>;

/// Errors that say that the store is full or poisoned.
pub trait Refusal: std::fmt::Debug {
    fn poisoned(&self) -> bool;
    fn full(&self) -> bool;
}

impl Refusal for BeginError {
    fn poisoned(&self) -> bool {
        *self == BeginError::Poisoned
    }

    fn full(&self) -> bool {
        // Or the system refuses a segment's file, for a reason of its own.
        matches!(self, BeginError::StoreFull(_) | BeginError::Unavailable { .. })
    }
}

impl Refusal for ClaimError {
    fn poisoned(&self) -> bool {
        *self == ClaimError::Poisoned
    }

    fn full(&self) -> bool {
        matches!(self, ClaimError::StoreFull(_) | ClaimError::Unavailable { .. })
    }
}

impl Refusal for StoreError {
    fn poisoned(&self) -> bool {
        *self == StoreError::Poisoned
    }

    fn full(&self) -> bool {
        matches!(self, StoreError::StoreFull(_) | StoreError::Unavailable { .. })
    }
}

impl World {
    pub fn new(setting: Setting, seed: u64) -> Self {
        let mut world = World::unopened(setting, seed);
        world.open().expect("a new store opens");
        world
    }

    pub fn unopened(setting: Setting, seed: u64) -> Self {
        let disk = SimStorage::new(seed);
        // Where claims are stored through a map, the kernel may write one back half stored.
        disk.tear_mapped(!setting.syncs_claims());
        World {
            model: Model::new(setting),
            clock: ManualClock::at(T0),
            disk,
            store: None,
            handles: vec![],
            seen: vec![],
            fault: None,
        }
    }

    pub fn open(&mut self) -> Result<(), OpenError> {
        let options = self.model.setting.options(&self.clock);
        self.store = Some(options.open_on(Arc::new(self.disk.clone()) as Arc<dyn Storage>)?);
        Ok(())
    }

    pub fn store(&self) -> &Store {
        self.store.as_ref().expect("open")
    }

    pub fn now(&self) -> u64 {
        self.store().stats().now_ms
    }

    /// Whether a fault that kills has struck: what a call said is not heard by anybody.
    pub fn dead(&self) -> bool {
        self.fault.is_some_and(|(at, kills)| kills && self.disk.calls() >= at)
    }

    pub fn faulty(&self) -> bool {
        self.fault.is_some_and(|(at, _)| self.disk.calls() >= at)
    }

    /// `Err` if the answer of a call doesn't count, because the process died or the store is
    /// poisoned; the key may then also be `post`.
    pub fn heard<T, E: Refusal>(&mut self, key: usize, result: &Result<T, E>, post: Is) -> Outcome {
        let poisoned = result.as_ref().is_err_and(|error| error.poisoned());
        assert!(!poisoned || self.faulty(), "poisoned without a fault");
        if self.dead() || poisoned {
            self.model.keys[key].maybe.push(post);
            return Err(Struck);
        }
        Ok(())
    }

    /// A refusal for want of room, where the setting (or a fault) may cause one.
    pub fn refused<T, E: Refusal>(&mut self, result: &Result<T, E>) -> bool {
        let full = result.as_ref().is_err_and(|error| error.full());
        if full {
            self.model.refused_full += 1;
            assert!(self.model.setting.tight || self.faulty(), "full, with plenty of room");
        }
        full
    }

    pub fn handle(&self, number: usize) -> Option<usize> {
        (!self.handles.is_empty()).then(|| number % self.handles.len())
    }

    pub fn apply(&mut self, op: Op) -> Outcome {
        match op {
            Op::Begin { key, other, terms } => self.begin(key, other, terms, None),
            Op::TakeOver { key, other } => {
                let Some(seen) = self.see(key, other)? else { return Ok(()) };
                self.take_over(seen)
            }
            Op::See { key } => {
                if let Some(seen) = self.see(key, false)? {
                    self.seen.push(seen);
                }
                Ok(())
            }
            Op::TakeOverSeen { seen } => {
                if self.seen.is_empty() {
                    return Ok(());
                }
                let at = seen % self.seen.len();
                let seen = self.seen.swap_remove(at);
                self.take_over(seen)
            }
            Op::Complete { handle, body, retention, head } => {
                self.complete(handle, Some(body.bytes()), retention, head)
            }
            Op::CompleteWithout { handle, head } => self.complete(handle, None, 0, head),
            Op::Fail { handle, body } => self.fail(handle, body.bytes()),
            Op::Release { handle } => self.release(handle),
            Op::Undo { handle } => self.undo(handle),
            Op::NothingHappened { handle } => self.nothing_happened(handle),
            Op::Renew { handle } => self.renew(handle),
            Op::Checkpoint { handle, body } => self.checkpoint(handle, body.bytes()),
            Op::EnsureDurable { handle } => self.ensure_durable(handle),
            Op::Drop { handle } => self.drop_claim(handle, false),
            Op::Panic { handle } => self.drop_claim(handle, true),
            Op::ResolveComplete { key, body, retention, force } => {
                self.resolve_complete(key, body.bytes(), retention, force)
            }
            Op::Free { key, force } => self.free(key, force, true),
            Op::Forget { key, force } => self.free(key, force, false),
            Op::Replace { key, body } => self.replace(key, body.bytes()),
            Op::Erase { force } => self.erase(force),
            Op::Get { key } => self.get(key),
            Op::Entries => self.entries(),
            Op::Flush => {
                let result = self.store().flush();
                self.kept(result, true)
            }
            Op::Housekeep => {
                let result = self.store().housekeep();
                let buffered = self.model.setting.durability == 2;
                self.kept(result, buffered)
            }
            Op::Advance { ms: by } => {
                self.clock.advance(ms(by));
                Ok(())
            }
            Op::Reopen { back } => self.reopen(back),
            Op::Backup => self.backup(),
            Op::Kill => {
                let disk = self.disk.kill();
                self.crash(disk, false);
                Ok(())
            }
            Op::PowerCut => {
                let disk = self.disk.power_cut();
                self.crash(disk, true);
                Ok(())
            }
        }
    }

    pub fn kept(&mut self, result: Result<(), StoreError>, durable: bool) -> Outcome {
        if self.dead() || (self.faulty() && result == Err(StoreError::Poisoned)) {
            return Err(Struck);
        }
        assert_eq!(result, Ok(()));
        if durable {
            self.model.all_durable();
        }
        Ok(())
    }
}
