//! The scope of a request's key.

use crate::key::Scope;
use http::request::Parts;
use std::{fmt, sync::Arc};

type Principal = dyn Fn(&Parts) -> Option<Vec<u8>> + Send + Sync;

/// The name space of a request's key. There is no default: with the keys of all clients in one name
/// space, one client could see another's answers.
#[derive(Clone)]
pub enum KeyScope {
    /// The name space of a principal; see [`KeyScope::by`].
    By(By),
    /// One name space for all clients. Right if there is one client, or if keys can't be guessed
    /// and answers are not secret.
    Global,
}

/// A function from requests to principals. Made by [`KeyScope::by`].
#[derive(Clone)]
pub struct By(Arc<Principal>);

impl KeyScope {
    /// Makes a name space for each principal: the account or tenant for which a request acts, as an
    /// outer authentication layer has put it into the request's extensions. Don't use a credential,
    /// which may be renewed between a request and its retry. `None` means that the service is
    /// misconfigured: the request gets 500, and the handler doesn't run.
    ///
    /// ```
    /// use onlyonce::http::KeyScope;
    /// #[derive(Clone)]
    /// struct Account(String);
    /// let scope = KeyScope::by(|parts| Some(parts.extensions.get::<Account>()?.0.clone()));
    /// # let _ = scope;
    /// ```
    pub fn by<P: AsRef<[u8]>>(
        principal: impl Fn(&Parts) -> Option<P> + Send + Sync + 'static,
    ) -> Self {
        KeyScope::By(By(Arc::new(move |parts| principal(parts).map(|p| p.as_ref().to_vec()))))
    }

    pub(super) fn of(&self, parts: &Parts) -> Option<Scope> {
        match self {
            KeyScope::By(by) => (by.0)(parts).map(|principal| Scope::of([principal])),
            KeyScope::Global => Some(Scope::global()),
        }
    }
}

impl fmt::Debug for KeyScope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            KeyScope::By(_) => "KeyScope::By",
            KeyScope::Global => "KeyScope::Global",
        })
    }
}

impl fmt::Debug for By {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("By")
    }
}
