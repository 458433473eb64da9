//! Fingerprints, which distinguish a retry from another request under the same key.

use blake3::hazmat::{ContextKey, HasherExt, hash_derive_key_context};
use std::{fmt, sync::LazyLock};

/// Sixteen bytes that stand for a request's meaning, and the number of the scheme that made them.
///
/// A retry has the fingerprint of the first request. A request with another fingerprint under the
/// same key gets [`Mismatch`](crate::Begin::Mismatch). Fingerprints are the same on every platform,
/// in every version and with every backend.
///
/// ```
/// use onlyonce::Fingerprint;
/// assert_ne!(Fingerprint::of(["ab", "c"]), Fingerprint::of(["a", "bc"]));
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fingerprint {
    scheme: u8,
    bytes: [u8; 16],
}

/// The number of bytes of short parts that are hashed together.
const GATHERED: usize = 512;

const CONTEXT: &str = "onlyonce 2026-11 request fingerprint";

impl Fingerprint {
    /// Makes the fingerprint of a request from `parts`, in this order, each delimited by its
    /// length. An attacker who can guess the payload can compute it; see [`Fingerprint::keyed`].
    pub fn of<P: AsRef<[u8]>>(parts: impl IntoIterator<Item = P>) -> Self {
        // What `Hasher::new_derive_key(CONTEXT)` computes each time.
        static CONTEXT_KEY: LazyLock<ContextKey> =
            LazyLock::new(|| hash_derive_key_context(CONTEXT));
        Self::finish(blake3::Hasher::new_from_context_key(&CONTEXT_KEY), parts)
    }

    /// Makes a fingerprint like [`Fingerprint::of`], under a secret of the service, for payloads
    /// that must not be guessed from their hash (a card number, a PIN).
    pub fn keyed<P: AsRef<[u8]>>(secret: &[u8; 32], parts: impl IntoIterator<Item = P>) -> Self {
        Self::finish(blake3::Hasher::new_keyed(secret), parts)
    }

    /// Makes a fingerprint of sixteen bytes that the service has computed itself.
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        Fingerprint { scheme: 0, bytes }
    }

    /// Returns the same bytes with the number of the scheme that made them (0 to 255; 0 by
    /// default).
    ///
    /// A service that changes the parts of its fingerprints gives the new definition another
    /// number. [`Begin::Mismatch`](crate::Begin::Mismatch) then has the stored scheme, so that a
    /// retry across the deployment can be compared by the older definition. The bytes also go into
    /// [`Claim::derive_key`](crate::Claim::derive_key): a new definition makes other derived keys
    /// for a key that the store has forgotten, with the consequences that are described there.
    pub fn with_scheme(self, scheme: u8) -> Self {
        Fingerprint { scheme, ..self }
    }

    /// Returns the number of the scheme.
    pub fn scheme(&self) -> u8 {
        self.scheme
    }

    /// Returns the sixteen bytes.
    pub fn as_bytes(&self) -> &[u8; 16] {
        &self.bytes
    }

    fn finish<P: AsRef<[u8]>>(
        mut hasher: blake3::Hasher,
        parts: impl IntoIterator<Item = P>,
    ) -> Self {
        // Short parts are gathered: to hash each alone costs more than the copy.
        let (mut short, mut len) = ([0; GATHERED], 0);
        for part in parts {
            let part = part.as_ref();
            let before = (part.len() as u64).to_le_bytes();
            if len + before.len() + part.len() > GATHERED {
                hasher.update(&short[..len]);
                len = 0;
            }
            match short[len..].split_at_mut_checked(before.len() + part.len()) {
                Some((place, _)) => {
                    place[..before.len()].copy_from_slice(&before);
                    place[before.len()..].copy_from_slice(part);
                    len += place.len();
                }
                None => _ = hasher.update(&before).update(part),
            }
        }
        hasher.update(&short[..len]);
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
        Fingerprint { scheme: 0, bytes }
    }
}

impl fmt::Debug for Fingerprint {
    /// Leaves the bytes out, because they must not be in a log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Fingerprint(scheme {})", self.scheme)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_delimited_and_secrets_matter() {
        assert_ne!(Fingerprint::of(["ab", "c"]), Fingerprint::of(["a", "bc"]));
        assert_ne!(Fingerprint::of(["a"]), Fingerprint::of(["a", ""]));
        let one = Fingerprint::keyed(&[1; 32], ["a"]);
        assert_ne!(one, Fingerprint::keyed(&[2; 32], ["a"]));
        assert_ne!(one, Fingerprint::of(["a"]));
    }

    /// However the parts are gathered, it is one hash over all of them.
    #[test]
    fn long_parts_and_short_ones_are_hashed_alike() {
        let plain = |parts: &[Vec<u8>]| {
            let mut hasher = blake3::Hasher::new_derive_key(CONTEXT);
            for part in parts {
                hasher.update(&(part.len() as u64).to_le_bytes());
                hasher.update(part);
            }
            hasher.finalize().as_bytes()[..16].to_vec()
        };
        let near = GATHERED - 20..GATHERED + 20;
        for len in (0..40).chain(near).chain([3 * GATHERED]) {
            for count in 1..20 {
                let short = || vec![7; count];
                let parts =
                    [short(), vec![len as u8; len], short(), vec![9; GATHERED - len.min(250)]];
                assert_eq!(Fingerprint::of(&parts).bytes, plain(&parts)[..], "{len} {count}");
            }
        }
    }

    /// Changing these bytes would turn every retry across an upgrade into a mismatch.
    #[test]
    fn the_bytes_are_pinned() {
        let hex: String =
            Fingerprint::of(["POST", "/orders"]).bytes.iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(hex, "4f6d13f4e64b4176f2a628c1713b2c33");
    }
}
