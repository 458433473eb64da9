//! RabbitMQ: what a connection has not acknowledged is delivered again when it is gone.

use crate::Worker;
use anyhow::Result;
use futures::StreamExt;
use lapin::{
    BasicProperties, Channel, Connection, ConnectionProperties, options::*, types::FieldTable,
};
use onlyonce_queue::Verdict;
use tokio::time::sleep;

const QUEUE: &str = "orders";
const PARKED: &str = "parked";

async fn connect(url: &str) -> Result<(Connection, Channel)> {
    let connection = Connection::connect(url, ConnectionProperties::default()).await?;
    let channel = connection.create_channel().await?;
    for name in [QUEUE, PARKED] {
        let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
        channel.queue_declare(name.into(), options, FieldTable::default()).await?;
    }
    channel.confirm_select(ConfirmSelectOptions::default()).await?;
    Ok((connection, channel))
}

async fn publish(channel: &Channel, queue: &str, id: &str, body: &[u8]) -> Result<()> {
    let properties = BasicProperties::default().with_message_id(id.into()).with_delivery_mode(2);
    let options = BasicPublishOptions::default();
    channel.basic_publish("".into(), queue.into(), options, body, properties).await?.await?;
    Ok(())
}

pub async fn fill(url: &str, count: u32) -> Result<()> {
    let (_connection, channel) = connect(url).await?;
    for (id, body) in crate::messages(count) {
        // Twice, as a producer does that has not got the answer to its first try.
        for _ in 0..2 {
            publish(&channel, QUEUE, &id, body.as_bytes()).await?;
        }
    }
    Ok(())
}

pub async fn run(url: &str, worker: &Worker) -> Result<()> {
    let (_connection, channel) = connect(url).await?;
    channel.basic_qos(10, BasicQosOptions::default()).await?;
    let (options, table) = (BasicConsumeOptions::default(), FieldTable::default());
    let mut deliveries =
        channel.basic_consume(QUEUE.into(), "worker".into(), options, table).await?;
    while let Some(delivery) = deliveries.next().await {
        let delivery = delivery?;
        let id = delivery.properties.message_id().clone().map(|id| id.to_string());
        let id = id.unwrap_or_default();
        match worker.handle(id.as_bytes(), &delivery.data).await {
            Verdict::Nack { after, .. } => {
                sleep(after).await;
                let options = BasicNackOptions { requeue: true, ..BasicNackOptions::default() };
                delivery.nack(options).await?;
                continue;
            }
            Verdict::Park { .. } => publish(&channel, PARKED, &id, &delivery.data).await?,
            _ => {}
        }
        delivery.ack(BasicAckOptions::default()).await?;
    }
    Ok(())
}

pub async fn left(url: &str) -> Result<u64> {
    // What is unacknowledged is ready again when its consumer is gone.
    let (_connection, channel) = connect(url).await?;
    let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
    let queue = channel.queue_declare(QUEUE.into(), options, FieldTable::default()).await?;
    Ok(u64::from(queue.message_count()))
}
