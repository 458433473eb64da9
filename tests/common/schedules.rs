//! Whole stores under schedules that shuttle chooses, and futures that are polled under them.

use shuttle::{
    Config, FailurePersistence, MaxSteps, Runner,
    future::block_on,
    scheduler::{PctScheduler, RandomScheduler, ReplayScheduler},
    sync::{Condvar, Mutex},
    thread,
};
use std::{
    future::Future,
    pin::pin,
    sync::Arc,
    task::{Context, Poll, Wake, Waker},
    time::Duration,
};

/// A number from the environment.
pub fn number(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).map_or(otherwise, |n| n.parse().unwrap_or_else(|_| panic!("{name}")))
}

/// How schedules are run. A failure leaves its schedule in a file, unless it is to be silent.
pub fn config(silent: bool) -> Config {
    let mut config = Config::default();
    config.stack_size = 1 << 20;
    config.max_steps = MaxSteps::FailAfter(3_000_000);
    config.failure_persistence = match silent {
        true => FailurePersistence::None,
        false => FailurePersistence::File(None),
    };
    config.silence_warnings = true;
    config
}

/// Runs the schedule that `SCHEDULE` names, otherwise this many, from `seed` on. Half of them
/// choose another thread at each step, half hold few changes of thread at rare places.
pub fn run(times: usize, seed: u64, silent: bool, test: fn()) {
    if let Ok(file) = std::env::var("SCHEDULE") {
        let replay = ReplayScheduler::new_from_file(file).unwrap();
        Runner::new(replay, config(silent)).run(test);
        return;
    }
    let random = RandomScheduler::new_from_seed(seed, times / 2);
    Runner::new(random, config(silent)).run(test);
    let few = PctScheduler::new_from_seed(seed, 4, times / 2);
    Runner::new(few, config(silent)).run(test);
}

/// Polls so often, then drops the future.
pub fn polled<F: Future>(future: F, times: u64) -> Option<F::Output> {
    let mut future = pin!(future);
    let mut left = times;
    block_on(std::future::poll_fn(|context| {
        if left == 0 {
            return Poll::Ready(None);
        }
        left -= 1;
        future.as_mut().poll(context).map(Some)
    }))
}

#[derive(Default)]
struct Bell {
    rung: Mutex<bool>,
    changed: Condvar,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        *self.rung.lock().unwrap() = true;
        self.changed.notify_all();
    }
}

/// Polls to the end, each time long after it was woken: `delay` says how many turns of others
/// later.
pub fn polled_late<F: Future>(future: F, mut delay: impl FnMut() -> usize) -> F::Output {
    let (mut future, bell) = (pin!(future), Arc::new(Bell::default()));
    let waker = Waker::from(bell.clone());
    loop {
        if let Poll::Ready(value) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return value;
        }
        let mut rung = bell.rung.lock().unwrap();
        while !*rung {
            rung = bell.changed.wait(rung).unwrap();
        }
        *rung = false;
        drop(rung);
        (0..delay()).for_each(|_| thread::sleep(Duration::ZERO));
    }
}
