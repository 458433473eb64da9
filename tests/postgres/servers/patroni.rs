//! Three servers under Patroni with strictly synchronous replication, and one etcd: somebody else
//! is the manager of failovers here.

use super::*;

/// A cluster that is managed.
pub struct Managed {
    place: Place,
    ports: [u16; 3],
    processes: Mutex<[Option<Child>; 3]>,
    _etcd: Killed,
}

/// Killed when dropped.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn program(name: &str) -> Option<PathBuf> {
    let found = ["/usr/bin", "/usr/local/bin"].map(|dir| Path::new(dir).join(name));
    found.into_iter().find(|path| path.exists())
}

impl Managed {
    /// `None` (and a line that says so) where Patroni or etcd is not installed.
    pub fn start(bin: &'static Path) -> Option<Self> {
        let (Some(patroni), Some(etcd)) = (program("patroni"), program("etcd")) else {
            println!("skipped: Patroni and etcd are not installed here");
            return None;
        };
        let place = Place::new();
        let log = |name: &str| {
            let path = place.path().join(name);
            fs::File::options().create(true).append(true).open(path).unwrap()
        };
        let (client, peer) = (free_port(), free_port());
        let url = |port: u16| format!("http://127.0.0.1:{port}");
        let mut command = as_postgres(&etcd);
        command.arg("--data-dir").arg(place.path().join("etcd"));
        command.args([
            "--listen-client-urls",
            &url(client),
            "--advertise-client-urls",
            &url(client),
        ]);
        command.args(["--listen-peer-urls", &url(peer), "--unsafe-no-fsync"]);
        command.args(["--initial-advertise-peer-urls", &url(peer)]);
        command.args(["--initial-cluster", &format!("default={}", url(peer))]);
        command.stdout(log("etcd.log")).stderr(log("etcd.log"));
        let etcd = Killed(spawn(command));
        let ports = [(); 3].map(|()| free_port());
        let mut processes = [None, None, None];
        for (i, process) in processes.iter_mut().enumerate() {
            let file = place.path().join(format!("n{i}.yml"));
            fs::write(&file, node(i, ports[i], client, place.path(), bin)).unwrap();
            give_to_servers(&file);
            let mut command = as_postgres(&patroni);
            command.arg(&file);
            let name = format!("n{i}.log");
            command.stdout(log(&name)).stderr(log(&name));
            *process = Some(spawn(command));
        }
        Some(Managed { place, ports, processes: Mutex::new(processes), _etcd: etcd })
    }

    /// All hosts.
    pub fn dsn(&self) -> String {
        let ports = self.ports.map(|port| port.to_string()).join(",");
        format!("host=127.0.0.1,127.0.0.1,127.0.0.1 port={ports} user=postgres dbname=postgres")
    }

    /// Waits until there is a primary with a synchronous standby; which it is.
    pub async fn ready(&self) -> usize {
        let mut primary = None;
        until_within(Duration::from_secs(90), async || {
            for (i, port) in self.ports.iter().enumerate() {
                if is_synchronous(*port).await {
                    primary = Some(i);
                }
            }
            primary.is_some()
        })
        .await;
        primary.unwrap()
    }

    /// Kills a node's manager and server.
    pub fn kill(&self, node: usize) {
        if let Some(mut manager) = self.processes.lock().unwrap()[node].take() {
            let _ = manager.kill();
            let _ = manager.wait();
        }
        self.kill_server(node);
    }

    fn kill_server(&self, node: usize) {
        let pid = self.place.path().join(format!("d{node}/postmaster.pid"));
        let pid = fs::read_to_string(pid).ok().and_then(|text| text.lines().next()?.parse().ok());
        if let Some(pid) = pid.and_then(rustix::process::Pid::from_raw) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
    }
}

impl Drop for Managed {
    fn drop(&mut self) {
        (0..3).for_each(|node| self.kill(node));
    }
}

async fn is_synchronous(port: u16) -> bool {
    let dsn = format!("host=127.0.0.1 port={port} user=postgres dbname=postgres");
    let Ok((client, connection)) = tokio_postgres::connect(&dsn, tokio_postgres::NoTls).await
    else {
        return false;
    };
    tokio::spawn(connection);
    let sql = "SELECT NOT pg_is_in_recovery() AND EXISTS (SELECT FROM pg_stat_replication \
               WHERE sync_state IN ('sync', 'quorum'))";
    client.query_one(sql, &[]).await.is_ok_and(|row| row.get(0))
}

fn node(i: usize, port: u16, etcd: u16, place: &Path, bin: &Path) -> String {
    let (place, bin, rest) = (place.display(), bin.display(), free_port());
    format!(
        "scope: onlyonce
name: n{i}
restapi: {{ listen: '127.0.0.1:{rest}', connect_address: '127.0.0.1:{rest}' }}
etcd3: {{ hosts: '127.0.0.1:{etcd}' }}
bootstrap:
  dcs:
    ttl: 20
    loop_wait: 1
    retry_timeout: 4
    maximum_lag_on_failover: 16777216
    primary_start_timeout: 0
    master_start_timeout: 0
    synchronous_mode: true
    synchronous_mode_strict: true
    postgresql:
      use_pg_rewind: true
      parameters:
        max_connections: 100
        shared_buffers: 32MB
        fsync: 'off'
        synchronous_commit: 'on'
        wal_log_hints: 'on'
        wal_keep_size: 128MB
  initdb: [ {{ encoding: UTF8 }}, {{ locale: C }}, {{ auth: trust }} ]
postgresql:
  listen: 127.0.0.1:{port}
  connect_address: 127.0.0.1:{port}
  data_dir: {place}/d{i}
  bin_dir: {bin}
  pgpass: {place}/pgpass{i}
  parameters: {{ unix_socket_directories: '{place}' }}
  pg_hba:
    - local all all trust
    - host all all 127.0.0.1/32 trust
    - host replication all 127.0.0.1/32 trust
  authentication:
    superuser: {{ username: postgres, password: x }}
    replication: {{ username: repl, password: x }}
    rewind: {{ username: rew, password: x }}
watchdog: {{ mode: 'off' }}
"
    )
}
