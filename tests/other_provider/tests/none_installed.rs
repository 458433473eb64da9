//! A host that has installed no provider.

use onlyonce::OpenError;
use rustls::{ClientConfig, RootCertStore, crypto::CryptoProvider};

#[tokio::test]
async fn the_store_says_what_is_missing_and_the_host_still_has_its_own() {
    let refused = other_provider::options(1).connect().await.expect_err("opened");
    assert!(matches!(refused, OpenError::Options { .. }), "{refused:?}");
    assert!(refused.to_string().contains("install_default"), "{refused}");
    assert!(CryptoProvider::get_default().is_none());
    // With two providers in the build this panics: the choice would be `rustls`'s to make.
    let _ = ClientConfig::builder()
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
}
