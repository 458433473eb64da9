//! A table as a queue: a consumer locks a row while it works, and others skip it.

use crate::Worker;
use anyhow::Result;
use onlyonce_queue::Verdict;
use std::time::Duration;
use tokio::time::sleep;
use tokio_postgres::{Client, NoTls};

const TABLE: &str = "CREATE TABLE IF NOT EXISTS queue (nth bigserial PRIMARY KEY, id text NOT NULL, \
    body text NOT NULL, not_before timestamptz NOT NULL DEFAULT now(), parked boolean NOT NULL DEFAULT false)";
const NEXT: &str = "SELECT nth, id, body FROM queue WHERE NOT parked AND not_before <= now() \
    ORDER BY nth LIMIT 1 FOR UPDATE SKIP LOCKED";

async fn connect(url: &str) -> Result<Client> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
    tokio::spawn(connection);
    client.batch_execute(TABLE).await?;
    Ok(client)
}

pub async fn fill(url: &str, count: u32) -> Result<()> {
    let client = connect(url).await?;
    for (id, body) in crate::messages(count) {
        // Twice, as a producer does that has not got the answer to its first try.
        for _ in 0..2 {
            client.execute("INSERT INTO queue (id, body) VALUES ($1, $2)", &[&id, &body]).await?;
        }
    }
    Ok(())
}

pub async fn run(url: &str, worker: &Worker) -> Result<()> {
    let mut client = connect(url).await?;
    loop {
        let transaction = client.transaction().await?;
        let Some(row) = transaction.query_opt(NEXT, &[]).await? else {
            drop(transaction);
            sleep(Duration::from_millis(50)).await;
            continue;
        };
        let (nth, id, body): (i64, String, String) = (row.get(0), row.get(1), row.get(2));
        match worker.handle(id.as_bytes(), body.as_bytes()).await {
            Verdict::Nack { after, .. } => {
                let later =
                    "UPDATE queue SET not_before = now() + $2 * interval '1 second' WHERE nth = $1";
                transaction.execute(later, &[&nth, &after.as_secs_f64()]).await?
            }
            Verdict::Park { .. } => {
                transaction
                    .execute("UPDATE queue SET parked = true WHERE nth = $1", &[&nth])
                    .await?
            }
            _ => transaction.execute("DELETE FROM queue WHERE nth = $1", &[&nth]).await?,
        };
        transaction.commit().await?;
    }
}

pub async fn left(url: &str) -> Result<u64> {
    let client = connect(url).await?;
    let row = client.query_one("SELECT count(*) FROM queue WHERE NOT parked", &[]).await?;
    Ok(row.get::<_, i64>(0) as u64)
}
