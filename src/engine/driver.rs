//! Runs a step to its answer: try, wait for the lacking resource, try again, wait until the answer
//! may be given. This is the only such loop; blocking and async calls differ in how it is polled.

use crate::{
    engine::{Blocked, Engine, Step, StepResult, Wait},
    error::Forked,
    group_commit::WaiterId,
    observe::{Call, Started, Timed, Watch},
    poison::Poisoned,
    sync::wait::{Caller, block},
};
use std::{
    future::{Future, poll_fn},
    sync::Arc,
    task::{Context, Poll},
};

/// A wait that has begun; leaves its queue when dropped.
struct Waiting {
    engine: Arc<Engine>,
    wait: Wait,
    place: WaiterId,
}

impl Waiting {
    fn poll(&mut self, caller: Caller, context: &mut Context<'_>) -> Poll<Result<(), Poisoned>> {
        let polled = self.engine.poll_wait(self.wait, caller, &mut self.place, context);
        if matches!(polled, Poll::Ready(Err(_))) {
            self.engine.tell_if_poisoned();
        }
        polled
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if self.place.id.is_some() && self.engine.check_process().is_ok() {
            self.engine.leave(self.wait, &mut self.place);
        }
    }
}

/// A step on its way to its answer.
struct Drive<T, F> {
    engine: Arc<Engine>,
    watch: Watch,
    attempt: F,
    /// Lacking: for the next try.
    lacking: Option<Waiting>,
    /// Taken: its value, and what it waits for before the answer.
    taken: Option<(T, Waiting, Started)>,
}

impl<T, F> Drive<T, F> {
    fn new(engine: &Arc<Engine>, watch: Watch, attempt: F) -> Self {
        Drive { engine: engine.clone(), watch, attempt, lacking: None, taken: None }
    }

    fn waiting(&self, wait: Wait) -> Waiting {
        Waiting { engine: self.engine.clone(), wait, place: WaiterId::default() }
    }

    fn poll<E>(&mut self, caller: Caller, context: &mut Context<'_>) -> Poll<Result<T, E>>
    where
        F: FnMut(&Engine) -> StepResult<T, E>,
        E: From<Poisoned> + From<Forked>,
    {
        if caller == Caller::Task {
            // It may have begun in the parent, and be polled in a forked child.
            self.engine.check_process()?;
        }
        let polled = self.step(caller, context);
        if polled.is_ready() {
            self.watch.answered(&self.engine.timings);
        }
        polled
    }

    fn step<E>(&mut self, caller: Caller, context: &mut Context<'_>) -> Poll<Result<T, E>>
    where
        F: FnMut(&Engine) -> StepResult<T, E>,
        E: From<Poisoned>,
    {
        loop {
            if let Some((_, waiting, started)) = &mut self.taken {
                let result = std::task::ready!(waiting.poll(caller, context));
                self.engine.timings.end(Timed::CommitWait, *started);
                let (value, ..) = self.taken.take().expect("seen above");
                return Poll::Ready(result.map(|()| value).map_err(E::from));
            }
            if let Some(waiting) = &mut self.lacking {
                std::task::ready!(waiting.poll(caller, context))?;
                self.lacking = None;
            }
            let tried = (self.attempt)(&self.engine);
            if let Some(result) = self.after(tried) {
                return Poll::Ready(result);
            }
        }
    }

    /// The result of a try, or what is waited for now.
    fn after<E>(&mut self, tried: StepResult<T, E>) -> Option<Result<T, E>> {
        match tried {
            Ok(Step { value, wait: None }) => return Some(Ok(value)),
            Ok(Step { value, wait: Some(wait) }) => {
                let started = self.engine.timings.start();
                self.taken = Some((value, self.waiting(wait), started));
            }
            Err(Blocked::Wait(wait)) => self.lacking = Some(self.waiting(wait)),
            Err(Blocked::Fail(error)) => {
                self.engine.tell_if_poisoned();
                return Some(Err(error));
            }
        }
        None
    }
}

/// Runs a step on this thread, which may lead commits and prepare segments by itself. The caller
/// knows that this process is not a forked child.
#[inline]
pub(crate) fn run<T, E: From<Poisoned> + From<Forked>>(
    engine: &Arc<Engine>,
    call: Call,
    attempt: impl FnMut(&Engine) -> StepResult<T, E>,
) -> Result<T, E> {
    run_kept(engine, call, attempt, |value| value, |value| value)
}

/// As [`run`]; a value that waits for its answer is in the keeping of a `K`.
#[inline]
pub(crate) fn run_kept<T, K, E: From<Poisoned> + From<Forked>>(
    engine: &Arc<Engine>,
    call: Call,
    mut attempt: impl FnMut(&Engine) -> StepResult<T, E>,
    keep: impl Fn(T) -> K,
    give: impl FnOnce(K) -> T,
) -> Result<T, E> {
    let Call { span, watch } = call;
    let _in = span.enter();
    // A call that doesn't wait makes nothing that waiting needs.
    match attempt(engine) {
        Ok(Step { value, wait: None }) => {
            watch.answered(&engine.timings);
            Ok(value)
        }
        waits => {
            let keep = |tried: StepResult<T, E>| tried.map(|step| step.map(&keep));
            wait(engine, watch, keep(waits), |engine| keep(attempt(engine))).map(give)
        }
    }
}

/// Runs a step on that has been tried once.
#[cold]
fn wait<T, E: From<Poisoned> + From<Forked>>(
    engine: &Arc<Engine>,
    watch: Watch,
    first: StepResult<T, E>,
    attempt: impl FnMut(&Engine) -> StepResult<T, E>,
) -> Result<T, E> {
    let mut drive = Drive::new(engine, watch, attempt);
    if let Some(result) = drive.after(first) {
        drive.watch.answered(&engine.timings);
        return result;
    }
    block(|context| drive.poll(Caller::Thread, context))
}

/// Runs a step as a future, which leaves the disk to the store's threads.
pub(crate) fn future<T, E: From<Poisoned> + From<Forked>>(
    engine: &Arc<Engine>,
    call: Call,
    attempt: impl FnMut(&Engine) -> StepResult<T, E>,
) -> impl Future<Output = Result<T, E>> {
    let Call { span, watch } = call;
    let mut drive = Drive::new(engine, watch, attempt);
    poll_fn(move |context| {
        let _in = span.enter();
        drive.poll(Caller::Task, context)
    })
}
