//! The identity of a request: a key, chosen by the client, in a scope, chosen by the service.

use crate::{error::KeyError, limits::*};
use smallvec::SmallVec;
use std::{
    cmp::Ordering,
    fmt,
    hash::{Hash, Hasher},
    sync::Arc,
};

/// The part of a request's identity that the service chooses: tenant, principal, operation.
///
/// The same key in two scopes means two requests. A scope has 0 to 255 bytes.
///
/// ```
/// use onlyonce::Scope;
/// let payments = Scope::of(["tenant-7", "payments"]);
/// assert_ne!(payments, Scope::of(["tenant-7p", "ayments"]));
/// ```
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Scope(SmallVec<[u8; 40]>);

impl Scope {
    /// Returns the empty scope: all keys of the store share one name space. It is rarely the right
    /// choice, because any client can then use the key of any other.
    pub fn global() -> Self {
        Scope(SmallVec::new())
    }

    /// Makes a scope of exactly these bytes.
    ///
    /// # Errors
    /// [`KeyError::ScopeTooLong`] if there are more than 255.
    pub fn new(bytes: impl AsRef<[u8]>) -> Result<Self, KeyError> {
        let bytes = bytes.as_ref();
        if bytes.len() > SCOPE_BYTES_MAX {
            return Err(KeyError::ScopeTooLong { len: bytes.len() });
        }
        Ok(Scope(SmallVec::from_slice(bytes)))
    }

    /// Makes a scope of several parts, each delimited by its length, so that `["ab", "c"]` and
    /// `["a", "bc"]` differ. A scope that would be longer than 255 bytes is replaced by its BLAKE3
    /// hash.
    pub fn of<P: AsRef<[u8]>>(parts: impl IntoIterator<Item = P>) -> Self {
        let mut bytes = SmallVec::<[u8; 40]>::new();
        for part in parts {
            let part = part.as_ref();
            bytes.extend_from_slice(&(part.len() as u32).to_le_bytes());
            bytes.extend_from_slice(part);
        }
        if bytes.len() > SCOPE_BYTES_MAX {
            bytes = SmallVec::from_slice(blake3::hash(&bytes).as_bytes());
        }
        Scope(bytes)
    }

    /// Returns the bytes of the scope.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Scope(\"{}\")", self.0.escape_ascii())
    }
}

/// The identity of a request, borrowed: (scope, key). A key has 1 to 255 bytes of any value.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct KeyRef<'a> {
    scope: &'a [u8],
    key: &'a [u8],
}

impl<'a> KeyRef<'a> {
    /// Makes the identity of a request from a scope and a key.
    ///
    /// # Errors
    /// [`KeyError::Empty`] or [`KeyError::TooLong`] if the key does not have 1 to 255 bytes.
    pub fn new(scope: &'a Scope, key: &'a (impl AsRef<[u8]> + ?Sized)) -> Result<Self, KeyError> {
        Self::from_parts(scope.as_bytes(), key.as_ref())
    }

    pub(crate) fn from_parts(scope: &'a [u8], key: &'a [u8]) -> Result<Self, KeyError> {
        match key.len() {
            0 => Err(KeyError::Empty),
            1..=KEY_BYTES_MAX if scope.len() <= SCOPE_BYTES_MAX => Ok(KeyRef { scope, key }),
            1..=KEY_BYTES_MAX => Err(KeyError::ScopeTooLong { len: scope.len() }),
            len => Err(KeyError::TooLong { len }),
        }
    }

    /// Returns the bytes of the scope.
    pub fn scope(&self) -> &'a [u8] {
        self.scope
    }

    /// Returns the bytes of the key.
    pub fn key(&self) -> &'a [u8] {
        self.key
    }

    pub(crate) fn owned(self) -> OwnedKey {
        OwnedKey::from(self)
    }
}

impl fmt::Debug for KeyRef<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\" in \"{}\"", self.key.escape_ascii(), self.scope.escape_ascii())
    }
}

/// The number of bytes up to which scope and key together need no allocation, with one for the
/// length: an [`OwnedKey`] then has 80 bytes.
const INLINE: usize = 77;

/// The identity of a request, owned. Scopes and keys of usual length need no allocation.
#[derive(Clone)]
pub struct OwnedKey(Joined);

/// Scope, key, and a byte that says how long the scope is: what a key is hashed by.
#[derive(Clone)]
enum Joined {
    Inline { len: u8, bytes: [u8; INLINE] },
    Long(Arc<[u8]>),
}

const _: () = assert!(size_of::<OwnedKey>() == 80);

impl OwnedKey {
    /// Borrows the identity.
    pub fn as_ref(&self) -> KeyRef<'_> {
        let (scope_len, names) = self.joined().split_last().expect("it ends with a length");
        let (scope, key) = names.split_at(*scope_len as usize);
        KeyRef { scope, key }
    }

    /// Scope, key, and the length of the scope.
    pub(crate) fn joined(&self) -> &[u8] {
        match &self.0 {
            Joined::Inline { len, bytes } => &bytes[..*len as usize],
            Joined::Long(bytes) => bytes,
        }
    }

    /// Returns the bytes of the scope.
    pub fn scope(&self) -> &[u8] {
        self.as_ref().scope
    }

    /// Returns the bytes of the key.
    pub fn key(&self) -> &[u8] {
        self.as_ref().key
    }
}

impl From<KeyRef<'_>> for OwnedKey {
    fn from(key: KeyRef<'_>) -> Self {
        let (scope, names) = (key.scope.len(), key.scope.len() + key.key.len());
        let len = names + 1;
        let join = |joined: &mut [u8]| {
            joined[..scope].copy_from_slice(key.scope);
            joined[scope..names].copy_from_slice(key.key);
            joined[names] = scope as u8;
        };
        if len <= INLINE {
            let mut bytes = [0; INLINE];
            join(&mut bytes);
            return OwnedKey(Joined::Inline { len: len as u8, bytes });
        }
        let mut bytes = vec![0; len];
        join(&mut bytes);
        OwnedKey(Joined::Long(bytes.into()))
    }
}

impl PartialEq for OwnedKey {
    fn eq(&self, other: &Self) -> bool {
        self.joined() == other.joined()
    }
}

impl Eq for OwnedKey {}

impl Hash for OwnedKey {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        self.joined().hash(hasher);
    }
}

/// Shorter scopes first; of equal ones by the bytes.
impl Ord for OwnedKey {
    fn cmp(&self, other: &Self) -> Ordering {
        let [this, other] = [self, other].map(OwnedKey::as_ref);
        let [this, other] = [this, other].map(|key| (key.scope.len(), key.scope, key.key));
        this.cmp(&other)
    }
}

impl PartialOrd for OwnedKey {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Debug for OwnedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_ref().fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_bounded_and_exact() {
        let scope = Scope::global();
        assert_eq!(KeyRef::new(&scope, ""), Err(KeyError::Empty));
        assert!(KeyRef::new(&scope, &[0u8; 255]).is_ok());
        assert_eq!(KeyRef::new(&scope, &[0u8; 256]), Err(KeyError::TooLong { len: 256 }));
        assert_ne!(KeyRef::new(&scope, "a"), KeyRef::new(&scope, "A"));
        assert_ne!(KeyRef::new(&scope, "a"), KeyRef::new(&scope, "a "));
    }

    #[test]
    fn scope_and_key_do_not_run_together() {
        let (a, ab) = (Scope::new("a").unwrap(), Scope::new("ab").unwrap());
        assert_ne!(KeyRef::new(&a, "bc").unwrap().owned(), KeyRef::new(&ab, "c").unwrap().owned());
    }

    #[test]
    fn long_scopes_are_hashed_and_stay_distinct() {
        let long = "x".repeat(300);
        let (a, b) = (Scope::of([&long, "1"]), Scope::of([&long, "2"]));
        assert_ne!(a, b);
        assert_eq!(a.as_bytes().len(), 32);
        assert_eq!(Scope::new(&long), Err(KeyError::ScopeTooLong { len: 300 }));
    }
}
