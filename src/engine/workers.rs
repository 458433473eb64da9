//! The store's threads: they lead commits that no caller leads, drain the ring, watch the time,
//! and keep segments in supply. All sleep until there is something to do.

use crate::{
    engine::Engine,
    log::MAIN_CLASS,
    sync::wait::Notifier,
    sync::{
        mpsc,
        thread::{Builder, JoinHandle, current},
    },
};
use std::{
    io,
    sync::{Arc, atomic::Ordering},
    task::Waker,
};

/// A thread that panics takes the store with it.
struct PanicTrips<'a>(&'a Engine);

impl Drop for PanicTrips<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let error = io::Error::other("a thread of the store panicked");
            self.0.poison.trip("housekeeping", &error);
            self.0.fail_groups();
        }
    }
}

/// One round of a thread's work; returns when to call it again.
type Round = fn(&Engine) -> Option<u64>;

/// Starts the threads. They end when `engine.stop` is set and their notifiers are notified.
pub(crate) fn spawn(engine: &Arc<Engine>) -> io::Result<Vec<JoinHandle<()>>> {
    let notifiers = engine.notifiers.clone();
    let wanted: [(&str, &Arc<Notifier>, Round); 6] = [
        ("onlyonce-commit", &notifiers.commit, commit_main),
        ("onlyonce-class", &notifiers.classes, commit_classes),
        ("onlyonce-claims", &notifiers.claims, commit_claims),
        ("onlyonce-keep", &notifiers.keep, keep),
        ("onlyonce-expire", &notifiers.expire, expire),
        ("onlyonce-drain", &notifiers.drain, drain),
    ];
    let mut threads = Vec::new();
    for (name, notifier, round) in wanted {
        match start(engine, name, notifier, round) {
            Ok(thread) => threads.push(thread),
            Err(error) => {
                stop(engine, threads);
                return Err(error);
            }
        }
    }
    Ok(threads)
}

/// Ends the threads.
pub(crate) fn stop(engine: &Engine, threads: Vec<JoinHandle<()>>) {
    engine.stop.store(true, Ordering::SeqCst);
    let notifiers = &engine.notifiers;
    for notifier in [
        &notifiers.commit,
        &notifiers.classes,
        &notifiers.claims,
        &notifiers.keep,
        &notifiers.expire,
        &notifiers.drain,
    ] {
        notifier.notify();
    }
    let this = current().id();
    // A waker that one of them called may have dropped the last handle.
    for thread in threads.into_iter().filter(|thread| thread.thread().id() != this) {
        // A panic has tripped the latch already.
        let _ = thread.join();
    }
}

/// Runs `round` whenever it is notified or the time has come that the last round named (in
/// milliseconds of the store's clock from then).
fn start(
    engine: &Arc<Engine>,
    name: &str,
    notifier: &Arc<Notifier>,
    round: Round,
) -> io::Result<JoinHandle<()>> {
    let (engine, notifier) = (engine.clone(), notifier.clone());
    let (ready, started) = mpsc::channel();
    let thread = Builder::new().name(name.into()).spawn(move || {
        notifier.answer_here();
        engine.time.clock().on_change(Waker::from(notifier.clone()));
        let _ = ready.send(());
        let _trips = PanicTrips(&engine);
        while !engine.stop.load(Ordering::SeqCst) {
            let again = round(&engine);
            engine.tell_if_poisoned();
            match again {
                None => notifier.wait(None),
                Some(0) => {}
                Some(ms) => notifier.wait(engine.time.clock().sleep_for(ms)),
            }
        }
    })?;
    // A notification from now on is not lost.
    let _ = started.recv();
    Ok(thread)
}

/// When a group commit that was dirty since then is to be synced: so early that the sync is over
/// when `max_delay` is. `Some(0)`: now.
fn due(engine: &Engine, dirty_since: Option<u64>) -> Option<u64> {
    let max_delay = engine.config.max_delay_ms()?;
    Some((dirty_since? + max_delay / 2).saturating_sub(engine.now()))
}

fn commit_head(engine: &Engine, class: u8) -> Option<u64> {
    let appender = engine.log.appender(class);
    let target = engine.appender_commit(class);
    appender.group.lead_if_needed(&target);
    if appender.has_closed() && engine.config.max_delay_ms().is_some() {
        // A full segment is synced at once: its space comes back in time, and no sync has more
        // than a segment to write.
        appender.group.lead_once(&target);
    }
    match due(engine, appender.dirty_since()) {
        Some(0) => {
            appender.group.lead_once(&target);
            if engine.poison.check().is_err() { None } else { due(engine, appender.dirty_since()) }
        }
        later => later,
    }
}

fn commit_main(engine: &Engine) -> Option<u64> {
    commit_head(engine, MAIN_CLASS)
}

fn commit_classes(engine: &Engine) -> Option<u64> {
    let classes =
        engine.log.appenders().map(|(class, _)| class).filter(|class| *class != MAIN_CLASS);
    classes.filter_map(|class| commit_head(engine, class)).min()
}

fn commit_claims(engine: &Engine) -> Option<u64> {
    engine.cells.group.lead_if_needed(&engine.cells);
    match due(engine, engine.cells.dirty_since()) {
        Some(0) => {
            engine.cells.group.lead_once(&engine.cells);
            if engine.poison.check().is_err() {
                None
            } else {
                due(engine, engine.cells.dirty_since())
            }
        }
        later => later,
    }
}

/// A piece of each class in turn, so that none keeps the others waiting.
fn drain(engine: &Engine) -> Option<u64> {
    let mut again = None;
    for (class, appender) in engine.log.appenders() {
        let called = appender.take_call();
        let rolled = if called { engine.roll(class).map(drop) } else { Ok(()) };
        if called || class == MAIN_CLASS {
            // A failure is in the latch.
            if rolled.and_then(|()| appender.serve(&engine.log.shared, called)) == Ok(true) {
                again = Some(0);
            }
        }
    }
    again
}

fn keep(engine: &Engine) -> Option<u64> {
    if engine.keep().is_err() {
        engine.resources.notify();
    }
    None
}

fn expire(engine: &Engine) -> Option<u64> {
    let now = engine.now();
    let due = match engine.index.next_due() {
        u64::MAX => None,
        // Rung because of an earlier deadline than before: that is slept for, no more.
        due if due > now => Some(due),
        _ => engine.expire(now),
    };
    due.map(|due| due.saturating_sub(now).max(1))
}
