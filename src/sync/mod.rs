//! The primitives that threads of a store meet through, so that a checker of schedules can take
//! their place: loom for the parts that synchronise by hand, shuttle for whole stores.

pub(crate) mod pooled_bytes;
mod queue;
pub(crate) mod wait;

#[cfg(not(any(onlyonce_loom, onlyonce_shuttle)))]
pub(crate) use parking_lot::{Mutex, MutexGuard};
#[cfg(not(any(onlyonce_loom, onlyonce_shuttle)))]
pub(crate) use std::{sync::atomic, thread::yield_now};
#[cfg(not(onlyonce_shuttle))]
pub(crate) use std::{sync::mpsc, thread, thread_local};

#[cfg(onlyonce_loom)]
pub(crate) use loom::{sync::MutexGuard, sync::atomic, thread::yield_now};

#[cfg(onlyonce_shuttle)]
pub(crate) use shuttle::{
    sync::{MutexGuard, atomic, mpsc},
    thread, thread_local,
};

/// Mostly a point of preemption like any other. The scheduler runs a thread that yields last, so a
/// thread that always yielded would never get ahead of a slow one.
#[cfg(onlyonce_shuttle)]
pub(crate) fn yield_now() {
    use shuttle::rand::Rng;
    match shuttle::rand::thread_rng().gen_ratio(1, 4) {
        true => thread::yield_now(),
        false => preempt(),
    }
}

/// Fills it with random bytes of the system.
#[cfg(not(onlyonce_shuttle))]
pub(crate) fn random(bytes: &mut [u8]) -> Result<(), getrandom::Error> {
    getrandom::fill(bytes)
}

/// Fills it with bytes that belong to the schedule: it is repeated exactly.
#[cfg(onlyonce_shuttle)]
pub(crate) fn random(bytes: &mut [u8]) -> Result<(), getrandom::Error> {
    use shuttle::rand::RngCore;
    match shuttle::current::get_current_task() {
        Some(_) => shuttle::rand::thread_rng().fill_bytes(bytes),
        None => getrandom::fill(bytes)?,
    }
    Ok(())
}

/// Gives a lock to the thread that has waited longest for it, if there is one: for callers that
/// take it again and again, and would otherwise always win.
#[cfg(not(any(onlyonce_loom, onlyonce_shuttle)))]
pub(crate) fn unlock_fair<T>(guard: MutexGuard<'_, T>) {
    MutexGuard::unlock_fair(guard);
}

#[cfg(any(onlyonce_loom, onlyonce_shuttle))]
pub(crate) fn unlock_fair<T>(guard: MutexGuard<'_, T>) {
    drop(guard);
}

/// Another thread may run here: in the middle of a copy, and between two calls to a disk in
/// memory. Only a checker that runs its threads one at a time needs this.
#[cfg_attr(not(onlyonce_shuttle), allow(dead_code))]
#[inline(always)]
pub(crate) fn preempt() {
    #[cfg(onlyonce_shuttle)]
    if shuttle::current::get_current_task().is_some() {
        thread::sleep(std::time::Duration::ZERO);
    }
}

#[cfg(onlyonce_loom)]
use loom::sync::Mutex as Checked;
#[cfg(onlyonce_shuttle)]
use shuttle::sync::Mutex as Checked;

/// `parking_lot`'s mutex without poisoning, over a checker's.
#[cfg(any(onlyonce_loom, onlyonce_shuttle))]
#[derive(Debug, Default)]
pub(crate) struct Mutex<T>(Checked<T>);

#[cfg(any(onlyonce_loom, onlyonce_shuttle))]
impl<T> Mutex<T> {
    pub fn new(value: T) -> Self {
        Mutex(Checked::new(value))
    }

    pub fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
        self.0.try_lock().ok()
    }

    pub fn get_mut(&mut self) -> &mut T {
        self.0.get_mut().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    pub fn lock(&self) -> MutexGuard<'_, T> {
        // The panic that poisoned it has failed the model; its destructors are not to panic too.
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}
