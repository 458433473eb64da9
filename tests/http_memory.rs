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

#[tokio::test]
async fn bytes_that_come_one_by_one_take_no_more_than_is_counted() {
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
