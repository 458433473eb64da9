//! What a database must be able to do to take part.

use measure::work::Key;
use std::sync::Arc;

/// One write. The claim lies in a table of its own, so that the open ones can be found.
#[derive(Clone)]
pub enum Write {
    /// Adds a claim.
    Claim(Key),
    /// Adds the record and removes the claim, in one step.
    Complete(Key, Arc<[u8]>),
    /// Removes the record.
    Remove(Key),
}

/// A database with two tables: responses and claims, both by key.
pub trait Table: Send + Sync + 'static {
    /// Whether a claim can be written without a sync while completions are synced, in order. If
    /// not, claims go with the completions through the writer thread, if there is one.
    const CLAIMS_ON_THEIR_OWN: bool;

    /// Copies a response. `false` if there is none.
    fn get(&self, key: &Key, into: &mut Vec<u8>) -> bool;

    /// All of these in one step; on the disk when this returns if `sync`.
    fn write(&self, writes: &[Write], sync: bool);

    /// What was written is on the disk when this returns.
    fn sync(&self);

    /// Makes the space of removed records usable again, as the maintenance of this database does.
    fn reclaim(&self);
}

/// What a claim holds: the fingerprint.
pub const CLAIM: [u8; 16] = [1; 16];
