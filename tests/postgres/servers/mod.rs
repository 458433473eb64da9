//! Real servers for the tests of the PostgreSQL backend: started on free loopback ports from the
//! binaries of the machine, under the user `postgres` if the tests run as root (servers refuse
//! root), in directories of their own that are removed at the end. Where no server is installed
//! the tests print a line and pass; `.ci/install-postgres` installs one.

#![allow(dead_code)]

pub mod cluster;
pub mod load;
pub mod patroni;
pub mod pooler;
pub mod proxy;

use onlyonce::{
    postgres::{PostgresOptions, PostgresStore, Replication},
    *,
};
use std::{
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc, LazyLock, Mutex, OnceLock, Weak,
        atomic::{AtomicU32, Ordering},
        mpsc,
    },
    time::{Duration, Instant},
};

/// Where the servers' programs are; `None` (and a line that says so) where there are none.
pub fn programs() -> Option<&'static Path> {
    static FOUND: OnceLock<Option<PathBuf>> = OnceLock::new();
    let found = FOUND.get_or_init(|| {
        let mut versions: Vec<PathBuf> = fs::read_dir("/usr/lib/postgresql")
            .into_iter()
            .flatten()
            .filter_map(|entry| Some(entry.ok()?.path().join("bin")))
            .filter(|bin| bin.join("initdb").exists() && bin.join("postgres").exists())
            .collect();
        versions.sort();
        versions.pop()
    });
    if found.is_none() {
        println!("skipped: no PostgreSQL server is installed here (.ci/install-postgres does)");
    }
    found.as_deref()
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// `program`, as the user that may run servers. Dies with this process.
fn as_postgres(program: &Path) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL"]);
    if is_root() {
        command.args(["--reuid", "postgres", "--regid", "postgres", "--clear-groups"]);
    }
    command.arg("--").arg(program).stdin(Stdio::null()).current_dir("/");
    command
}

/// Runs a program to its end.
fn run(mut command: Command) {
    let output = command.output().unwrap();
    assert!(
        output.status.success(),
        "{command:?}: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

type Spawning = (Command, mpsc::Sender<std::io::Result<Child>>);

/// Starts a child from a thread that lives as long as this process: a child that is to die with
/// its parent dies with the thread that started it.
fn spawn(command: Command) -> Child {
    static SPAWNER: LazyLock<Mutex<mpsc::Sender<Spawning>>> = LazyLock::new(|| {
        let (ask, asked) = mpsc::channel::<Spawning>();
        std::thread::spawn(move || {
            for (mut command, answer) in asked {
                let _ = answer.send(command.spawn());
            }
        });
        Mutex::new(ask)
    });
    let (answer, child) = mpsc::channel();
    SPAWNER.lock().unwrap().send((command, answer)).unwrap();
    child.recv().unwrap().unwrap()
}

/// A directory that servers can enter; removed when dropped.
#[derive(Debug)]
pub struct Place(PathBuf);

impl Place {
    pub fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let n = COUNT.fetch_add(1, Ordering::SeqCst);
        let path = std::env::temp_dir().join(format!("onlyonce-pg-{}-{n}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        let place = Place(path);
        place.give_to_servers();
        place
    }

    pub fn give_to_servers(&self) {
        give_to_servers(&self.0);
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn give_to_servers(path: &Path) {
    if is_root() {
        let mut chown = Command::new("chown");
        chown.arg("postgres:postgres").arg(path);
        run(chown);
    }
}

/// A port that nobody uses now. From below those that systems give to clients (32,768 and more): a
/// server that is started again finds it free.
pub fn free_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    loop {
        let nth =
            std::process::id().wrapping_mul(37).wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed));
        let port = 10_000 + (nth % 20_000) as u16;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// One server.
#[derive(Debug)]
pub struct Server {
    bin: &'static Path,
    place: Place,
    pub port: u16,
    running: Mutex<Option<Child>>,
    frozen: Mutex<Vec<rustix::process::Pid>>,
    /// With `POOLER=session` in the environment: what stores go through.
    through: OnceLock<Option<pooler::Pooler>>,
}

/// Small, quick, and without syncs: what these tests kill are processes, not machines.
const CONFIG: &str = "
listen_addresses = '127.0.0.1'
max_connections = 150
shared_buffers = 32MB
fsync = off
wal_level = replica
max_wal_senders = 10
wal_log_hints = on
hot_standby = on
wal_keep_size = 128MB
wal_receiver_status_interval = 1s
log_min_messages = warning
";

impl Server {
    /// A new database cluster, running.
    pub fn start(bin: &'static Path) -> Self {
        Self::start_with(bin, "")
    }

    pub fn start_with(bin: &'static Path, config: &str) -> Self {
        Self::first_start(bin, Self::initdb(bin, config), free_port())
    }

    /// The same, at this port if it is free.
    pub fn start_at(bin: &'static Path, port: u16) -> Self {
        Self::first_start(bin, Self::initdb(bin, ""), port)
    }

    /// A place with a new database cluster in it.
    fn initdb(bin: &'static Path, config: &str) -> Place {
        let place = Place::new();
        let data = place.path().join("data");
        let mut initdb = as_postgres(&bin.join("initdb"));
        initdb.args(["--auth=trust", "--username=postgres", "--no-sync", "--no-instructions"]);
        initdb.args(["--encoding=UTF8", "--locale=C", "-D"]).arg(&data);
        run(initdb);
        let sockets = place.path().display();
        let config = format!("{CONFIG}\nunix_socket_directories = '{sockets}'\n{config}\n");
        append(&data.join("postgresql.conf"), &config);
        place
    }

    /// A standby of this server, running, under this name.
    pub fn standby(&self, name: &str) -> Self {
        let place = Place::new();
        let data = place.path().join("data");
        let mut copy = as_postgres(&self.bin.join("pg_basebackup"));
        copy.args(["-h", "127.0.0.1", "-U", "postgres", "-X", "stream", "-c", "fast", "-R"]);
        copy.arg("-p").arg(self.port.to_string()).arg("-N").arg("-D").arg(&data);
        run(copy);
        append(
            &data.join("postgresql.auto.conf"),
            &format!(
                "primary_conninfo = '{}'\nunix_socket_directories = '{}'\n",
                self.conninfo(name),
                place.path().display()
            ),
        );
        Server::first_start(self.bin, place, free_port())
    }

    /// Starts a server that is new. Its port was free a moment ago; if another program has taken it,
    /// it gets another one.
    fn first_start(bin: &'static Path, place: Place, port: u16) -> Self {
        let (running, frozen) = (Mutex::new(None), Mutex::default());
        let mut server = Server { bin, place, port, running, frozen, through: OnceLock::new() };
        for _ in 0..10 {
            match server.try_start() {
                Ok(()) => return server,
                Err(said) => assert!(said.contains("Address already in use"), "{said}"),
            }
            server.port = free_port();
        }
        panic!("no port is free");
    }

    /// How a standby of this name reaches this server.
    pub fn conninfo(&self, name: &str) -> String {
        format!("host=127.0.0.1 port={} user=postgres application_name={name}", self.port)
    }

    pub fn data(&self) -> PathBuf {
        self.place.path().join("data")
    }

    /// A file in the server's directory is its own, and nobody else's.
    pub fn own(&self, file: &str) {
        let path = self.data().join(file);
        fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        give_to_servers(&path);
    }

    /// Starts the server where it was stopped. Processes of a server that was killed end a while
    /// after it, as each notices; a new one refuses to start beside them ("pre-existing shared
    /// memory block is still in use"), and so does one whose port is not free yet. It is started
    /// again until they have gone.
    pub fn resume(&self) {
        let start = Instant::now();
        while let Err(said) = self.try_start() {
            let passes = said.contains("still in use") || said.contains("Address already in use");
            assert!(passes && start.elapsed() < PATIENCE, "does not start: {said}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Starts the server, and waits until it takes connections; or what it says if it ends instead.
    fn try_start(&self) -> Result<(), String> {
        let said_before = self.log().len();
        let log = fs::File::options().create(true).append(true).open(self.log_file()).unwrap();
        // What a killed server leaves is no running one.
        let socket = format!(".s.PGSQL.{}", self.port);
        for left in [
            self.data().join("postmaster.pid"),
            self.place.path().join(format!("{socket}.lock")),
            self.place.path().join(socket),
        ] {
            let _ = fs::remove_file(left);
        }
        let mut command = as_postgres(&self.bin.join("postgres"));
        command.arg("-D").arg(self.data()).arg("-p").arg(self.port.to_string());
        command.stdout(Stdio::null()).stderr(log);
        let mut child = spawn(command);
        let start = Instant::now();
        let ended = loop {
            if self.is_ready(child.id()) {
                break None;
            }
            if let Some(status) = child.try_wait().unwrap() {
                break Some(status);
            }
            if start.elapsed() > PATIENCE {
                let _ = child.kill();
                panic!("does not take connections: {}", self.log());
            }
            std::thread::sleep(Duration::from_millis(20));
        };
        let Some(status) = ended else {
            *self.running.lock().unwrap() = Some(child);
            return Ok(());
        };
        Err(format!("{status}: {}", self.log().get(said_before..).unwrap_or_default()))
    }

    /// Whether the server that is this process takes connections. It says so itself: an answer at
    /// its port could be another server's.
    fn is_ready(&self, process: u32) -> bool {
        let notes = fs::read_to_string(self.data().join("postmaster.pid")).unwrap_or_default();
        let mut lines = notes.lines();
        let pid = lines.next().and_then(|line| line.trim().parse().ok());
        pid == Some(process) && lines.nth(6).is_some_and(|status| status.trim() == "ready")
    }

    fn log_file(&self) -> PathBuf {
        self.place.path().join("log")
    }

    /// What it has said so far.
    pub fn log(&self) -> String {
        let bytes = fs::read(self.log_file()).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    pub async fn connect(
        &self,
        database: &str,
    ) -> Result<tokio_postgres::Client, tokio_postgres::Error> {
        let (client, connection) =
            tokio_postgres::connect(&self.own_dsn(database), tokio_postgres::NoTls).await?;
        tokio::spawn(connection);
        Ok(client)
    }

    /// Runs statements as the superuser; the first column of the last row.
    pub async fn sql(&self, database: &str, sql: &str) -> Option<String> {
        let client = self.connect(database).await.unwrap();
        let answers = client.simple_query(sql).await.unwrap_or_else(|e| panic!("{sql}: {e:?}"));
        let rows = answers.into_iter().filter_map(|answer| match answer {
            tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
            _ => None,
        });
        rows.last()
    }

    /// Where stores find it: itself, or (`POOLER=session cargo test ..`) a pooler in front of it.
    pub fn dsn(&self, database: &str) -> String {
        let through = self.through.get_or_init(|| {
            let mode = std::env::var("POOLER").ok()?;
            pooler::Pooler::start(self, &mode)
        });
        match through {
            Some(pooler) => pooler.dsn(database),
            None => self.own_dsn(database),
        }
    }

    /// The server itself.
    pub fn own_dsn(&self, database: &str) -> String {
        format!("host=127.0.0.1 port={} user=postgres dbname={database}", self.port)
    }

    fn pid(&self) -> Option<rustix::process::Pid> {
        let running = self.running.lock().unwrap();
        running.as_ref().map(rustix::process::Pid::from_child)
    }

    /// kill -9, of the server and (by losing it) of all its processes.
    pub fn kill(&self) {
        self.end(rustix::process::Signal::KILL);
    }

    /// Ends all connections and stops.
    pub fn stop(&self) {
        self.end(rustix::process::Signal::INT);
    }

    fn end(&self, signal: rustix::process::Signal) {
        if let Some(pid) = self.pid() {
            let _ = rustix::process::kill_process(pid, signal);
            if let Some(mut child) = self.running.lock().unwrap().take() {
                let _ = child.wait();
            }
        }
    }

    /// Stops all its processes where they are.
    pub async fn freeze(&self) {
        let stop = |pid| {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::STOP);
            self.frozen.lock().unwrap().push(pid);
        };
        let client = self.connect("postgres").await.unwrap();
        // First the one that starts others.
        stop(self.pid().expect("it runs"));
        let pids = client.query("SELECT pid FROM pg_stat_activity", &[]).await.unwrap();
        pids.iter().filter_map(|row| rustix::process::Pid::from_raw(row.get(0))).for_each(stop);
    }

    /// They go on.
    pub fn thaw(&self) {
        for pid in self.frozen.lock().unwrap().drain(..) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::CONT);
        }
    }

    /// The configuration is read again after this is appended to it.
    pub async fn configure(&self, setting: &str, value: &str) {
        let set = format!("ALTER SYSTEM SET {setting} = '{value}'");
        self.sql("postgres", &set).await;
        self.sql("postgres", "SELECT pg_reload_conf()").await;
        let shown = format!("SHOW {setting}");
        until(async || self.sql("postgres", &shown).await.as_deref() == Some(value)).await;
    }

    /// The running server that the tests of this process share.
    pub fn shared() -> Option<Arc<Server>> {
        static SHARED: Mutex<Weak<Server>> = Mutex::new(Weak::new());
        let bin = programs()?;
        let mut shared = SHARED.lock().unwrap_or_else(|broken| broken.into_inner());
        Some(shared.upgrade().unwrap_or_else(|| {
            let server = Arc::new(Server::start(bin));
            *shared = Arc::downgrade(&server);
            server
        }))
    }

    /// A new database with the tables of a store in it.
    pub async fn database(&self) -> String {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("db{}", COUNT.fetch_add(1, Ordering::SeqCst));
        self.sql("postgres", &format!("CREATE DATABASE {name}")).await;
        options(&self.dsn(&name)).migrate().await.unwrap();
        name
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.thaw();
        self.end(rustix::process::Signal::QUIT);
    }
}

fn append(file: &Path, text: &str) {
    use std::io::Write;
    let mut file = fs::File::options().append(true).open(file).unwrap();
    file.write_all(text.as_bytes()).unwrap();
}

/// Options of a store of one server, which sweeps only when asked to.
pub fn options(dsn: &str) -> PostgresOptions {
    PostgresOptions::new(dsn, Replication::SingleServer).sweep_every(None).max_response(4096)
}

/// A clock in a database that stands still until it is told to move.
pub struct ServerClock {
    server: Arc<Server>,
    database: String,
}

impl ServerClock {
    pub async fn new(server: &Arc<Server>, database: &str) -> Self {
        let create = "CREATE SEQUENCE test_clock; SELECT setval('test_clock', 1800000000000000);
            CREATE FUNCTION test_now() RETURNS bigint LANGUAGE sql VOLATILE
            AS 'SELECT last_value FROM test_clock'";
        server.sql(database, create).await;
        ServerClock { server: server.clone(), database: database.into() }
    }

    /// Options of a store that goes by this clock.
    pub fn options(&self) -> PostgresOptions {
        options(&self.server.dsn(&self.database)).clock_us("test_now()")
    }

    pub fn database(&self) -> &str {
        &self.database
    }

    pub async fn advance(&self, by: Duration) {
        self.shift(by.as_micros() as i64).await;
    }

    /// Backwards, too.
    pub async fn shift(&self, us: i64) {
        let set = format!("SELECT setval('test_clock', last_value + ({us})) FROM test_clock");
        self.server.sql(&self.database, &set).await;
    }
}

/// A store on a database of its own, and its clock.
pub async fn manual() -> Option<(PostgresStore, ServerClock, Arc<Server>)> {
    let server = Server::shared()?;
    let database = server.database().await;
    let clock = ServerClock::new(&server, &database).await;
    let store = clock.options().connect().await.unwrap();
    Some((store, clock, server))
}

/// Runs a test's future; one that hangs fails.
pub fn block_on<T>(future: impl Future<Output = T>) -> T {
    block_on_for(Duration::from_secs(300), future)
}

/// The same for what takes longer.
pub fn block_on_for<T>(limit: Duration, future: impl Future<Output = T>) -> T {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let value =
        runtime.block_on(async { tokio::time::timeout(limit, future).await.expect("it hangs") });
    runtime.shutdown_background();
    value
}

/// How long a test waits for what must come: much longer than it takes on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Waits for something that others bring about.
pub async fn until(condition: impl AsyncFnMut() -> bool) {
    until_within(PATIENCE, condition).await;
}

/// Begins, again while the server is too slow or not reached: what is looked at is what the answer
/// is, not how soon it comes.
pub async fn begin_patiently<S: IdempotencyStore>(
    store: &AsyncStore<S>,
    name: &str,
) -> Begin<AsyncStore<S>> {
    let start = Instant::now();
    loop {
        match store.begin(key(name), print()).await {
            Err(BeginError::Unavailable { .. }) if start.elapsed() < PATIENCE => {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            begun => return begun.unwrap(),
        }
    }
}

/// The same for what takes longer.
pub async fn until_within(limit: Duration, mut condition: impl AsyncFnMut() -> bool) {
    let start = Instant::now();
    while !condition().await {
        assert!(start.elapsed() < limit, "it never came about");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

static SCOPE: LazyLock<Scope> = LazyLock::new(|| Scope::of(["tenant", "orders"]));

pub fn key(name: &str) -> KeyRef<'_> {
    KeyRef::new(&SCOPE, name).unwrap()
}

pub fn print() -> Fingerprint {
    Fingerprint::of(["POST", "/orders", "book"])
}
