//! Consumers of real brokers, killed with SIGKILL in the middle: each message takes effect once, though
//! each is published twice and delivered again and again. The brokers are Debian's, started here on free
//! ports; where one is not installed its test says so and passes.

use std::{
    fs,
    io::Read,
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

const CONSUME: &str = env!("CARGO_BIN_EXE_queue-brokers");
const MESSAGES: usize = 120;
const KILLS: usize = 5;

/// A process that ends with its test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn program(name: &str) -> Option<PathBuf> {
    let folders = ["/usr/lib/rabbitmq/bin", "/usr/bin", "/usr/sbin", "/usr/local/bin"];
    let found =
        folders.iter().map(|folder| Path::new(folder).join(name)).find(|path| path.exists());
    if found.is_none() {
        println!("skipped: no {name} here (a Debian package)");
    }
    found
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn wait_until(what: &str, limit: Duration, mut so: impl FnMut() -> bool) {
    let until = Instant::now() + limit;
    while !so() {
        assert!(Instant::now() < until, "{what}: not within {limit:?}");
        thread::sleep(Duration::from_millis(20));
    }
}

fn listens(port: u16) {
    wait_until("the broker listens", Duration::from_secs(90), || {
        TcpStream::connect(("127.0.0.1", port)).is_ok()
    });
}

fn ask(args: &[&str]) -> Option<String> {
    let output = Command::new(CONSUME).args(args).stderr(Stdio::null()).output().unwrap();
    output.status.success().then(|| String::from_utf8(output.stdout).unwrap())
}

fn lines(path: &Path) -> Vec<String> {
    fs::read_to_string(path).unwrap_or_default().lines().map(str::to_owned).collect()
}

/// Fills the queue, kills consumers while they empty it, and looks at what was done.
fn storm(kind: &str, url: &str) {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().to_str().unwrap();
    // A broker that listens may not be ready.
    wait_until("the broker takes messages", Duration::from_secs(60), || {
        ask(&["left", kind, url]).is_some() || ask(&["fill", kind, url, "0"]).is_some()
    });
    assert!(ask(&["fill", kind, url, &MESSAGES.to_string()]).is_some(), "not filled");
    let (effects, parked) = (folder.path().join("effects"), folder.path().join("parked"));
    let consume =
        || Running(Command::new(CONSUME).args(["run", kind, url, place]).spawn().unwrap());
    for kill in 1..=KILLS {
        let mut consumer = consume();
        let goal = kill * MESSAGES / (KILLS + 2);
        wait_until("effects", Duration::from_secs(60), || {
            assert!(consumer.0.try_wait().unwrap().is_none(), "the consumer ended");
            lines(&effects).len() >= goal
        });
        drop(consumer);
    }
    let consumer = consume();
    wait_until("all is acknowledged", Duration::from_secs(90), || {
        let left = ask(&["left", kind, url]);
        left.is_some_and(|left| left.trim() == "0") && lines(&effects).len() >= MESSAGES * 9 / 10
    });
    if kind == "rabbitmq" {
        // What the consumer has in hand shows only when it is gone.
        wait_until("none comes back", Duration::from_secs(30), || {
            let before = lines(&effects).len();
            thread::sleep(Duration::from_millis(500));
            before == lines(&effects).len()
        });
    }
    drop(consumer);
    let done = lines(&effects);
    let once: std::collections::BTreeSet<_> = done.iter().collect();
    assert_eq!(once.len(), done.len(), "an effect was made twice");
    let parked: std::collections::BTreeSet<_> = lines(&parked).into_iter().collect();
    for nth in 0..MESSAGES {
        let body = format!("{} {nth}", if nth % 10 == 0 { "mail" } else { "order" });
        let was_parked = body.starts_with("mail") && parked.contains(&body);
        assert!(once.contains(&body) || was_parked, "{body} is missing");
    }
    println!("{kind}: {} effects, {} parked, {KILLS} kills", done.len(), parked.len());
}

#[test]
fn redis_streams() {
    let Some(program) = program("redis-server") else { return };
    let (port, folder) = (free_port(), tempfile::tempdir().unwrap());
    let port_text = port.to_string();
    let args = ["--port", &*port_text, "--bind", "127.0.0.1", "--appendonly", "yes", "--save", ""];
    let mut redis = Command::new(program);
    redis.args(args).arg("--dir").arg(folder.path()).stdout(Stdio::null());
    let _redis = Running(redis.spawn().unwrap());
    listens(port);
    storm("redis", &format!("redis://127.0.0.1:{port}/"));
}

#[test]
fn nats_jetstream() {
    let Some(program) = program("nats-server") else { return };
    let (port, folder) = (free_port(), tempfile::tempdir().unwrap());
    let mut nats = Command::new(program);
    nats.args(["-a", "127.0.0.1", "-p", &port.to_string(), "-js", "-sd"]).arg(folder.path());
    let _nats = Running(nats.stderr(Stdio::null()).spawn().unwrap());
    listens(port);
    storm("nats", &format!("nats://127.0.0.1:{port}"));
}

#[test]
fn rabbitmq() {
    let Some(program) = program("rabbitmq-server") else { return };
    let (port, distribution, folder) = (free_port(), free_port(), tempfile::tempdir().unwrap());
    let place = |name: &str| folder.path().join(name);
    fs::write(place("rabbitmq.conf"), "loopback_users = none\n").unwrap();
    fs::write(place("plugins"), "[].\n").unwrap();
    let mut rabbit = Command::new(program);
    rabbit
        .env("RABBITMQ_NODENAME", format!("test{port}@localhost"))
        .env("RABBITMQ_NODE_IP_ADDRESS", "127.0.0.1")
        .env("RABBITMQ_NODE_PORT", port.to_string())
        .env("RABBITMQ_DIST_PORT", distribution.to_string())
        .env("RABBITMQ_CONFIG_FILE", place("rabbitmq"))
        .env("RABBITMQ_ENABLED_PLUGINS_FILE", place("plugins"))
        .env("RABBITMQ_MNESIA_BASE", place("mnesia"))
        .env("RABBITMQ_LOG_BASE", place("log"))
        .env("RABBITMQ_PID_FILE", place("pid"))
        .env("HOME", folder.path())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let running = Running(rabbit.spawn().unwrap());
    let stop = Stopped { pid: place("pid") };
    listens(port);
    storm("rabbitmq", &format!("amqp://guest:guest@127.0.0.1:{port}/%2f"));
    drop((stop, running));
}

/// The server that a script has started, ended by its number.
struct Stopped {
    pid: PathBuf,
}

impl Drop for Stopped {
    fn drop(&mut self) {
        if let Ok(pid) = fs::read_to_string(&self.pid) {
            let _ = Command::new("kill").args(["-9", pid.trim()]).status();
        }
    }
}

#[test]
fn a_table() {
    let mut versions: Vec<_> = fs::read_dir("/usr/lib/postgresql")
        .map(|folder| folder.flatten().map(|entry| entry.path().join("bin")).collect())
        .unwrap_or_default();
    versions.sort();
    let Some(bin) = versions.pop() else {
        println!("skipped: no postgresql here (a Debian package)");
        return;
    };
    let (port, folder) = (free_port(), tempfile::tempdir().unwrap());
    let data = folder.path().join("data");
    // It refuses to run as root.
    let root = Command::new("id").arg("-u").output().unwrap().stdout.starts_with(b"0\n");
    let own = |name: &str| {
        let mut command = Command::new(if root { "setpriv" } else { "env" });
        if root {
            command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups"]);
        }
        command.arg(bin.join(name)).current_dir(folder.path()).stdout(Stdio::null());
        command
    };
    if root {
        let given = Command::new("chown").arg("postgres").arg(folder.path()).status();
        assert!(given.unwrap().success());
    }
    let mut made =
        own("initdb").arg("-D").arg(&data).args(["-A", "trust", "-U", "postgres"]).spawn().unwrap();
    assert!(made.wait().unwrap().success());
    let port_text = port.to_string();
    let mut server = own("postgres");
    server.arg("-D").arg(&data).args(["-h", "127.0.0.1", "-p", &*port_text, "-k", "/tmp"]);
    let mut server = Running(server.stderr(Stdio::piped()).spawn().unwrap());
    let mut log = server.0.stderr.take().unwrap();
    thread::spawn(move || log.read_to_end(&mut Vec::new()));
    listens(port);
    storm("table", &format!("host=127.0.0.1 port={port} user=postgres dbname=postgres"));
}
