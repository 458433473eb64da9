//! A service that uses `rustls` with aws-lc-rs beside the store on PostgreSQL. Outside the workspace,
//! because the features of `rustls` are one set for a whole build.

use onlyonce::postgres::{PostgresOptions, Replication};

/// An authority: self-signed, P-256, valid until 2126.
const AUTHORITY: &str = include_str!("authority.pem");

/// A store behind TLS at a port of this machine.
pub fn options(port: u16) -> PostgresOptions {
    let dsn = format!("host=localhost hostaddr=127.0.0.1 port={port} user=shop dbname=shop");
    PostgresOptions::new(dsn, Replication::SingleServer).tls_roots(AUTHORITY)
}
