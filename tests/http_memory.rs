//! H25: what the bodies of requests take of memory is what is counted, whatever pieces they come in.
//! A program of its own, because the allocator that counts is the process's.

#[path = "http/service.rs"]
mod service;
use service::*;

use std::{
    alloc::{GlobalAlloc, Layout, System},
    sync::atomic::{AtomicUsize, Ordering},
};
use tokio::{io::AsyncWriteExt, net::TcpStream};

/// The system's allocator, counting what is in use.
struct Counting;

static IN_USE: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call is the system allocator's, with the arguments as they came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        IN_USE.fetch_add(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller keeps what `alloc` asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        IN_USE.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: as above.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const UPLOADS: usize = 2;
/// Bytes of each, a chunk each.
const BYTES: usize = 300_000;
/// What a connection may have beside its body: buffers of server and client.
const BESIDE: usize = 1 << 20;

/// One test at a time: they count what all of them have.
static ALONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

#[tokio::test]
async fn bytes_that_come_one_by_one_take_no_more_than_is_counted() {
    let _alone = ALONE.lock().await;
    let store = store();
    let layer = layer(&store);
    let address = serve(behind(&layer, &counter())).await;
    let before = IN_USE.load(Ordering::SeqCst);
    let mut uploads = Vec::new();
    for n in 0..UPLOADS {
        let mut upload = TcpStream::connect(address).await.unwrap();
        let head = format!(
            "POST /orders HTTP/1.1\r\nhost: here\r\nidempotency-key: {n}\r\n\
             transfer-encoding: chunked\r\n\r\n"
        );
        upload.write_all(head.as_bytes()).await.unwrap();
        let piece = "1\r\nx\r\n".repeat(1000);
        for _ in 0..BYTES / 1000 {
            upload.write_all(piece.as_bytes()).await.unwrap();
        }
        uploads.push(upload);
    }
    until(|| layer.buffered() >= UPLOADS * BYTES).await;
    let (counted, taken) = (layer.buffered(), IN_USE.load(Ordering::SeqCst) - before);
    assert!(taken <= 2 * counted + UPLOADS * BESIDE, "{taken} bytes, {counted} are counted");
    drop(uploads);
    until(|| layer.buffered() == 0).await;
}

/// What handlers leave that fail lies in the log until a retry asks for it.
#[tokio::test]
async fn answers_of_failures_are_not_kept_in_memory() {
    const FAILURES: usize = 200;
    const ANSWER: usize = 60_000;
    let _alone = ALONE.lock().await;
    let place = tempfile::tempdir().unwrap();
    let store = options().open(place.path()).unwrap();
    let broken = handler(|request| async move {
        let of = request.headers()["idempotency-key"].as_bytes().last().copied().unwrap();
        answer(500, vec![of; ANSWER])
    });
    let address = serve(behind(&layer(&store), &broken)).await;
    // What is made once, and grows to its size.
    for n in 0..20 {
        assert_eq!(send_to(address, post(&format!("before{n}"))).await.status, 500);
    }
    let before = IN_USE.load(Ordering::SeqCst);
    for n in 0..FAILURES {
        assert_eq!(send_to(address, post(&format!("k{n}"))).await.status, 500);
    }
    let taken = IN_USE.load(Ordering::SeqCst).saturating_sub(before);
    assert!(taken < FAILURES * ANSWER / 4, "{taken} bytes for {FAILURES} answers");
    for n in [0, 7, FAILURES - 1] {
        let got = send_to(address, post(&format!("k{n}"))).await;
        assert!(got.is_replay() && got.status == 500);
        assert_eq!(got.body, vec![b'0' + (n % 10) as u8; ANSWER]);
    }
    assert_eq!(broken.runs(), FAILURES as u64 + 20);
}
