//! A subscriber of `tracing` for a whole program. It is told of everything and keeps nothing.
//!
//! While a single thread has a subscriber, another thread that has none and reaches an event's place
//! first makes `tracing` remember that the place is of no interest: the subscriber never gets its
//! events. With this one below all others each place is of interest.

use std::sync::Once;
use tracing::{
    Event, Metadata, Subscriber,
    span::{Attributes, Id, Record},
};

struct Listener;

/// Call before a subscriber of one thread is set.
pub fn listen() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| tracing::subscriber::set_global_default(Listener).unwrap());
}

impl Subscriber for Listener {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, _: &Event<'_>) {}

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}
