//! PgBouncer in front of a server, where it is installed.

use super::*;

/// A running pooler.
#[derive(Debug)]
pub struct Pooler {
    port: u16,
    child: Child,
    place: Place,
}

impl Pooler {
    pub fn start(server: &Server, mode: &str) -> Option<Self> {
        Self::start_with(server, mode, "")
    }

    /// With further settings. `None` (and a line that says so) where it is not installed.
    pub fn start_with(server: &Server, mode: &str, more: &str) -> Option<Self> {
        let program = Path::new("/usr/sbin/pgbouncer");
        if !program.exists() {
            println!("skipped: no PgBouncer is installed here (.ci/install-postgres does)");
            return None;
        }
        let place = Place::new();
        let (port, log) = (free_port(), place.path().join("log"));
        let config = format!(
            "[databases]\n* = host=127.0.0.1 port={} user=postgres\n[pgbouncer]\n\
             listen_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\nauth_type = any\n\
             pool_mode = {mode}\ndefault_pool_size = 60\nmax_client_conn = 500\n\
             server_idle_timeout = 2\nlogfile = {}\n{more}",
            server.port,
            log.display(),
        );
        let file = place.path().join("pgbouncer.ini");
        fs::write(&file, config).unwrap();
        give_to_servers(&file);
        let mut command = as_postgres(program);
        command.arg(&file).stdout(Stdio::null()).stderr(Stdio::null());
        let child = spawn(command);
        let start = Instant::now();
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            let said = || fs::read_to_string(&log).unwrap_or_default();
            assert!(start.elapsed() < PATIENCE, "no pooler: {}", said());
            std::thread::sleep(Duration::from_millis(20));
        }
        Some(Pooler { port, child, place })
    }

    /// Pools in another mode from now on: clients that come get it.
    pub fn switch(&self, from: &str, to: &str) {
        let file = self.place.path().join("pgbouncer.ini");
        let config = fs::read_to_string(&file).unwrap();
        let (from, to) = (format!("pool_mode = {from}"), format!("pool_mode = {to}"));
        fs::write(&file, config.replace(&from, &to)).unwrap();
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::HUP).unwrap();
    }

    pub fn dsn(&self, database: &str) -> String {
        format!("host=127.0.0.1 port={} user=postgres dbname={database}", self.port)
    }
}

impl Drop for Pooler {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
