//! What a service may have stored elsewhere, or compares with what an older version stored, has
//! the same bytes in every version.

use crate::common::*;
use onlyonce::*;

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn derived(scope: &Scope, name: &str, fingerprint: Fingerprint, step: &str) -> String {
    let key = KeyRef::new(scope, name).unwrap();
    granted(store().0.begin(key, fingerprint).unwrap()).derive_key(step)
}

/// Another key for a charge that was made is another charge.
#[test]
fn of_derived_keys() {
    let (orders, print) = (Scope::of(["tenant-7", "orders"]), Fingerprint::of(["POST", "/orders"]));
    assert_eq!(derived(&orders, "8e03978e", print, "charge"), "9c8ffe2f0f32872eebb7f65f4ac2a81a");
    assert_eq!(derived(&orders, "8e03978e", print, ""), "baf6ddb6cb3d92569134116a745c2ec6");
    assert_eq!(
        derived(&Scope::global(), "k", Fingerprint::from_bytes([7; 16]), "charge"),
        "415a8275b80262b9f9aa6f3f973ca56b"
    );
    // The number of the scheme is no part of it, the bytes that a scheme makes are.
    assert_eq!(
        derived(&orders, "8e03978e", print.with_scheme(9), "charge"),
        "9c8ffe2f0f32872eebb7f65f4ac2a81a"
    );
    assert_ne!(
        derived(&orders, "8e03978e", Fingerprint::of(["PUT", "/orders"]), "charge"),
        "9c8ffe2f0f32872eebb7f65f4ac2a81a"
    );
}

/// Another fingerprint turns retries across an upgrade into mismatches.
#[test]
fn of_fingerprints() {
    let of = |parts: &[&str]| hex(Fingerprint::of(parts).as_bytes());
    assert_eq!(of(&["POST", "/orders"]), "4f6d13f4e64b4176f2a628c1713b2c33");
    assert_eq!(of(&[]), "c1d5f6e189c9a5d5acc24870d4a12f8a");
    assert_eq!(of(&["", &"long".repeat(500)]), "7f06d1760a4458494e830f7fd1ce66c2");
    let keyed = Fingerprint::keyed(&[7; 32], ["POST", "/orders"]);
    assert_eq!(hex(keyed.as_bytes()), "b34f82961a1f709abf42e5902eeebbe0");
    assert_eq!(keyed.scheme(), 0);
}

/// Another scope is another key: retries across an upgrade would execute.
#[test]
fn of_scopes() {
    assert_eq!(hex(Scope::of(["ab", "", "c"]).as_bytes()), "020000006162000000000100000063");
    assert_eq!(
        hex(Scope::of(["x".repeat(251)]).as_bytes()),
        hex(&[&[251, 0, 0, 0][..], &[b'x'; 251]].concat())
    );
    let hashed = Scope::of(["x".repeat(252)]);
    assert_eq!(
        hex(hashed.as_bytes()),
        "e32455fbe9071277850cb7e8e074bf5726a7adbdd7c74dd6c6d70419c060faf7"
    );
    assert!(Scope::global().as_bytes().is_empty());
}
