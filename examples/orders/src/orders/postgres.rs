//! Orders in PostgreSQL, in the database that has the keys.

use super::{NewOrder, Order, now_ms};
use anyhow::{Context, bail};
use onlyonce::{
    http::Attempt,
    postgres::{
        TransactionStore,
        tokio_postgres::{Client, Config, NoTls, Row, config::TargetSessionAttrs},
    },
};
use std::sync::Arc;

/// A handle of the table.
#[derive(Clone)]
pub struct Postgres {
    config: Arc<Config>,
    store: Option<TransactionStore>,
}

const SCHEMA: &str = "
    SELECT pg_advisory_lock(7310);
    CREATE TABLE IF NOT EXISTS orders (
        id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        request text NOT NULL UNIQUE,
        item text NOT NULL,
        quantity bigint NOT NULL,
        created_at bigint NOT NULL
    );
    CREATE INDEX IF NOT EXISTS orders_item ON orders (item text_pattern_ops);
    SELECT pg_advisory_unlock(7310);";

const COLUMNS: &str = "SELECT id, item, quantity, created_at FROM orders";

impl Postgres {
    /// Opens (or creates) the table.
    pub async fn open(dsn: &str, store: Option<TransactionStore>) -> anyhow::Result<Self> {
        let mut config: Config = dsn.parse().context("the connection string")?;
        config.target_session_attrs(TargetSessionAttrs::ReadWrite);
        let orders = Postgres { config: Arc::new(config), store };
        let client = orders.client().await?;
        client.batch_execute(SCHEMA).await.context("creating the table of orders")?;
        Ok(orders)
    }

    /// For reading, which is rare here.
    async fn client(&self) -> anyhow::Result<Client> {
        let (client, connection) = self.config.connect(NoTls).await.context("connecting")?;
        tokio::spawn(connection);
        Ok(client)
    }

    /// Takes an order in its attempt's transaction: it exists when the attempt's answer does.
    pub async fn insert(&self, attempt: &Attempt, new: &NewOrder) -> anyhow::Result<Order> {
        let Some(store) = &self.store else { bail!("opened for reading") };
        let NewOrder { item, quantity, .. } = new.clone();
        let created_at = now_ms();
        let request = attempt.derive_key("order");
        let transaction = attempt.transaction(store).await?;
        let row = transaction
            .as_ref()
            .query_one(
                "INSERT INTO orders (request, item, quantity, created_at)
                 VALUES ($1, $2, $3, $4) RETURNING id",
                &[&request, &item, &i64::from(quantity), &created_at],
            )
            .await?;
        Ok(Order { id: row.try_get(0)?, item, quantity, created_at })
    }

    pub async fn of_request(&self, request: String) -> anyhow::Result<Option<Order>> {
        let find = format!("{COLUMNS} WHERE request = $1");
        let found = self.client().await?.query_opt(&find, &[&request]).await?;
        found.as_ref().map(order).transpose()
    }

    pub async fn with_id(&self, id: i64) -> anyhow::Result<Option<Order>> {
        let find = format!("{COLUMNS} WHERE id = $1");
        let found = self.client().await?.query_opt(&find, &[&id]).await?;
        found.as_ref().map(order).transpose()
    }

    pub async fn all(&self, item_prefix: &str) -> anyhow::Result<Vec<Order>> {
        let find = format!("{COLUMNS} WHERE starts_with(item, $1) ORDER BY id");
        let found = self.client().await?.query(&find, &[&item_prefix]).await?;
        found.iter().map(order).collect()
    }
}

fn order(row: &Row) -> anyhow::Result<Order> {
    let quantity: i64 = row.try_get(2)?;
    Ok(Order {
        id: row.try_get(0)?,
        item: row.try_get(1)?,
        quantity: u32::try_from(quantity)?,
        created_at: row.try_get(3)?,
    })
}
