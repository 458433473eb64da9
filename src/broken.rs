//! For tests only: one mistake at a time that a store of this kind can be built with, so that
//! the tests can show that they would notice it (`tests/broken_variants.rs`).
//!
//! None of them is in a build unless `RUSTFLAGS='--cfg onlyonce_broken'` asks for them; then
//! `ONLYONCE_BROKEN=<name>` chooses one for the life of the process.

/// A mistake that is made on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Broken {
    SkipSegmentSync,
    SkipClaimsSync,
    SkipSuperblockSync,
    SkipRecycleSync,
    SkipSealSync,
    AckBeforeSync,
    VisibleBeforeDurable,
    /// A segment is used again while a caller is about to read a record of its last use.
    ReuseWhileServed,
    ReuseBeforeSweep,
    LifeNotSeeded,
    EpochNotSeeded,
    SlotNotSeeded,
    LowestTokenWins,
    KeyBeforeChecksum,
    /// At opening: tokens of a block that the superblock doesn't know of.
    TokensNotDurable,
    /// While running: tokens of the next block before the superblock says so.
    TokensRaisedFirst,
    /// The ring takes new records before the old ones are drained.
    LapUndrained,
    /// Records are read from the ring although they have been lapped, without a check.
    ServeLapped,
    AppendToUnprepared,
    ClearBeforeDurable,
    RecycleBeforeClaimsSync,
    SyncInsteadOfWriting,
    /// At opening: a header that says free is not written again.
    TrustFreeHeader,
    FooterBeforeContent,
    ReleaseErasesHistory,
    LeaseLapsesInCompleting,
    /// An expired key's claim is cleared while what it has replaced may still come back.
    ForgetUnsettled,
    /// At opening: the next version of a claim, though cells of it may be on the disk.
    ReuseVersions,
}

/// Whether this build is to make this mistake.
#[cfg(not(onlyonce_broken))]
#[inline(always)]
pub(crate) const fn is(_: Broken) -> bool {
    false
}

#[cfg(onlyonce_broken)]
pub(crate) fn is(variant: Broken) -> bool {
    use std::sync::OnceLock;
    static CHOSEN: OnceLock<Option<String>> = OnceLock::new();
    let chosen = CHOSEN.get_or_init(|| std::env::var("ONLYONCE_BROKEN").ok());
    chosen.as_ref().is_some_and(|chosen| *chosen == format!("{variant:?}"))
}

/// The time between two steps, long enough to be met, in a build that makes this mistake.
pub(crate) fn dawdle(variant: Broken) {
    if is(variant) {
        #[cfg(onlyonce_shuttle)]
        for _ in 0..shuttle::rand::Rng::gen_range(&mut shuttle::rand::thread_rng(), 0..600) {
            shuttle::thread::sleep(std::time::Duration::ZERO);
        }
        #[cfg(not(onlyonce_shuttle))]
        std::thread::sleep(std::time::Duration::from_millis(30));
    }
}
