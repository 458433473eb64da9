//! NATS JetStream: a pull consumer, whose deliveries are made again if they are not acknowledged.

use crate::Worker;
use anyhow::{Result, anyhow};
use async_nats::{
    HeaderMap,
    jetstream::{
        self, AckKind, Context,
        consumer::{PullConsumer, pull},
        stream,
    },
};
use futures::StreamExt;
use onlyonce_queue::Verdict;
use std::time::Duration;

const ID: &str = "Message-Id";

async fn connect(url: &str) -> Result<Context> {
    Ok(jetstream::new(async_nats::connect(url).await?))
}

async fn consumer(context: &Context) -> Result<PullConsumer> {
    let stream = context
        .get_or_create_stream(stream::Config {
            name: "orders".into(),
            subjects: vec!["orders".into(), "parked".into()],
            ..stream::Config::default()
        })
        .await?;
    let config = pull::Config {
        durable_name: Some("consumers".into()),
        filter_subject: "orders".into(),
        ack_wait: Duration::from_secs(1),
        ..pull::Config::default()
    };
    Ok(stream.get_or_create_consumer("consumers", config).await?)
}

pub async fn fill(url: &str, count: u32) -> Result<()> {
    let context = connect(url).await?;
    consumer(&context).await?;
    for (id, body) in crate::messages(count) {
        // Twice, as a producer does that has not got the answer to its first try; under a name of our
        // own, so that the server's window for duplicates does not see them.
        for _ in 0..2 {
            let mut headers = HeaderMap::new();
            headers.insert(ID, &*id);
            context.publish_with_headers("orders", headers, body.clone().into()).await?.await?;
        }
    }
    Ok(())
}

pub async fn run(url: &str, worker: &Worker) -> Result<()> {
    let context = connect(url).await?;
    let mut messages = consumer(&context).await?.messages().await?;
    while let Some(message) = messages.next().await {
        let message = message?;
        let id = message.headers.as_ref().and_then(|headers| headers.get(ID));
        let id = id.map(|id| id.as_str().to_owned()).unwrap_or_default();
        let kind = match worker.handle(id.as_bytes(), &message.payload).await {
            Verdict::Nack { after, .. } => AckKind::Nak(Some(after)),
            Verdict::Park { .. } => {
                context.publish("parked", message.payload.clone()).await?.await?;
                AckKind::Ack
            }
            _ => AckKind::Ack,
        };
        message.ack_with(kind).await.map_err(|error| anyhow!("{error}"))?;
    }
    Ok(())
}

pub async fn left(url: &str) -> Result<u64> {
    let context = connect(url).await?;
    let mut consumer = consumer(&context).await?;
    let info = consumer.info().await?;
    Ok(info.num_pending + info.num_ack_pending as u64)
}
