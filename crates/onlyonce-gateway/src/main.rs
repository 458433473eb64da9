//! A reverse proxy with the idempotency layer: a retried request reaches the service behind it once.

#![forbid(unsafe_code)]

mod keys;
mod manage;
mod scope;
mod serve;
mod settle;
mod upstream;

use anyhow::Context;
use clap::Parser;
use http::{Method, Uri};
use onlyonce::http::{IdempotencyLayer, Policy};
use std::{net::SocketAddr, process::ExitCode, time::Duration};
use tokio::net::TcpListener;
use tower_layer::Layer;

/// What the first line of output says before the address.
const LISTENING: &str = "listening on http://";

/// A reverse proxy that makes retried requests take effect once.
///
/// It speaks plain HTTP/1.1 to both sides. TLS and authentication are an outer proxy's; the scope
/// is what that has found out.
#[derive(Parser)]
#[command(version)]
struct Args {
    /// Where to listen; port 0 takes a free one.
    #[arg(long, default_value = "127.0.0.1:8080")]
    listen: SocketAddr,
    /// The service behind: http://host:port, and perhaps a path to put before each request's.
    #[arg(long)]
    upstream: Uri,
    /// Where health, metrics and the admin page are: another address, for operators only.
    #[arg(long)]
    manage: Option<SocketAddr>,
    /// With --manage: who knows this may use /admin; without it there is no admin page.
    #[arg(long, env = "ONLYONCE_ADMIN_TOKEN", hide_env_values = true)]
    admin_token: Option<String>,
    #[command(flatten)]
    scope: scope::Choice,
    #[command(flatten)]
    keys: keys::Choice,
    /// The methods whose requests need a key.
    #[arg(long, value_delimiter = ',', default_value = "POST,PATCH")]
    methods: Vec<Method>,
    /// The paths whose requests need a key, as /orders or /orders/*. Default: all.
    #[arg(long, value_delimiter = ',')]
    paths: Vec<String>,
    /// Lets requests pass that have no key.
    #[arg(long)]
    optional: bool,
    /// The header of the key.
    #[arg(long, default_value = "idempotency-key")]
    header: http::HeaderName,
    /// Seconds that a retry waits for a request that is still executed, before it gets 409.
    #[arg(long, default_value_t = 0)]
    wait: u64,
    /// Seconds that the service has for the head of its answer.
    #[arg(long, default_value_t = 60)]
    upstream_timeout: u64,
    /// Seconds that a connection to the service is kept for the next request: less than the service
    /// itself keeps it.
    #[arg(long, default_value_t = 2)]
    upstream_idle: u64,
    /// Where to ask what became of an interrupted request. Without it an operator decides.
    #[arg(long)]
    settle: Option<Uri>,
    /// Sends an interrupted request again: for a service that recognises it by its derived key.
    #[arg(long, conflicts_with = "settle")]
    resume: bool,
    /// Statuses of answers that mean that nothing was done, beyond the usual ones.
    #[arg(long, value_delimiter = ',')]
    nothing_done: Vec<http::StatusCode>,
    /// The largest body of a request, in bytes.
    #[arg(long, default_value_t = 1 << 20)]
    max_body: usize,
    /// Passes everything on as it is: what the layer costs, measured.
    #[arg(long, hide = true)]
    bare: bool,
}

fn main() -> ExitCode {
    let args = Args::parse();
    tracing_subscriber::fmt()
        .with_max_level(tracing_subscriber::filter::LevelFilter::WARN)
        .with_writer(std::io::stderr)
        .init();
    let runtime = tokio::runtime::Runtime::new().expect("the system starts threads");
    let ended = runtime.block_on(run(args));
    runtime.shutdown_background();
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(args: Args) -> anyhow::Result<()> {
    let mut stop = serve::Stop::new()?;
    let upstream = upstream::Upstream::new(
        args.upstream.clone(),
        Duration::from_secs(args.upstream_timeout),
        Duration::from_secs(args.upstream_idle),
    )?;
    let keys = args.keys.open().await?;
    let layer = layer(&args, &keys)?;
    // Last: who connects is served.
    let listener = TcpListener::bind(args.listen).await;
    let listener = listener.with_context(|| format!("listening on {}", args.listen))?;
    let managing = match args.manage {
        None => None,
        Some(address) => {
            let listener = TcpListener::bind(address).await;
            let listener = listener.with_context(|| format!("listening on {address}"))?;
            let token = args.admin_token.clone().filter(|token| !token.is_empty());
            let manage = manage::Manage::new(&keys, layer.clone(), token)?;
            Some((listener, manage))
        }
    };
    println!("{LISTENING}{}", listener.local_addr()?);
    if let Some((listener, manage)) = managing {
        println!("managed on http://{}", listener.local_addr()?);
        tokio::spawn(serve::serve(listener, manage, std::future::pending()));
    }
    let service = layer.layer(upstream);
    serve::serve(listener, service, stop.asked()).await;
    let left = layer.drain(serve::GRACE).await;
    if left > 0 {
        println!("{left} requests still ran; they are interrupted");
    }
    drop(layer);
    keys.close().await?;
    println!("stopped");
    Ok(())
}

/// The layer as the arguments say.
fn layer(args: &Args, keys: &keys::Keys) -> anyhow::Result<IdempotencyLayer<onlyonce::AnyStore>> {
    let mut layer = IdempotencyLayer::new(keys.any(), args.scope.scope()?)
        .header(args.header.clone())
        .methods(args.methods.iter().filter(|_| !args.bare).cloned())
        .wait(Duration::from_secs(args.wait))
        .max_body(args.max_body)
        .policy(Policy::default().nothing_done(args.nothing_done.iter().copied()));
    if !args.paths.is_empty() {
        layer = layer.paths(args.paths.iter().cloned());
    }
    if args.optional {
        layer = layer.optional();
    }
    if args.resume {
        layer = layer.resume();
    }
    if let Some(place) = &args.settle {
        let settle = settle::CallBack::new(place.clone())?;
        layer = layer.settle(move |attempt, request| settle.clone().ask(attempt, request));
    }
    layer.check().map_err(|wrong| anyhow::anyhow!("{wrong}"))?;
    Ok(layer)
}
