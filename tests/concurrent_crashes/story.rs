//! What happened, call by call, and the words to tell it in.

use std::{fmt, sync::Mutex};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    Begin,
    TakeOver,
    Complete(u64, u64),
    Fail(u64),
    Checkpoint(u64),
    Release(u64),
    Forget,
    Free,
    /// An operator completes the key with this response.
    Decide(u64),
    /// The store may take back a claim that it could not deliver.
    Undo,
    /// The clock moves beyond the retention.
    Tick,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    Granted(u64),
    Replay(u64),
    /// In flight or interrupted.
    Busy,
    Done,
    Fenced,
    /// It does not apply to what the key is, or not yet.
    Refused,
}

#[derive(Clone, Debug)]
pub struct Call {
    pub key: usize,
    pub caller: usize,
    pub what: What,
    pub began: usize,
    pub ended: usize,
    /// `None`: the crash came first, or a future was dropped. It may have taken effect.
    pub answer: Option<Answer>,
    /// A flush that began after it had ended has ended.
    pub flushed: bool,
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = char::from(b'A' + self.caller as u8);
        let (what, key) = (self.what, self.key);
        write!(f, "{:>3} to {:>3}  {name}: {what:?} of key {key}: ", self.began, self.ended)?;
        match self.answer {
            Some(answer) => write!(f, "{answer:?}"),
            None => write!(f, "no answer"),
        }
    }
}

/// The calls of all callers, in the order in which they began.
#[derive(Default)]
pub struct Story(Mutex<Told>);

#[derive(Default)]
struct Told {
    now: usize,
    calls: Vec<Call>,
    crashed: bool,
}

impl Story {
    /// Notes a call and what it was answered. What is answered after the crash was not.
    pub fn call<R>(
        &self,
        caller: usize,
        key: usize,
        what: What,
        call: impl FnOnce() -> (R, Option<Answer>),
    ) -> R {
        let at = {
            let told = &mut *self.0.lock().unwrap();
            told.now += 1;
            let (began, ended) = (told.now, usize::MAX);
            let flushed = false;
            told.calls.push(Call { key, caller, what, began, ended, answer: None, flushed });
            told.calls.len() - 1
        };
        let (result, answer) = call();
        let told = &mut *self.0.lock().unwrap();
        if !told.crashed {
            told.now += 1;
            (told.calls[at].answer, told.calls[at].ended) = (answer, told.now);
        }
        result
    }

    pub fn flush(&self, flush: impl FnOnce() -> bool) {
        let began = self.0.lock().unwrap().now;
        let flushed = flush();
        let told = &mut *self.0.lock().unwrap();
        if flushed && !told.crashed {
            let covered = told.calls.iter_mut().filter(|call| call.ended <= began);
            covered.for_each(|call| call.flushed = true);
        }
    }

    pub fn is_over(&self) -> bool {
        self.0.lock().unwrap().crashed
    }

    /// From here on nothing is answered: the disk is about to stop.
    pub fn crash(&self) {
        self.0.lock().unwrap().crashed = true;
    }

    pub fn calls(&self) -> Vec<Call> {
        self.0.lock().unwrap().calls.clone()
    }
}

pub fn tell(calls: &[Call]) -> String {
    calls.iter().map(|call| format!("{call}\n")).collect()
}
