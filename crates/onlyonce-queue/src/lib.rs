#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]
#![deny(missing_docs)]

mod consumer;
mod verdict;

pub use consumer::{Consumer, Delivery};
pub use verdict::{Fate, NackReason, ParkReason, Verdict};
