//! The middleware against a service on a socket that loses answers.

use onlyonce_client_reqwest::{Key, KeyFault, Keyed, Policy, SendError, Sent, Trouble};
use reqwest_middleware::{ClientBuilder, ClientWithMiddleware, Error};
use std::{
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

type Keys = Arc<Mutex<Vec<Option<String>>>>;

/// A service that gives these answers, one a connection, and hears the keys; it hangs up after each.
async fn service(answers: &'static [&'static str]) -> (String, Keys) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/orders", listener.local_addr().unwrap());
    let keys = Keys::default();
    let heard = keys.clone();
    tokio::spawn(async move {
        for answer in answers {
            let (mut client, _) = listener.accept().await.unwrap();
            let mut request = Vec::new();
            while !request.ends_with(b"one book") {
                if client.read_buf(&mut request).await.unwrap() == 0 {
                    break;
                }
            }
            let request = String::from_utf8(request).unwrap();
            let key = request.lines().find_map(|line| line.strip_prefix("idempotency-key: "));
            heard.lock().unwrap().push(key.map(str::to_owned));
            client.write_all(answer.as_bytes()).await.unwrap();
        }
    });
    (url, keys)
}

fn client() -> ClientWithMiddleware {
    let waits = Duration::from_millis(1);
    let policy = Policy::new().waits(waits, waits);
    ClientBuilder::new(reqwest::Client::new()).with(Keyed::new(policy)).build()
}

const CREATED: &str =
    "HTTP/1.1 201 Created\r\ncontent-length: 7\r\nconnection: close\r\n\r\norder 7";
const HALF: &str = "HTTP/1.1 201 Created\r\ncontent-length: 7\r\nconnection: close\r\n\r\nord";
const BUSY: &str =
    "HTTP/1.1 503 Busy\r\ncontent-length: 0\r\nretry-after: 0\r\nconnection: close\r\n\r\n";

#[tokio::test]
async fn one_key_for_all_tries() {
    let (url, keys) = service(&["", HALF, BUSY, CREATED]).await;
    let answer = client().post(&url).body("one book").send().await.unwrap();
    assert_eq!((answer.status().as_u16(), answer.url().as_str()), (201, &*url));
    assert_eq!(answer.extensions().get::<Sent>().unwrap().tries, 4);
    assert_eq!(answer.text().await.unwrap(), "order 7");
    let keys = keys.lock().unwrap();
    assert!(keys.len() == 4 && keys[0].is_some(), "{keys:?}");
    assert!(keys.iter().all(|key| *key == keys[0]), "{keys:?}");
}

#[tokio::test]
async fn the_caller_s_key_is_taken() {
    let (url, keys) = service(&["", CREATED]).await;
    let request = client().put(&url).body("one book").with_extension(Key::new("mine").unwrap());
    assert_eq!(request.send().await.unwrap().status(), 201);
    assert_eq!(*keys.lock().unwrap(), [Some("\"mine\"".into()), Some("\"mine\"".into())]);
}

#[tokio::test]
async fn without_a_key_once() {
    let (url, keys) = service(&[BUSY, CREATED]).await;
    let answer = client().put(&url).body("one book").send().await.unwrap();
    assert_eq!(answer.status(), 503);
    assert_eq!(*keys.lock().unwrap(), [None]);
}

#[tokio::test]
async fn a_stream_is_refused() {
    let (url, keys) = service(&[CREATED]).await;
    let body = reqwest::Body::wrap(streamed::Pieces);
    let error = client().post(&url).body(body).send().await.unwrap_err();
    let Error::Middleware(error) = error else { panic!("{error}") };
    let error: &SendError<Error> = error.downcast_ref().unwrap();
    assert!(matches!(error.trouble(), Trouble::Key(KeyFault::Body(_))), "{error}");
    assert!(keys.lock().unwrap().is_empty());
}

/// A body that comes in pieces.
mod streamed {
    use std::{
        convert::Infallible,
        pin::Pin,
        task::{Context, Poll},
    };

    pub struct Pieces;

    impl http_body::Body for Pieces {
        type Data = &'static [u8];
        type Error = Infallible;

        fn poll_frame(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<http_body::Frame<Self::Data>, Infallible>>> {
            Poll::Ready(None)
        }
    }
}
