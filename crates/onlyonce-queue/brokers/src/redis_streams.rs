//! Redis Streams: a group's pending entries are claimed again after a time.

use crate::Worker;
use anyhow::Result;
use onlyonce_queue::Verdict;
use redis::{
    AsyncCommands, Client, Value,
    aio::MultiplexedConnection,
    streams::{
        StreamAutoClaimOptions, StreamAutoClaimReply, StreamId, StreamReadOptions, StreamReadReply,
    },
};
use std::time::Duration;
use tokio::time::sleep;

const STREAM: &str = "orders";
const GROUP: &str = "consumers";
/// After how long a delivery that was not acknowledged is made again.
const PENDING_MS: usize = 500;

async fn connect(url: &str) -> Result<MultiplexedConnection> {
    Ok(Client::open(url)?.get_multiplexed_async_connection().await?)
}

pub async fn fill(url: &str, count: u32) -> Result<()> {
    let mut redis = connect(url).await?;
    let made: redis::RedisResult<()> = redis.xgroup_create_mkstream(STREAM, GROUP, "0").await;
    if !made.as_ref().is_err_and(|error| error.code() == Some("BUSYGROUP")) {
        made?;
    }
    for (id, body) in crate::messages(count) {
        // Twice, as a producer does that has not got the answer to its first try.
        for _ in 0..2 {
            let fields = [("id", &id), ("body", &body)];
            let _: Value = redis.xadd(STREAM, "*", &fields).await?;
        }
    }
    Ok(())
}

pub async fn run(url: &str, worker: &Worker) -> Result<()> {
    let mut redis = connect(url).await?;
    loop {
        // What a consumer has had for too long: it was killed, or its message is to be tried again.
        let options = StreamAutoClaimOptions::default().count(10);
        let claimed: StreamAutoClaimReply =
            redis.xautoclaim_options(STREAM, GROUP, "worker", PENDING_MS, "0-0", options).await?;
        let options = StreamReadOptions::default().group(GROUP, "worker").count(10);
        let new: StreamReadReply = redis.xread_options(&[STREAM], &[">"], &options).await?;
        let new = new.keys.into_iter().flat_map(|stream| stream.ids);
        let entries: Vec<StreamId> = claimed.claimed.into_iter().chain(new).collect();
        if entries.is_empty() {
            sleep(Duration::from_millis(50)).await;
        }
        for entry in entries {
            let field = |name: &str| entry.get::<Vec<u8>>(name).unwrap_or_default();
            match worker.handle(&field("id"), &field("body")).await {
                Verdict::Ack { .. } => {}
                Verdict::Park { .. } => {
                    let fields = [("id", field("id")), ("body", field("body"))];
                    let _: Value = redis.xadd("parked", "*", &fields).await?;
                }
                // It stays pending, and is claimed again.
                _ => continue,
            }
            let _: u64 = redis.xack(STREAM, GROUP, &[&entry.id]).await?;
        }
    }
}

pub async fn left(url: &str) -> Result<u64> {
    let mut redis = connect(url).await?;
    let groups: redis::streams::StreamInfoGroupsReply = redis.xinfo_groups(STREAM).await?;
    let group = groups.groups.first().expect("made by fill");
    Ok(group.pending as u64 + group.lag.unwrap_or(0) as u64)
}
