//! Observability of a store: events for logs, times for dashboards, and alarms, which may mean
//! a second execution.
//!
//! The verbs call this module at their points and know nothing of who looks. Without the features
//! `tracing`, `metrics` and `admin` all of it compiles to nothing. With them it costs a load and
//! a branch at each point until they are used: events until a subscriber takes their level,
//! times until a publisher or the admin service has been made.
//!
//! Counters are not kept here: they are the store's own (`stats`), and publishers read them.

pub(crate) mod events;
#[cfg(any(feature = "metrics", feature = "admin"))]
mod histogram;

#[cfg(any(feature = "metrics", feature = "admin"))]
mod timings;
#[cfg(not(any(feature = "metrics", feature = "admin")))]
#[path = "untimed.rs"]
mod timings;

#[cfg(feature = "admin")]
pub(crate) mod alarms;
mod call;

pub(crate) use call::{Call, Watch};
#[cfg(any(feature = "metrics", feature = "admin"))]
pub(crate) use histogram::Counts;
pub(crate) use timings::{Started, Timings};

/// A time or a size that is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Timed {
    /// A `begin` or a takeover, from call to answer, waits included. Nanoseconds, as all times.
    Begin,
    /// A completion, from call to answer, waits included.
    Complete,
    /// Reading and checking a record that answers a `begin`.
    Replay,
    /// A caller's wait until its group is durable.
    CommitWait,
    /// A sync of a segment.
    LogSync,
    /// A sync of the claims file.
    ClaimsSync,
    /// Callers covered by one group commit.
    GroupSize,
}

#[cfg(any(feature = "metrics", feature = "admin"))]
impl Timed {
    pub const ALL: [Timed; 7] = [
        Timed::Begin,
        Timed::Complete,
        Timed::Replay,
        Timed::CommitWait,
        Timed::LogSync,
        Timed::ClaimsSync,
        Timed::GroupSize,
    ];
}
