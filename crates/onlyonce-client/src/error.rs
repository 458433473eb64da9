//! Why a request has no answer.

use crate::key::Key;
use std::fmt;

/// A request that has no answer after the tries that its policy allows.
///
/// Unless the [`Trouble`] is a `Key`, it isn't known whether the request took effect: sending it again
/// under [`key`](Self::key), and under no other, is safe.
#[derive(Debug)]
pub struct SendError<E> {
    pub(crate) key: Option<Key>,
    pub(crate) tries: u32,
    pub(crate) trouble: Trouble<E>,
}

/// What the last try of a request ended with.
#[derive(Debug)]
#[non_exhaustive]
pub enum Trouble<E> {
    /// The client failed: no connection, a connection that broke.
    Client(E),
    /// No answer came in the time that a try has.
    TimedOut,
    /// The answer broke off in its body.
    BrokenOff(String),
    /// There is no key to send the request with, and it was not sent.
    Key(KeyFault),
}

/// Why there is no key for a request.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyFault {
    /// The request names an intention, and the policy has no memory to find its key in.
    #[error("the request names an intention, and the policy has no memory of keys")]
    NoMemory,
    /// The intention's name is already that of another request.
    #[error("the intention's name is already that of another request")]
    OtherRequest,
    /// The name can't be one, the store of the memory failed, or its record is no key.
    #[error("the memory of keys: {0}")]
    Memory(String),
    /// The request's body could not be read, or can't be sent twice.
    #[error("the request's body: {0}")]
    Body(String),
}

impl<E> SendError<E> {
    /// Makes the error of a request that was not sent.
    pub fn not_sent(fault: KeyFault) -> Self {
        SendError { key: None, tries: 0, trouble: Trouble::Key(fault) }
    }

    /// Returns the key under which to send the request again; `None` if it has none.
    pub fn key(&self) -> Option<&Key> {
        self.key.as_ref()
    }

    /// Returns how often the request was sent.
    pub fn tries(&self) -> u32 {
        self.tries
    }

    /// Returns what the last try ended with.
    pub fn trouble(&self) -> &Trouble<E> {
        &self.trouble
    }

    /// Returns what the last try ended with, by value.
    pub fn into_trouble(self) -> Trouble<E> {
        self.trouble
    }
}

impl<E: fmt::Display> fmt::Display for SendError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.trouble {
            Trouble::Client(error) => error.fmt(f)?,
            Trouble::TimedOut => f.write_str("no answer in time")?,
            Trouble::BrokenOff(why) => write!(f, "the answer broke off: {why}")?,
            Trouble::Key(fault) => return fault.fmt(f),
        }
        write!(f, " ({} tries)", self.tries)
    }
}

impl<E: std::error::Error + 'static> std::error::Error for SendError<E> {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &self.trouble {
            Trouble::Client(error) => Some(error),
            Trouble::Key(fault) => Some(fault),
            _ => None,
        }
    }
}
