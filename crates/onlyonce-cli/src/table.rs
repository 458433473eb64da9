//! `--dsn`: a store in PostgreSQL, asked through an admin service in this process.

#[cfg(not(feature = "postgres"))]
use super::{
    args::Table,
    fail::{Code, Failure},
    out::Out,
};
#[cfg(feature = "postgres")]
pub use with::Here;

/// A build that knows no PostgreSQL.
#[cfg(not(feature = "postgres"))]
pub enum Here {}

#[cfg(not(feature = "postgres"))]
impl Here {
    pub fn connect(_: &str, _: &Table) -> Result<Self, Failure> {
        let line = "this onlyonce knows no PostgreSQL: install it with `cargo install onlyonce-cli \
                    --features postgres`";
        Err(Failure::new(Code::Misused, line))
    }

    pub fn ask(&self, _: &str, _: &[(&str, String)]) -> Result<serde_json::Value, Failure> {
        match *self {}
    }

    pub fn change(&self, _: &str, _: &serde_json::Value) -> Result<serde_json::Value, Failure> {
        match *self {}
    }

    pub fn raw(&self, _: &str, _: &str, _: &mut Out) -> Result<(), Failure> {
        match *self {}
    }

    pub fn items(
        &self,
        _: impl FnMut(&onlyonce::inspect::Item) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        match *self {}
    }
}

#[cfg(feature = "postgres")]
mod with {
    use super::super::{
        args::Table,
        fail::{Code, Failure},
        names::{parse_key, parse_scope},
        out::Out,
        remote,
    };
    use http::{Method, Request, StatusCode};
    use http_body::Body;
    use onlyonce::{
        KeyRef, OpenError, State, StoreError,
        admin::{Admin, AdminBody},
        inspect::Item,
        postgres::{PostgresOptions, PostgresStore, Replication},
    };
    use serde_json::Value;
    use std::{future::poll_fn, pin::pin};
    use tower_service::Service;

    /// Rows that are read at a time.
    const ROWS: u32 = 1000;

    /// The store, and its admin service.
    pub struct Here {
        runtime: tokio::runtime::Runtime,
        store: PostgresStore,
        admin: Admin,
    }

    impl Here {
        pub fn connect(dsn: &str, table: &Table) -> Result<Self, Failure> {
            let dsn = match dsn {
                "-" => std::env::var("ONLYONCE_DSN").map_err(|_| {
                    Failure::new(Code::Misused, "--dsn -: $ONLYONCE_DSN is not set")
                })?,
                dsn => dsn.to_owned(),
            };
            let roots = match &table.tls_roots {
                Some(file) => {
                    let reading = format!("reading {}", file.display());
                    Some(std::fs::read(file).map_err(Failure::io(reading))?)
                }
                None => None,
            };
            let options = |replication| {
                let options = PostgresOptions::new(&*dsn, replication)
                    .schema(&*table.schema)
                    .table(&*table.table)
                    // What a service of any options may have stored.
                    .max_response(onlyonce::RESPONSE_BYTES_MAX)
                    .sweep_every(None);
                match &roots {
                    Some(pem) => options.tls_roots(pem.clone()),
                    None => options,
                }
            };
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let runtime = runtime.map_err(Failure::io("starting a runtime"))?;
            let connected = runtime.block_on(async {
                // A decision waits for the standbys, where the cluster has any that commits wait for.
                match options(Replication::Replicated).connect().await {
                    Err(OpenError::NotReplicated { .. }) => {
                        options(Replication::SingleServer).connect().await
                    }
                    connected => connected,
                }
            });
            let store = connected.map_err(|error| match error {
                OpenError::Options { .. } => Failure::new(Code::Misused, error.to_string()),
                OpenError::NotMigrated { .. } => Failure::new(Code::NoStore, error.to_string()),
                error => error.into(),
            })?;
            Ok(Here { admin: Admin::new(&store), runtime, store })
        }

        pub fn ask(&self, path: &str, parameters: &[(&str, String)]) -> Result<Value, Failure> {
            let query: Vec<_> = parameters
                .iter()
                .map(|(name, value)| format!("{name}={}", percent(value)))
                .collect();
            self.heard(Method::GET, &format!("{path}?{}", query.join("&")), String::new())
        }

        pub fn change(&self, path: &str, body: &Value) -> Result<Value, Failure> {
            self.heard(Method::POST, path, body.to_string())
        }

        fn heard(&self, method: Method, path: &str, body: String) -> Result<Value, Failure> {
            let request = Request::builder()
                .method(method)
                .uri(format!("/api/{path}"))
                .header("x-onlyonce-admin", "1")
                .header("content-type", "application/json")
                .body(body)
                .expect("its parts are encoded");
            let (status, bytes) = self.runtime.block_on(async {
                let Ok(answer) = self.admin.clone().call(request).await;
                (answer.status(), read(answer.into_body()).await)
            });
            let failed = |error: String| Failure::new(Code::Failed, error);
            let value = serde_json::from_slice(&bytes).unwrap_or_default();
            match status {
                StatusCode::OK | StatusCode::ACCEPTED => Ok(value),
                status => remote::refused(status, value, failed),
            }
        }

        /// Writes a key's stored answer, and nothing else.
        pub fn raw(&self, scope: &str, key: &str, out: &mut Out) -> Result<(), Failure> {
            let (scope, key) = (parse_scope(scope)?, parse_key(key)?);
            let key = KeyRef::new(&scope, &key)
                .map_err(|error| Failure::new(Code::Misused, error.to_string()))?;
            let entry = self.runtime.block_on(self.store.get(key))?;
            let stored = entry.as_ref().and_then(|entry| match &entry.state {
                State::Completed(record) => record.response(),
                State::Interrupted { answer, .. } => answer.as_deref(),
                _ => None,
            });
            match stored {
                Some(bytes) => out.raw(bytes),
                None => Err(Failure::new(Code::NoKey, "no answer is stored of this key")),
            }
        }

        /// All keys, by scope and key.
        pub fn items(
            &self,
            mut each: impl FnMut(&Item) -> Result<(), Failure>,
        ) -> Result<(), Failure> {
            let mut after = None;
            loop {
                let page: Result<_, StoreError> =
                    self.runtime.block_on(self.store.items(after, ROWS));
                let (items, next) = page?;
                items.iter().try_for_each(&mut each)?;
                if next.is_none() {
                    return Ok(());
                }
                after = next;
            }
        }
    }

    async fn read(body: AdminBody) -> Vec<u8> {
        let (mut body, mut bytes) = (pin!(body), Vec::new());
        while let Some(Ok(frame)) = poll_fn(|context| body.as_mut().poll_frame(context)).await {
            bytes.extend_from_slice(frame.data_ref().map_or(&[][..], |data| &data[..]));
        }
        bytes
    }

    fn percent(text: &str) -> String {
        let shown = |byte: &u8| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' => char::from(*byte).to_string(),
            byte => format!("%{byte:02X}"),
        };
        text.as_bytes().iter().map(shown).collect()
    }
}
