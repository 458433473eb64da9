#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]
#![deny(missing_docs)]
#![cfg_attr(docsrs, feature(doc_cfg))]

mod answer;
mod error;
mod judge;
mod key;
mod layer;
#[cfg(feature = "store")]
mod memory;
mod policy;
mod send;
mod timer;

pub use answer::AnswerBody;
pub use error::{KeyFault, SendError, Trouble};
pub use judge::{Judgement, judge};
pub use key::{Intention, InvalidKey, Key};
pub use layer::{Keyed, KeyedLayer};
#[cfg(feature = "store")]
pub use memory::Memory;
pub use policy::Policy;
pub use send::Sent;
pub use timer::{Timer, TokioTimer};
