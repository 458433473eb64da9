//! The settings that can't work, told when a layer is put around a service.

use super::layer::IdempotencyLayer;
use crate::{error::BeginError, limits::KEY_BYTES_MAX, spi::IdempotencyStore};

/// A setting of an [`IdempotencyLayer`] that can't work.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a wrong setting of the idempotency layer: {0}")]
pub struct WrongSetting(String);

impl<S: IdempotencyStore> IdempotencyLayer<S> {
    /// Checks the settings against each other and against the store's options: lease and retention,
    /// the size of answers, patterns of paths, numbers of older fingerprints. Putting the layer
    /// around a service does this too, and panics, so that no request meets a wrong setting. This
    /// is for a service whose settings come from outside.
    ///
    /// # Errors
    /// The first wrong setting.
    pub fn check(&self) -> Result<(), WrongSetting> {
        let config = &self.core.config;
        // A store that is closed says nothing about settings.
        if let Err(BeginError::Terms { what }) = self.core.store.terms_in_force(config.terms()) {
            return Err(WrongSetting(what));
        }
        if config.methods.is_empty() {
            return Err(WrongSetting("no method is covered".into()));
        }
        let policies = config.policy.paths().map(|(pattern, _)| pattern);
        for pattern in config.paths.iter().chain(policies) {
            if !pattern.starts_with('/') && pattern != "*" {
                return Err(WrongSetting(format!("the path {pattern:?} doesn't begin with /")));
            }
            if pattern.trim_end_matches('*').contains('*') || pattern.ends_with("**") {
                return Err(WrongSetting(format!("the path {pattern:?} has a * before its end")));
            }
        }
        if let Some(pointer) = config.fingerprints.bad_pointer() {
            return Err(WrongSetting(format!("the JSON pointer {pointer:?} doesn't begin with /")));
        }
        if config.key.least() > KEY_BYTES_MAX {
            return Err(WrongSetting(format!("a key has at most {KEY_BYTES_MAX} bytes")));
        }
        match config.fingerprints.twice() {
            Some(number) => {
                let why = "of fingerprints names two definitions; give each its own";
                Err(WrongSetting(format!("the scheme {number} {why}")))
            }
            None => Ok(()),
        }
    }
}
