//! Time is injected: the store asks one [`Clock`], and its parts take `now` as an argument.

use crate::{
    limits::{START_MAX_MS, TIME_MAX_MS},
    sync::Mutex,
};
use std::{
    fmt,
    sync::Arc,
    task::Waker,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// A source of time, in milliseconds.
pub trait Clock: Send + Sync + fmt::Debug + 'static {
    /// Returns the wall-clock time since 1970. A store takes its time from this when it is opened.
    /// Later readings have no effect on expiry.
    fn wall_ms(&self) -> u64;

    /// Returns the time since some fixed point. It counts while the machine is suspended, and never
    /// steps back.
    fn boot_ms(&self) -> u64;

    /// Returns how long a thread may sleep at most when it waits for `ms` of this clock to pass, or
    /// `None` if only [`Clock::on_change`] announces changes.
    fn sleep_for(&self, ms: u64) -> Option<Duration> {
        Some(Duration::from_millis(ms))
    }

    /// Registers `waker` to be woken whenever this clock is moved by hand. Clocks that run by
    /// themselves do nothing here.
    fn on_change(&self, waker: Waker) {
        drop(waker);
    }
}

/// The machine's clock: `CLOCK_REALTIME` at open, carried on by `CLOCK_BOOTTIME`.
#[derive(Debug, Default, Clone, Copy)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn wall_ms(&self) -> u64 {
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64)
    }

    fn boot_ms(&self) -> u64 {
        #[cfg(any(target_os = "linux", target_os = "android"))]
        let id = rustix::time::ClockId::Boottime;
        #[cfg(not(any(target_os = "linux", target_os = "android")))]
        let id = rustix::time::ClockId::Monotonic;
        let t = rustix::time::clock_gettime(id);
        t.tv_sec as u64 * 1000 + t.tv_nsec as u64 / 1_000_000
    }
}

/// A clock that stands still until it is moved, for tests of this crate and of services.
///
/// ```
/// use onlyonce::{Clock, ManualClock};
/// use std::time::Duration;
/// let clock = ManualClock::at(1_000_000);
/// clock.advance(Duration::from_secs(3));
/// assert_eq!(clock.wall_ms(), 1_003_000);
/// ```
#[derive(Clone, Debug)]
pub struct ManualClock(Arc<Mutex<Hands>>);

#[derive(Debug)]
struct Hands {
    wall: u64,
    boot: u64,
    listeners: Vec<Waker>,
}

impl ManualClock {
    /// Makes a clock that shows `wall_ms` since 1970.
    pub fn at(wall_ms: u64) -> Self {
        ManualClock(Arc::new(Mutex::new(Hands { wall: wall_ms, boot: 1, listeners: vec![] })))
    }

    /// Lets time pass: moves the wall clock and the boot clock.
    pub fn advance(&self, by: Duration) {
        let ms = by.as_millis() as u64;
        self.change(|hands| {
            hands.wall += ms;
            hands.boot += ms;
        });
    }

    /// Sets the wall clock, without any time passing. An open store doesn't notice; the next
    /// opening does.
    pub fn set_wall(&self, wall_ms: u64) {
        self.change(|hands| hands.wall = wall_ms);
    }

    fn change(&self, turn: impl FnOnce(&mut Hands)) {
        let listeners = {
            let mut hands = self.0.lock();
            turn(&mut hands);
            hands.listeners.clone()
        };
        listeners.iter().for_each(Waker::wake_by_ref);
    }
}

impl Clock for ManualClock {
    fn wall_ms(&self) -> u64 {
        self.0.lock().wall
    }

    fn boot_ms(&self) -> u64 {
        self.0.lock().boot
    }

    fn sleep_for(&self, _ms: u64) -> Option<Duration> {
        None
    }

    fn on_change(&self, waker: Waker) {
        let mut hands = self.0.lock();
        hands.listeners.retain(|known| !known.will_wake(&waker));
        hands.listeners.push(waker);
    }
}

/// The reaction of an opening to a wall clock that is further ahead of the store's time than
/// [`Options::clock_jump_max`](crate::Options::clock_jump_max).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum AcceptClock {
    /// Don't believe it: time continues from the highest seen, nothing expires early, and
    /// `Stats::clock_held` is true.
    #[default]
    No,
    /// Believe it, and keep what is left of all windows: each time in the store moves by the
    /// difference, so that a record that had an hour left has another hour. For a store that was
    /// created by a machine without a clock, and for one that was closed for so long that its
    /// records would all expire at once. The difference is kept with the store, and counts at later
    /// openings and in backups. It also applies where the wall clock is *behind* the store's time
    /// by more than the bound, because an earlier clock was wrong.
    KeepingWindows,
    /// Believe it: the difference is time that has passed, and records that would have expired in
    /// it expire.
    AsIs,
}

/// A store's own time: the wall clock as accepted at open, less the store's shift, carried on by
/// the boot-time clock.
#[derive(Debug)]
pub(crate) struct StoreTime {
    clock: Arc<dyn Clock>,
    /// Where store time started at `boot_ms`; fixed for a life, so store time never steps.
    base_ms: u64,
    boot_ms: u64,
    /// How long until the latest time there is, where it stays.
    left_ms: u64,
    /// The wall clock was ahead of the highest time seen by more than the bound.
    pub(crate) held: bool,
    /// The difference to add to store time to get the accepted wall clock.
    pub(crate) shift_ms: i64,
}

/// A store's time, as far as it is known before the store is opened.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Known {
    /// The highest store time that was seen; `None` in a new store.
    pub seen: Option<u64>,
    pub shift_ms: i64,
}

impl StoreTime {
    /// Decides the time at open: never before the highest seen, and, when the wall clock is more
    /// than `jump_max` ahead of it, on from there until an operator accepts the clock.
    pub(crate) fn at_open(
        clock: Arc<dyn Clock>,
        known: Known,
        jump_max: u64,
        accept: AcceptClock,
    ) -> Self {
        let (wall, boot_ms) = (clock.wall_ms(), clock.boot_ms());
        let Known { seen, mut shift_ms } = known;
        let mut by_wall = shifted(wall, shift_ms.saturating_neg());
        let mut ahead = seen.is_some_and(|seen| by_wall > seen.saturating_add(jump_max));
        if let (Some(seen), AcceptClock::KeepingWindows) = (seen, accept) {
            let behind = seen > by_wall.saturating_add(jump_max);
            if ahead || behind {
                // Store time stays the same; only its translation to wall-clock time changes.
                shift_ms = wall.min(TIME_MAX_MS) as i64 - seen.min(TIME_MAX_MS) as i64;
                (by_wall, ahead) = (seen, false);
            }
        }
        let held = ahead && accept != AcceptClock::AsIs;
        // A later time than can be written down would be refused by the next opening.
        let by_wall = by_wall.min(START_MAX_MS);
        let base_ms = match seen {
            Some(seen) if held => seen,
            Some(seen) => by_wall.max(seen),
            None => by_wall,
        };
        let base_ms = base_ms.min(TIME_MAX_MS);
        let left_ms = TIME_MAX_MS - base_ms;
        StoreTime { clock, base_ms, boot_ms, left_ms, held, shift_ms }
    }

    pub(crate) fn now(&self) -> u64 {
        self.base_ms + self.clock.boot_ms().saturating_sub(self.boot_ms).min(self.left_ms)
    }

    /// A time of this store's, as it is shown: by the wall clock that was accepted.
    pub(crate) fn shown(&self, at_ms: u64) -> u64 {
        shifted(at_ms, self.shift_ms)
    }

    pub(crate) fn clock(&self) -> &Arc<dyn Clock> {
        &self.clock
    }
}

/// `ms` moved by `by`; 0 stays the earliest.
pub(crate) fn shifted(ms: u64, by: i64) -> u64 {
    ms.saturating_add_signed(by)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(wall: u64, seen: Option<u64>, shift_ms: i64, accept: AcceptClock) -> StoreTime {
        let known = Known { seen, shift_ms };
        StoreTime::at_open(Arc::new(ManualClock::at(wall)), known, 1000, accept)
    }

    fn opened(wall: u64, seen: Option<u64>, accept: AcceptClock) -> StoreTime {
        at(wall, seen, 0, accept)
    }

    #[test]
    fn a_clock_set_back_goes_on_from_the_highest_time_seen() {
        assert_eq!(opened(500, Some(9000), AcceptClock::No).now(), 9000);
    }

    #[test]
    fn a_jump_beyond_the_bound_is_held_until_accepted() {
        let held = opened(9000, Some(5000), AcceptClock::No);
        assert!(held.held);
        assert_eq!(held.now(), 5000);
        assert_eq!(opened(6000, Some(5000), AcceptClock::No).now(), 6000);
        assert_eq!(opened(9000, Some(5000), AcceptClock::AsIs).now(), 9000);
        assert_eq!(opened(9000, None, AcceptClock::No).now(), 9000);
    }

    #[test]
    fn windows_are_kept_by_a_shift_in_both_directions() {
        for wall in [9000, 1000] {
            let kept = opened(wall, Some(5000), AcceptClock::KeepingWindows);
            assert_eq!((kept.held, kept.now(), kept.shown(5000)), (false, 5000, wall));
            let later = at(wall + 700, Some(5000), kept.shift_ms, AcceptClock::No);
            assert_eq!((later.held, later.now(), later.shown(5700)), (false, 5700, wall + 700));
        }
        let within = opened(5900, Some(5000), AcceptClock::KeepingWindows);
        assert_eq!((within.now(), within.shift_ms), (5900, 0));
    }

    #[test]
    fn no_clock_leads_beyond_the_latest_time() {
        for seen in [None, Some(5000)] {
            let time = opened(u64::MAX, seen, AcceptClock::AsIs);
            assert_eq!(time.now(), START_MAX_MS);
        }
        // What has been seen counts, up to the end.
        let last = opened(u64::MAX, Some(TIME_MAX_MS), AcceptClock::No);
        assert_eq!(last.now(), TIME_MAX_MS);
        let clock = ManualClock::at(u64::MAX);
        let known = Known { seen: None, shift_ms: 0 };
        let time = StoreTime::at_open(Arc::new(clock.clone()), known, 1000, AcceptClock::No);
        clock.set_wall(0);
        clock.advance(Duration::from_millis(u64::MAX / 2));
        assert_eq!(time.now(), TIME_MAX_MS);
        let kept = opened(u64::MAX, Some(5000), AcceptClock::KeepingWindows);
        assert_eq!((kept.now(), kept.shown(5000)), (5000, TIME_MAX_MS));
    }

    #[test]
    fn wall_steps_at_run_time_are_not_seen() {
        let clock = ManualClock::at(5000);
        let known = Known { seen: None, shift_ms: 0 };
        let time = StoreTime::at_open(Arc::new(clock.clone()), known, 1000, AcceptClock::No);
        clock.set_wall(1);
        clock.advance(Duration::from_millis(7));
        assert_eq!(time.now(), 5007);
    }
}
