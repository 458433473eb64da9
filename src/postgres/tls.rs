//! What the store takes of `rustls`, whose versions are not this crate's.

use std::sync::Arc;

/// How connections are encrypted: made from a configuration of `rustls`.
#[derive(Clone, Debug)]
pub struct Tls(pub(super) Arc<rustls::ClientConfig>);

impl From<Arc<rustls::ClientConfig>> for Tls {
    fn from(config: Arc<rustls::ClientConfig>) -> Self {
        Tls(config)
    }
}

impl From<rustls::ClientConfig> for Tls {
    fn from(config: rustls::ClientConfig) -> Self {
        Tls(Arc::new(config))
    }
}
