//! A host that has installed its provider: the store's connections use it.

use onlyonce::OpenError;
use rustls::crypto::{GetRandomFailed, SecureRandom, aws_lc_rs};
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

/// Counts how often it is used.
#[derive(Debug)]
struct Counted;

static USES: AtomicUsize = AtomicUsize::new(0);

impl SecureRandom for Counted {
    fn fill(&self, bytes: &mut [u8]) -> Result<(), GetRandomFailed> {
        USES.fetch_add(1, Ordering::SeqCst);
        aws_lc_rs::default_provider().secure_random.fill(bytes)
    }
}

#[tokio::test]
async fn the_store_uses_it() {
    let mut provider = aws_lc_rs::default_provider();
    provider.secure_random = &Counted;
    provider.install_default().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = async {
        let (mut client, _) = listener.accept().await.unwrap();
        client.read_exact(&mut [0; 8]).await.unwrap(); // the request for TLS
        client.write_all(b"S").await.unwrap();
        let mut hello = [0; 6];
        client.read_exact(&mut hello).await.unwrap();
        hello
    };
    let options = other_provider::options(port);
    let (opened, hello) = tokio::join!(options.connect(), server);
    assert_eq!((hello[0], hello[5]), (22, 1), "a handshake's first message: {hello:?}");
    assert!(USES.load(Ordering::SeqCst) > 0);
    // The server ended there.
    assert!(matches!(opened, Err(OpenError::Unreachable { .. })), "{opened:?}");
}
