//! What the fuzz targets do with an input: a function each. A panic is a finding.
//!
//! The targets of `fuzz_targets/` call these, and `tests/fuzz_corpus.rs` of the crate above does,
//! with a stable compiler.

mod files;
mod input;
mod operations;
mod program;
mod recover_bytes;
mod recover_mutated;
#[path = "../../tests/reference/mod.rs"]
mod reference;
mod seeds;

#[cfg(feature = "__internals")]
mod decoders;
#[cfg(feature = "__internals")]
mod http;
#[cfg(feature = "__internals")]
mod wheel;

pub use operations::operations;
pub use recover_bytes::recover_bytes;
pub use recover_mutated::recover_mutated;
pub use seeds::seeds;

#[cfg(feature = "__internals")]
pub use {
    decoders::{cells, footer, frame, scan, superblock},
    http::{answer, key},
    wheel::wheel,
};
