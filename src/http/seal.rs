//! Hooks for stored answers: sealing them, or keeping their bodies elsewhere.

use super::executor::BoxFuture;
use bytes::Bytes;
use std::{fmt, sync::Arc};

/// A boxed error of any type.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Seals answers before they are stored and opens them again, for instance by an AEAD cipher.
/// Status, headers and body are sealed together. The bytes that a seal adds count towards the bound
/// of the response.
pub trait Seal: Send + Sync + 'static {
    /// Seals `plain`. `context` names the kind of what is stored, scope and key; a cipher takes it as
    /// associated data, so that a sealed answer can't be put in the place of another one. To
    /// exchange the cipher's key, let what is sealed begin with the number of its key, and open
    /// older numbers for as long as answers are remembered.
    fn seal(&self, context: &[u8], plain: &[u8]) -> Result<Vec<u8>, BoxError>;

    /// Opens what [`seal`](Self::seal) made in the same context.
    fn open(&self, context: &[u8], sealed: &[u8]) -> Result<Vec<u8>, BoxError>;
}

/// A reference in a response's extensions: the service keeps this answer's body itself, under these
/// bytes.
/// Status and headers are stored with them; a replay asks the function given to
/// [`dereference`](super::IdempotencyLayer::dereference) for the body. The service must keep it for
/// as long as the answer is replayed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreReference(pub Bytes);

type Find = dyn Fn(Bytes) -> BoxFuture<Result<Option<Bytes>, BoxError>> + Send + Sync;

/// Finds bodies that the service keeps itself.
#[derive(Clone)]
pub(super) struct Dereference(pub Arc<Find>);

impl fmt::Debug for Dereference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Dereference")
    }
}
