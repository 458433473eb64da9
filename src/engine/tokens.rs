//! Giving out fencing tokens: a counter below a limit that is durable in the superblock, and
//! raised in blocks ahead of need.

use crate::{
    limits::TOKEN_MAX,
    sync::atomic::{AtomicU64, Ordering},
    token::Token,
};

/// Tokens that one writing of the superblock allows.
pub(crate) const BLOCK: u64 = if cfg!(onlyonce_broken) { 1 << 4 } else { 1 << 22 };

/// 2020-01-01 in seconds since 1970. A token is at least as high as the number of blocks since
/// then: so it rises over a restored backup too, and stays below 2^53 until the year 2088.
const ERA_SECONDS: u64 = 1_577_836_800;

/// Seconds since then for which the clock is believed: until October 2083. A later one would use
/// the tokens up.
const BELIEVED_SECONDS: u64 = 60 << 25;

// Whatever the clock says, there are tokens left.
const _: () = assert!(BELIEVED_SECONDS * BLOCK <= TOKEN_MAX - 2 * BLOCK);

/// A limit as much above this one as a day of the wall clock is worth.
pub(crate) fn a_day_later(limit: u64) -> u64 {
    let later = limit.saturating_add(24 * 3600 * BLOCK);
    later.min(TOKEN_MAX - 2 * BLOCK).max(limit)
}

/// The limit of a life whose first token this is: a block above it, as long as there are any.
pub(crate) fn limit_from(first: u64) -> u64 {
    first.saturating_add(BLOCK).min(TOKEN_MAX).max(first)
}

#[derive(Debug)]
pub(crate) struct Tokens {
    next: AtomicU64,
    limit: AtomicU64,
}

impl Tokens {
    /// The first token of a life, given the limit that the last one left and the wall clock.
    pub fn first(limit: u64, wall_ms: u64) -> u64 {
        let seconds = (wall_ms / 1000).saturating_sub(ERA_SECONDS);
        let by_time = if seconds < BELIEVED_SECONDS { seconds * BLOCK } else { 0 };
        limit.max(by_time).max(1)
    }

    /// `limit` is durable.
    pub fn new(first: u64, limit: u64) -> Self {
        Tokens { next: AtomicU64::new(first), limit: AtomicU64::new(limit) }
    }

    /// The next token; `None` until the limit has been raised.
    pub fn take(&self) -> Option<Token> {
        // One addition, because many take at once. A number beyond the limit is lost, one for each
        // who asks before the limit has been raised.
        let taken = self.next.fetch_add(1, Ordering::AcqRel);
        Token::new(taken).filter(|_| taken < self.limit.load(Ordering::Acquire))
    }

    /// The limit to make durable next, if it is time; `None` too when there are no more tokens.
    pub fn wanted_limit(&self) -> Option<u64> {
        let (limit, next) = (self.limit.load(Ordering::Acquire), self.next.load(Ordering::Acquire));
        let low = limit.saturating_sub(next) < BLOCK / 2;
        let wanted = limit.max(next) + BLOCK;
        (low && wanted <= TOKEN_MAX).then_some(wanted)
    }

    /// All tokens given out so far are lower than this.
    pub fn above_all(&self) -> u64 {
        self.next.load(Ordering::Acquire)
    }

    /// The next token is `token` or a higher one.
    pub fn skip_to(&self, token: u64) {
        self.next.fetch_max(token, Ordering::AcqRel);
    }

    /// Whether there will never be another one.
    pub fn are_used_up(&self) -> bool {
        let (limit, next) = (self.limit.load(Ordering::Acquire), self.next.load(Ordering::Acquire));
        // Asking `wanted_limit` would read the limit again, which may just have been raised.
        next >= limit && next + BLOCK > TOKEN_MAX
    }

    /// The limit is durable.
    pub fn raise(&self, limit: u64) {
        self.limit.fetch_max(limit, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_given_out_at_the_limit() {
        let tokens = Tokens::new(10, 12);
        assert_eq!(tokens.take(), Token::new(10));
        assert_eq!(tokens.take(), Token::new(11));
        assert_eq!(tokens.take(), None);
        let wanted = tokens.wanted_limit().unwrap();
        tokens.raise(wanted);
        // The number that was refused is lost.
        assert_eq!(tokens.take(), Token::new(13));
    }

    #[test]
    fn tokens_that_were_skipped_are_not_given_out() {
        let tokens = Tokens::new(10, 12);
        tokens.skip_to(5 * BLOCK);
        assert_eq!(tokens.above_all(), 5 * BLOCK);
        assert_eq!(tokens.take(), None);
        tokens.raise(tokens.wanted_limit().unwrap());
        assert_eq!(tokens.take(), Token::new(5 * BLOCK + 1));
        tokens.skip_to(3);
        assert_eq!(tokens.take(), Token::new(5 * BLOCK + 2));
    }

    #[test]
    fn a_day_of_tokens_is_never_beyond_the_last() {
        let today = Tokens::first(0, 1_795_000_000_000);
        let tomorrow = Tokens::first(0, 1_795_000_000_000 + 24 * 3_600_000);
        assert_eq!(a_day_later(today), tomorrow);
        assert_eq!(a_day_later(TOKEN_MAX - 2 * BLOCK), TOKEN_MAX - 2 * BLOCK);
        assert_eq!(a_day_later(TOKEN_MAX), TOKEN_MAX);
    }

    #[test]
    fn a_life_starts_above_the_limit_and_the_clock() {
        let today = 1_795_000_000_000;
        let first = Tokens::first(0, today);
        assert!(first > Tokens::first(0, today - 1000));
        assert_eq!(Tokens::first(first + 5, today), first + 5);
        assert_eq!(Tokens::first(7, u64::MAX), 7);
        assert_eq!(Tokens::first(0, 0), 1);
        assert_eq!(Tokens::first(0, ERA_SECONDS * 1000), 1);
        assert_eq!(Tokens::first(0, (ERA_SECONDS + 3) * 1000 + 999), 3 * BLOCK);
    }

    #[test]
    fn openings_that_find_no_tokens_left_do_not_raise_the_limit() {
        for (first, limit) in [
            (1, 1 + BLOCK),
            (TOKEN_MAX - BLOCK, TOKEN_MAX),
            (TOKEN_MAX - 1, TOKEN_MAX),
            (TOKEN_MAX, TOKEN_MAX),
            (TOKEN_MAX + 7, TOKEN_MAX + 7),
        ] {
            assert_eq!(limit_from(first), limit);
            let tokens = Tokens::new(first, limit);
            assert_eq!(tokens.take(), Token::new(first));
        }
        let tokens = Tokens::new(TOKEN_MAX, limit_from(TOKEN_MAX));
        assert_eq!(tokens.wanted_limit(), None);
        assert!(tokens.are_used_up());
    }

    #[test]
    fn a_clock_is_believed_until_2083_and_not_beyond() {
        // The 18th of October 2083, 16:32.
        let end = 3_591_102_720_000;
        assert_eq!(Tokens::first(7, end - 1), ((60 << 25) - 1) * BLOCK);
        assert_eq!(Tokens::first(7, end), 7);
    }

    #[test]
    fn more_are_wanted_when_less_than_half_a_block_is_left() {
        assert_eq!(Tokens::new(1, BLOCK / 2 + 1).wanted_limit(), None);
        assert_eq!(Tokens::new(2, BLOCK / 2 + 1).wanted_limit(), Some(BLOCK / 2 + 1 + BLOCK));
    }

    #[test]
    fn the_last_tokens_are_given_out_and_then_no_more() {
        let last = TOKEN_MAX - BLOCK;
        assert_eq!(Tokens::new(last, last).wanted_limit(), Some(TOKEN_MAX));
        assert!(!Tokens::new(last, last).are_used_up());
        let tokens = Tokens::new(last, last + 1);
        assert_eq!(tokens.wanted_limit(), None);
        assert!(!tokens.are_used_up());
        assert_eq!(tokens.take(), Token::new(last));
        assert_eq!(tokens.take(), None);
        assert!(tokens.are_used_up());
        assert!(!Tokens::new(1, BLOCK).are_used_up());
    }
}

#[cfg(all(test, onlyonce_loom))]
mod loom_tests {
    use super::*;
    use loom::{sync::Arc, thread};

    /// A caller that finds none while the limit is raised never gets the answer that none are left.
    #[test]
    fn a_limit_that_is_raised_is_not_the_last() {
        loom::model(|| {
            let tokens = Arc::new(Tokens::new(1, 1));
            let keeper = {
                let tokens = tokens.clone();
                thread::spawn(move || tokens.raise(tokens.wanted_limit().expect("none are left")))
            };
            if tokens.take().is_none() {
                assert!(!tokens.are_used_up());
            }
            keeper.join().unwrap();
        });
    }
}
