//! Whose keys these are.

use crate::key::Scope;
use http::request::Parts;
use std::{fmt, sync::Arc};

type Principal = dyn Fn(&Parts) -> Option<Vec<u8>> + Send + Sync;

/// In which name space a request's key lies. There is no default: keys of all clients in one name
/// space let one client see another's answers.
#[derive(Clone)]
pub enum KeyScope {
    /// The name space of a principal; see [`KeyScope::by`].
    By(By),
    /// One name space for all. Right where there is one client, or where keys can't be guessed and
    /// answers are nobody's secret.
    Global,
}

/// A function from requests to principals. Made by [`KeyScope::by`].
#[derive(Clone)]
pub struct By(Arc<Principal>);

impl KeyScope {
    /// A name space for each principal: the account or tenant that a request acts for, as an outer
    /// authentication layer has left it in the request's extensions. Not a credential, which may be
    /// renewed between a request and its retry. `None` is a mistake of the service's and is
    /// answered by 500; the handler doesn't run.
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
