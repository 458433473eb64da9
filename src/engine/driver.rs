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
struct Drive<T, E, F> {
    engine: Arc<Engine>,
    watch: Watch,
    attempt: F,
    stage: Stage<T, E>,
}

enum Stage<T, E> {
    /// To be tried.
    Untaken,
    /// Lacking: for the next try.
    Lacking(Waiting),
    /// Taken: its value, and what it waits for before the answer.
    Taken(T, Waiting, Started),
    Over(Result<T, E>),
    Answered,
}

impl<T, E, F> Drive<T, E, F>
where
    F: FnMut(&Engine) -> StepResult<T, E>,
    E: From<Poisoned> + From<Forked>,
{
    fn new(engine: &Arc<Engine>, watch: Watch, attempt: F) -> Self {
        Drive { engine: engine.clone(), watch, attempt, stage: Stage::Untaken }
    }

    fn waiting(&self, wait: Wait) -> Waiting {
        Waiting { engine: self.engine.clone(), wait, place: WaiterId::default() }
    }

    fn poll(&mut self, caller: Caller, context: &mut Context<'_>) -> Poll<Result<T, E>> {
        if caller == Caller::Task {
            // It may have begun in the parent, and be polled in a forked child.
            self.engine.check_process()?;
        }
        std::task::ready!(self.poll_taken(caller, context));
        self.poll_answer(caller, context)
    }

    /// Ready when the step was taken, or refused.
    fn poll_taken(&mut self, caller: Caller, context: &mut Context<'_>) -> Poll<()> {
        loop {
            match &mut self.stage {
                Stage::Untaken => {
                    let tried = (self.attempt)(&self.engine);
                    self.after(tried);
                }
                Stage::Lacking(waiting) => {
                    let waited = std::task::ready!(waiting.poll(caller, context));
                    self.stage = match waited {
                        Ok(()) => Stage::Untaken,
                        Err(poisoned) => Stage::Over(Err(poisoned.into())),
                    };
                }
                Stage::Taken(..) | Stage::Over(_) | Stage::Answered => return Poll::Ready(()),
            }
        }
    }

    /// The answer of a step that was taken or refused.
    fn poll_answer(&mut self, caller: Caller, context: &mut Context<'_>) -> Poll<Result<T, E>> {
        let waited = match &mut self.stage {
            Stage::Taken(_, waiting, started) => {
                let waited = std::task::ready!(waiting.poll(caller, context));
                self.engine.timings.end(Timed::CommitWait, *started);
                waited
            }
            _ => Ok(()),
        };
        self.watch.answered(&self.engine.timings);
        Poll::Ready(match std::mem::replace(&mut self.stage, Stage::Answered) {
            Stage::Taken(value, ..) => waited.map(|()| value).map_err(E::from),
            Stage::Over(result) => result,
            _ => unreachable!("it was taken or refused, and not answered yet"),
        })
    }

    /// Notes the result of a try.
    fn after(&mut self, tried: StepResult<T, E>) {
        self.stage = match tried {
            Ok(Step { value, wait: None }) => Stage::Over(Ok(value)),
            Ok(Step { value, wait: Some(wait) }) => {
                let started = self.engine.timings.start();
                Stage::Taken(value, self.waiting(wait), started)
            }
            Err(Blocked::Wait(wait)) => Stage::Lacking(self.waiting(wait)),
            Err(Blocked::Fail(error)) => {
                self.engine.tell_if_poisoned();
                Stage::Over(Err(error))
            }
        };
    }

    /// What it waits for is waited for by this caller already.
    fn counts_as_no_caller(&mut self) {
        if let Stage::Taken(_, waiting, _) = &mut self.stage {
            waiting.place.counts_as_no_caller();
        }
    }
}

/// Several steps of one caller: taken one after the other, and answered together, so that one
/// group commit covers them. Each has its own outcome, the one that it would have had alone.
struct Batch<T, E, F> {
    drives: Vec<Drive<T, E, F>>,
    /// So many have been taken or refused.
    taken: usize,
    /// Of the last ones, last one first.
    answers: Vec<Result<T, E>>,
}

impl<T, E, F> Batch<T, E, F>
where
    F: FnMut(&Engine) -> StepResult<T, E>,
    E: From<Poisoned> + From<Forked>,
{
    fn new(engine: &Arc<Engine>, steps: impl Iterator<Item = (Watch, F)>) -> Self {
        let drives: Vec<_> =
            steps.map(|(watch, attempt)| Drive::new(engine, watch, attempt)).collect();
        Batch { answers: Vec::with_capacity(drives.len()), drives, taken: 0 }
    }

    fn poll(&mut self, caller: Caller, context: &mut Context<'_>) -> Poll<Vec<Result<T, E>>> {
        if caller == Caller::Task
            && let Some(Err(forked)) = self.drives.first().map(|drive| drive.engine.check_process())
        {
            let over = |drive: &mut Drive<T, E, F>| drive.stage = Stage::Over(Err(forked.into()));
            self.drives.iter_mut().for_each(over);
        }
        while let Some(drive) = self.drives.get_mut(self.taken) {
            std::task::ready!(drive.poll_taken(caller, context));
            self.taken += 1;
        }
        // The last one waits for the furthest position, and with that all others are answered.
        while let Some(mut drive) = self.drives.pop() {
            if !self.answers.is_empty() {
                drive.counts_as_no_caller();
            }
            match drive.poll_answer(caller, context) {
                Poll::Ready(answer) => self.answers.push(answer),
                Poll::Pending => {
                    self.drives.push(drive);
                    self.taken = self.drives.len();
                    return Poll::Pending;
                }
            }
        }
        self.answers.reverse();
        Poll::Ready(std::mem::take(&mut self.answers))
    }
}

/// Runs several steps on this thread; their outcomes are in their order.
pub(crate) fn run_all<T, E: From<Poisoned> + From<Forked>, F>(
    engine: &Arc<Engine>,
    steps: impl Iterator<Item = (Watch, F)>,
) -> Vec<Result<T, E>>
where
    F: FnMut(&Engine) -> StepResult<T, E>,
{
    let mut batch = Batch::new(engine, steps);
    block(|context| batch.poll(Caller::Thread, context))
}

/// Runs several steps as a future.
pub(crate) fn all<T, E: From<Poisoned> + From<Forked>, F>(
    engine: &Arc<Engine>,
    steps: impl Iterator<Item = (Watch, F)>,
) -> impl Future<Output = Vec<Result<T, E>>>
where
    F: FnMut(&Engine) -> StepResult<T, E>,
{
    let mut batch = Batch::new(engine, steps);
    poll_fn(move |context| batch.poll(Caller::Task, context))
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
    drive.after(first);
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
