//! Runs the service: open, listen, and stop in good order.

use crate::{
    admin,
    backend::{Backend, Choice},
    http::{self, App},
    observe,
};
use anyhow::{Context, bail};
use clap::Args;
use onlyonce::{AnyStore, http::IdempotencyLayer};
use std::{future::IntoFuture, io, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    sync::oneshot,
    time::{Instant, timeout},
};

/// How long requests that run at a stop may go on.
const GRACE: Duration = Duration::from_secs(30);

/// What the first line of output says before the address.
pub const LISTENING: &str = "listening on http://";
/// What the line says that follows the number of interrupted keys found at the start.
pub const INTERRUPTED: &str = " interrupted";

/// How to serve.
#[derive(Args)]
pub struct Serve {
    /// Where to listen; port 0 takes a free one.
    #[arg(long, default_value = "127.0.0.1:8080")]
    listen: SocketAddr,
    /// Where the embedded store and its orders are kept.
    #[arg(long, default_value = "orders-data")]
    dir: PathBuf,
    /// Who knows this may use the admin service under /admin; without it there is none.
    #[arg(long, env = "ORDERS_ADMIN_TOKEN", hide_env_values = true)]
    admin_token: Option<String>,
    /// What is told on stderr: error, warn, info, debug or trace.
    #[arg(long, default_value = "warn")]
    log: tracing::Level,
    #[command(flatten)]
    choice: Choice,
}

/// Serves until SIGTERM or ctrl-c.
pub async fn run(serve: &Serve) -> anyhow::Result<()> {
    let Serve { listen, dir, admin_token, log, choice } = serve;
    observe::log(*log);
    let backend = choice.open(dir).await?;
    // From here on signals are ours.
    let mut stop = Stop::new()?;
    // Last, so that nobody is kept waiting meanwhile.
    let listener =
        TcpListener::bind(listen).await.with_context(|| format!("listening on {listen}"))?;
    let token = admin_token.as_ref().filter(|token| !token.is_empty());
    welcome(&listener, &backend, token.is_some())?;

    let orders = backend.orders().clone();
    let idempotency = http::idempotency(backend.store(), orders.clone());
    let app = Arc::new(App { orders });
    let (tell, told) = oneshot::channel::<()>();
    let mut routes = http::router(app, idempotency.clone());
    if let Some(operators) = backend.operators() {
        routes = routes.merge(observe::metrics(operators.clone())?);
        if let Some(token) = token {
            routes = routes.merge(admin::routes(operators, token.clone()));
        }
    }
    let serving = axum::serve(listener, routes)
        .with_graceful_shutdown(async { told.await.unwrap_or_default() })
        .into_future();
    let serving = tokio::spawn(serving);

    stop.asked().await;
    println!("stopping when the running requests are done; once more to stop at once");
    let _ = tell.send(());
    tokio::select! {
        stopped = orderly(serving, idempotency, backend) => stopped,
        () = stop.asked() => bail!("stopped at once; what ran is settled when it is retried"),
    }
}

/// Lets connections and handlers end, then closes the store.
async fn orderly(
    serving: tokio::task::JoinHandle<io::Result<()>>,
    idempotency: IdempotencyLayer<AnyStore>,
    backend: Backend,
) -> anyhow::Result<()> {
    let until = Instant::now() + GRACE;
    let _ = timeout(GRACE, serving).await;
    // Handlers whose client has gone have no connection that was waited for.
    let left = idempotency.drain(until.saturating_duration_since(Instant::now())).await;
    if left > 0 {
        println!("{left} requests still ran; they are settled when they are retried");
    }
    backend.close().await?;
    println!("stopped");
    Ok(())
}

fn welcome(listener: &TcpListener, backend: &Backend, has_token: bool) -> io::Result<()> {
    let at = listener.local_addr()?;
    let (kept, interrupted) = backend.found();
    let kept = kept.map_or("answers kept".into(), |kept| format!("{kept} answers kept"));
    println!("{LISTENING}{at}");
    println!("{kept}, {interrupted}{INTERRUPTED}");
    println!(
        r#"
an order; send it twice, and the second answer is the first one again:
  curl -i http://{at}/orders -H 'Idempotency-Key: "order-1"' --json '{{"item":"book","quantity":1}}'
another order under the same key is refused, 422:
  curl -i http://{at}/orders -H 'Idempotency-Key: "order-1"' --json '{{"item":"lamp","quantity":1}}'
a slow one; send it again meanwhile for a 409, or kill -9 {pid}, start again and then send it again:
  curl -i http://{at}/orders -H 'Idempotency-Key: "order-2"' --json '{{"item":"desk","quantity":1,"delay_ms":20000}}'
what was ordered, and what the store tells of itself:
  curl http://{at}/orders
  curl http://{at}/metrics
"#,
        pid = std::process::id()
    );
    if backend.operators().is_none() {
        return Ok(());
    }
    let page = format!("http://{at}/admin");
    if has_token {
        println!("the admin page (any name, and the token as password):\n  {page}");
    } else {
        println!("with --admin-token TOKEN there is an admin page at {page}");
    }
    Ok(())
}

/// SIGTERM and ctrl-c.
struct Stop([tokio::signal::unix::Signal; 2]);

impl Stop {
    fn new() -> io::Result<Self> {
        let terminate = signal(SignalKind::terminate())?;
        Ok(Stop([terminate, signal(SignalKind::interrupt())?]))
    }

    async fn asked(&mut self) {
        let [terminate, interrupt] = &mut self.0;
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    }
}
