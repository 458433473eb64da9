//! What the other tests of this program rely on: servers that are started again when they have been
//! killed.

use crate::servers::*;
use rustix::process::{Pid, Signal, kill_process};

/// A process of the killed server that doesn't end holds its memory, and a new server ends at once
/// because of it.
#[test]
fn a_server_comes_back_though_a_process_of_it_lingers() {
    block_on(async {
        let Some(bin) = programs() else { return };
        let server = Server::start(bin);
        let client = server.connect("postgres").await.unwrap();
        let row = client.query_one("SELECT pg_backend_pid()", &[]).await.unwrap();
        let lingering = Pid::from_raw(row.get(0)).unwrap();
        kill_process(lingering, Signal::STOP).unwrap();
        server.kill();
        std::thread::scope(|scope| {
            scope.spawn(|| server.resume());
            // It goes when a start has failed because of it.
            let start = std::time::Instant::now();
            while !server.log().contains("still in use") && start.elapsed() < PATIENCE / 2 {
                std::thread::sleep(std::time::Duration::from_millis(10));
            }
            kill_process(lingering, Signal::CONT).unwrap();
        });
        assert!(server.log().contains("still in use"), "{}", server.log());
        assert_eq!(server.sql("postgres", "SELECT 1").await.as_deref(), Some("1"));
    });
}

/// A port that another program has taken meanwhile is not waited for by a new server.
#[test]
fn a_new_server_leaves_a_port_that_is_taken() {
    block_on(async {
        let Some(bin) = programs() else { return };
        let first = Server::start(bin);
        let second = Server::start_at(bin, first.port);
        assert_ne!(first.port, second.port);
        assert_eq!(second.sql("postgres", "SELECT 1").await.as_deref(), Some("1"));
    });
}
