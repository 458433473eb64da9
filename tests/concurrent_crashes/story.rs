//! What happened, call by call, and the words to tell it in.

use onlyonce::storage::SimStorage;
use std::{fmt, sync::Mutex};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    Begin,
    TakeOver,
    Complete(u64, u64),
    Fail(u64),
    Checkpoint(u64),
    EnsureDurable(u64),
    Release(u64),
    Forget,
    Free,
    /// All keys of the scope are forgotten, and their bytes overwritten.
    Erase,
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
    /// It does not apply, because the key is completed.
    Completed,
}

#[derive(Clone, Debug)]
pub struct Call {
    pub key: usize,
    pub caller: usize,
    pub what: What,
    pub began: usize,
    pub ended: usize,
    /// `None`: the crash came first, it failed, or a future was dropped. It may have taken effect.
    pub answer: Option<Answer>,
    /// A flush that began after it had ended has ended.
    pub flushed: bool,
    /// Whether it took effect is not known, though its answer is: a copy was made meanwhile.
    pub optional: bool,
}

impl What {
    /// Without numbers.
    pub fn name(self) -> &'static str {
        match self {
            What::Begin => "begins",
            What::TakeOver => "takes over",
            What::Complete(..) => "completes",
            What::Fail(_) => "fails",
            What::Checkpoint(_) => "saves a checkpoint of",
            What::EnsureDurable(_) => "makes durable",
            What::Release(_) => "releases",
            What::Forget => "forgets",
            What::Free => "frees",
            What::Erase => "erases the scope of",
            What::Decide(_) => "decides",
            What::Undo => "lets go of",
            What::Tick => "waits beyond the retention of",
        }
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Answer::Granted(token) => write!(f, "it is A's own now, under token {token}"),
            Answer::Replay(response) => write!(f, "it has response {response} already"),
            Answer::Busy => f.write_str("it is in flight or interrupted"),
            Answer::Done => f.write_str("done"),
            Answer::Fenced => f.write_str("fenced"),
            Answer::Completed => f.write_str("it is completed already"),
            Answer::Refused => f.write_str("it does not apply"),
        }
    }
}

/// A copy, and the time that it took.
#[derive(Clone)]
pub struct Copy {
    pub began: usize,
    pub ended: usize,
    pub disk: SimStorage,
}

/// The calls of all callers, in the order in which they began.
#[derive(Default)]
pub struct Story(Mutex<Told>);

#[derive(Default)]
struct Told {
    now: usize,
    calls: Vec<Call>,
    copies: Vec<Copy>,
    /// What else happened, and when.
    events: Vec<(usize, String)>,
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
            told.calls.push(Call {
                key,
                caller,
                what,
                began,
                ended,
                answer: None,
                flushed: false,
                optional: false,
            });
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

    /// A flush, or an orderly closing.
    pub fn flush(&self, name: &str, flush: impl FnOnce() -> bool) {
        let began = self.now();
        let flushed = flush();
        let told = &mut *self.0.lock().unwrap();
        if flushed && !told.crashed {
            let covered = told.calls.iter_mut().filter(|call| call.ended <= began);
            covered.for_each(|call| call.flushed = true);
            told.now += 1;
            told.events.push((began, format!("{name} begins")));
            told.events.push((told.now, format!("{name} ends")));
        }
    }

    /// A copy of the store.
    pub fn copy(&self, copy: impl FnOnce() -> Option<SimStorage>) {
        let began = self.now();
        let Some(disk) = copy() else { return };
        let told = &mut *self.0.lock().unwrap();
        if !told.crashed {
            told.now += 1;
            told.events.push((began, "a backup begins".into()));
            told.events.push((told.now, "a backup ends".into()));
            told.copies.push(Copy { began, ended: told.now, disk });
        }
    }

    pub fn copies(&self) -> Vec<Copy> {
        std::mem::take(&mut self.0.lock().unwrap().copies)
    }

    fn now(&self) -> usize {
        self.0.lock().unwrap().now
    }

    pub fn event(&self, what: impl Into<String>) {
        let told = &mut *self.0.lock().unwrap();
        told.now += 1;
        let now = told.now;
        told.events.push((now, what.into()));
    }

    /// How many calls of a caller have ended in an error.
    pub fn unanswered(&self, caller: usize) -> usize {
        let told = self.0.lock().unwrap();
        let failed = |call: &&Call| call.caller == caller && call.answer.is_none();
        told.calls.iter().filter(failed).count()
    }

    pub fn is_over(&self) -> bool {
        self.0.lock().unwrap().crashed
    }

    /// From here on nothing is answered: the disk is about to stop.
    pub fn crash(&self, what: &str) {
        self.event(what);
        self.0.lock().unwrap().crashed = true;
    }

    pub fn calls(&self) -> Vec<Call> {
        self.0.lock().unwrap().calls.clone()
    }

    /// The story, a line for each beginning and each end, in their order.
    pub fn tell(&self) -> String {
        let told = self.0.lock().unwrap();
        let mut lines = told.events.clone();
        for call in &told.calls {
            let name = char::from(b'A' + call.caller as u8);
            let key = super::name_of(call.key);
            let begins = format!("{name} {} {key}", call.what.name());
            let numbers = match call.what {
                What::Complete(token, response) => {
                    format!(", held under token {token}, with response {response}")
                }
                What::Decide(response) => format!(": its response is {response}"),
                _ => String::new(),
            };
            lines.push((call.began, format!("{begins}{numbers}")));
            if let Some(answer) = call.answer {
                let answer = answer.to_string().replace("A's", &format!("{name}'s"));
                lines.push((call.ended, format!("    {name}, who {}: {answer}", &begins[2..])));
            } else if call.ended < usize::MAX {
                lines.push((call.ended, format!("    {name}, who {}: an error", &begins[2..])));
            }
        }
        lines.sort_by_key(|(at, _)| *at);
        lines.iter().map(|(_, line)| format!("{line}\n")).collect()
    }
}
