//! Fencing tokens.

use crate::limits::TOKEN_MAX;
use std::fmt;

/// A fencing token: the number that orders the attempts at a key.
///
/// Tokens of a key rise and are never given out twice, not after a loss of power, an expiry or (if
/// the wall clock is right) a restored backup. They stay below 2^53. A token changes with each
/// attempt, so it must never be sent to another service as *its* idempotency key: use
/// `claim.derive_key(step)` for that.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Token(u64);

impl Token {
    /// Makes a token from its number; `None` for 0 and for 2^53 and above, which no store gives
    /// out.
    pub fn new(number: u64) -> Option<Self> {
        (1..TOKEN_MAX).contains(&number).then_some(Token(number))
    }

    /// Returns the number.
    pub fn get(self) -> u64 {
        self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Token({})", self.0)
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
