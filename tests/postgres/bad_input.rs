//! Servers and tables that can't be used: each its own error, before anything runs; and a disk
//! that is full.

use crate::servers::*;
use onlyonce::{postgres::*, *};
use std::{
    path::Path,
    process::Command,
    time::{Duration, Instant},
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

async fn refused(options: &PostgresOptions) -> OpenError {
    options.connect().await.expect_err("opened")
}

#[test]
fn options_that_can_t_be_kept() {
    block_on(async {
        let good = || PostgresOptions::new("host=127.0.0.1 user=u", Replication::SingleServer);
        let ms = Duration::from_millis;
        let bad = [
            PostgresOptions::new("host=127.0.0.1 nonsense", Replication::SingleServer),
            PostgresOptions::new("user=u", Replication::SingleServer),
            PostgresOptions::new("host=a,b port=1,2,3", Replication::SingleServer),
            PostgresOptions::new("host=a sslmode=require", Replication::SingleServer),
            good().tls_roots("no certificate"),
            PostgresOptions::new("host=a sslmode=verify-full", Replication::SingleServer),
            PostgresOptions::new("host=a sslmode=verify-ca", Replication::SingleServer),
            PostgresOptions::new("host=a sslrootcert=b", Replication::SingleServer),
            good().table(""),
            good().table("x".repeat(49)),
            good().lease(ms(0)),
            good().lease(Duration::from_secs(60)).retention(ms(1)),
            good().execution_limit(ms(1)),
            good().interrupted_retention(ms(0)),
            good().max_attempts(0),
            good().connections(0),
            good().max_response((16 << 20) + 1),
            good().lock_timeout(ms(0)),
            good().lock_timeout(ms(3000)),
            good().statement_limit(Duration::from_secs(60)),
            good().sweep_every(Some(ms(0))),
        ];
        for options in &bad {
            let error = refused(options).await;
            assert!(matches!(error, OpenError::Options { .. }), "{options:?}: {error:?}");
        }
    });
}

#[test]
fn nobody_answers_or_refuses() {
    block_on(async {
        let nobody = options(&format!("host=127.0.0.1 port={} user=postgres", free_port()));
        let error = refused(&nobody).await;
        assert!(matches!(error, OpenError::Unreachable { .. }), "{error:?}");
        let Some(server) = Server::shared() else { return };
        let elsewhere = |user: &str, database: &str| {
            let port = server.port;
            options(&format!("host=127.0.0.1 port={port} user={user} dbname={database}"))
        };
        for (user, database) in [("nobody", "postgres"), ("postgres", "missing")] {
            let error = refused(&elsewhere(user, database)).await;
            assert!(matches!(error, OpenError::Denied { .. }), "{error:?}");
            assert!(error.to_string().contains(&server.port.to_string()), "{error}");
        }
        let database = server.database().await;
        let role = format!("role_{database}");
        server.sql(&database, &format!("CREATE ROLE {role} LOGIN")).await;
        let error = elsewhere(&role, &database).table("other").migrate().await.unwrap_err();
        assert!(matches!(error, OpenError::Denied { .. }), "{error:?}");
    });
}

#[test]
fn a_password_that_is_wrong() {
    block_on(async {
        let Some(bin) = programs() else { return };
        let server = Server::start(bin);
        server.sql("postgres", "ALTER ROLE postgres PASSWORD 'right'").await;
        let hba = server.data().join("pg_hba.conf");
        std::fs::write(&hba, "host all all 127.0.0.1/32 scram-sha-256\n").unwrap();
        server.stop();
        server.resume();
        // The server's own answers: a pooler that hands out sessions answers a password for itself.
        let with = |password: &str| options(&format!("{} {password}", server.own_dsn("postgres")));
        for password in ["", "password=wrong"] {
            let error = refused(&with(password)).await;
            assert!(
                matches!(error, OpenError::Denied { .. } | OpenError::Unreachable { .. }),
                "{password}: {error:?}"
            );
            assert!(!error.to_string().contains("wrong"), "{error}");
        }
        let error = refused(&with("password=wrong")).await;
        assert!(matches!(error, OpenError::Denied { .. }), "{error:?}");
        with("password=right").migrate().await.unwrap();
        with("password=right").connect().await.unwrap();
    });
}

#[test]
fn tables_of_another_version() {
    block_on(async {
        let Some(server) = Server::shared() else { return };
        let database = server.database().await;
        let options = options(&server.dsn(&database));
        let version = async |n: i32| {
            server
                .sql(
                    &database,
                    &format!("UPDATE onlyonce_schema SET version = {n}, revision = {n}"),
                )
                .await;
            refused(&options).await
        };
        let older = version(1).await;
        assert!(matches!(older, OpenError::NotMigrated { found: 1, known: 4, .. }), "{older:?}");
        let newer = version(5).await;
        assert!(matches!(newer, OpenError::Newer { found: 5, known: 4, .. }), "{newer:?}");
        assert!(matches!(options.migrate().await, Err(OpenError::Newer { .. })));
        server.sql(&database, "DROP TABLE onlyonce").await;
        let missing = refused(&options).await;
        assert!(matches!(missing, OpenError::NotMigrated { found: 0, .. }), "{missing:?}");
        assert!(missing.to_string().contains("migrate()"), "{missing}");
    });
}

/// Records of the first version of the tables are there after the upgrade, by any number at once.
#[test]
fn tables_are_upgraded() {
    block_on(async {
        let Some(server) = Server::shared() else { return };
        let database = server.database().await;
        let options = options(&server.dsn(&database)).holder_session(true);
        let store = AsyncStore::new(options.connect().await.unwrap());
        let Begin::Execute(mut claim) = store.begin(key("k"), print()).await.unwrap() else {
            panic!("not granted")
        };
        claim.complete(b"first").await.unwrap();
        drop((claim, store));
        let back = "DROP TABLE onlyonce_sessions, onlyonce_decisions;
            ALTER TABLE onlyonce DROP COLUMN session;
            ALTER TABLE onlyonce DROP COLUMN step;
            ALTER TABLE onlyonce_schema DROP COLUMN revision, DROP COLUMN secret;
            UPDATE onlyonce_schema SET version = 1";
        server.sql(&database, back).await;
        let error = refused(&options).await;
        assert!(matches!(error, OpenError::NotMigrated { found: 1, .. }), "{error:?}");
        let migrating: Vec<_> = (0..4)
            .map(|_| {
                let options = options.clone();
                tokio::spawn(async move { options.migrate().await })
            })
            .collect();
        for migrated in migrating {
            migrated.await.unwrap().unwrap();
        }
        let store = AsyncStore::new(options.connect().await.unwrap());
        let Begin::Replay(record) = store.begin(key("k"), print()).await.unwrap() else {
            panic!("not replayed")
        };
        assert_eq!(record.response(), Some(&b"first"[..]));
        let granted = store.begin(key("l"), print()).await.unwrap();
        assert!(matches!(granted, Begin::Execute(_)), "{granted:?}");
    });
}

#[test]
fn many_migrate_at_once() {
    block_on(async {
        let Some(server) = Server::shared() else { return };
        let database = server.database().await;
        let options = options(&server.dsn(&database)).table("once");
        let migrating: Vec<_> = (0..8)
            .map(|_| {
                let options = options.clone();
                tokio::spawn(async move { options.migrate().await })
            })
            .collect();
        for migrated in migrating {
            migrated.await.unwrap().unwrap();
        }
        let versions = server.sql(&database, "SELECT count(*) FROM once_schema").await;
        assert_eq!(versions.as_deref(), Some("1"));
        options.connect().await.unwrap();
    });
}

/// What is wrong with the server while the store is open.
#[test]
fn a_table_that_goes_and_a_server_that_takes_no_writes() {
    block_on(async {
        let Some(bin) = programs() else { return };
        let server = Server::start(bin);
        let short = Duration::from_secs(4);
        let patient = options(&server.dsn("postgres")).deadline(PATIENCE);
        let options = patient.clone().statement_limit(short / 2).deadline(short);
        let error = refused(&options.clone()).await;
        assert!(matches!(error, OpenError::NotMigrated { .. }), "{error:?}");
        options.migrate().await.unwrap();
        let store = AsyncStore::new(options.connect().await.unwrap());
        let Begin::Execute(mut claim) = store.begin(key("k"), print()).await.unwrap() else {
            panic!("not granted")
        };
        server.configure("default_transaction_read_only", "on").await;
        let replicated = PostgresOptions::new(server.dsn("postgres"), Replication::Replicated);
        for options in [&options, &replicated] {
            let error = refused(options).await;
            assert!(matches!(error, OpenError::ReadOnly { .. }), "{error:?}");
        }
        let error = claim.complete(b"done").await.unwrap_err();
        assert!(matches!(error, ClaimError::Unavailable { .. }), "{error:?}");
        let error = store.begin(key("l"), print()).await.unwrap_err();
        assert!(matches!(error, BeginError::Unavailable { .. }), "{error:?}");
        server.configure("default_transaction_read_only", "off").await;
        until(async || claim.complete(b"done").await.is_ok()).await;
        let error = refused(&replicated).await;
        assert!(matches!(error, OpenError::NotReplicated { .. }), "{error:?}");
        let patient = AsyncStore::new(patient.connect().await.unwrap());
        server.sql("postgres", "DROP TABLE onlyonce").await;
        // Trying again would not help.
        let start = Instant::now();
        let error = patient.begin(key("l"), print()).await.unwrap_err();
        assert!(error.to_string().contains("onlyonce"), "{error}");
        assert!(start.elapsed() < PATIENCE, "it was tried again");
        store.get_ref().close();
        assert!(matches!(store.begin(key("l"), print()).await, Err(BeginError::Closed)));
        assert_eq!(claim.renew().await, Err(ClaimError::Closed));
    });
}

/// A small file system in memory, if this process may mount one.
struct SmallDisk(Place);

impl SmallDisk {
    fn mount() -> Option<Self> {
        let place = Place::new();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", "size=6m,mode=777", "tmpfs"]).arg(place.path());
        match mount.output() {
            Ok(output) if output.status.success() => {
                place.give_to_servers();
                Some(SmallDisk(place))
            }
            _ => {
                println!("skipped: a small file system can't be mounted here");
                None
            }
        }
    }

    fn grow(&self) {
        let mut mount = Command::new("mount");
        mount.args(["-o", "remount,size=64m"]).arg(self.path());
        assert!(mount.status().unwrap().success());
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.path()).status();
    }
}

#[test]
fn a_full_disk() {
    block_on(async {
        let Some(bin) = programs() else { return };
        let Some(disk) = SmallDisk::mount() else { return };
        let server = Server::start(bin);
        let options = options(&server.dsn("postgres")).max_response(256 << 10);
        options.migrate().await.unwrap();
        let path = disk.path().display();
        server.sql("postgres", &format!("CREATE TABLESPACE small LOCATION '{path}'")).await;
        server.sql("postgres", "ALTER TABLE onlyonce SET TABLESPACE small").await;
        let store = AsyncStore::new(options.connect().await.unwrap());
        // Random bytes, so that compression doesn't help.
        let mut response = vec![0; 100 << 10];
        let mut seed = 1_u64;
        response.fill_with(|| {
            seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1);
            (seed >> 56) as u8
        });
        let mut completed = 0;
        let mut refused = loop {
            let name = format!("k{completed}");
            let claim = store.begin(key(&name), print()).await.unwrap();
            let Begin::Execute(mut claim) = claim else { panic!("{claim:?}") };
            match claim.complete(&response).await {
                Ok(()) => completed += 1,
                Err(error) => {
                    assert_eq!(error, ClaimError::StoreFull(Full::Disk));
                    break claim;
                }
            }
            assert!(completed < 1000, "the disk is not small");
        };
        assert!(completed > 5);
        // Claims take little: at last there is no room for one either.
        let mut claims = Vec::new();
        let full = loop {
            let name = format!("c{}", claims.len());
            match store.begin(key(&name), print()).await {
                Ok(begin) => claims.push(begin),
                Err(error) => break error,
            }
            assert!(claims.len() < 20_000, "the disk is not small");
        };
        assert_eq!(full, BeginError::StoreFull(Full::Disk));
        assert_eq!(full.key_state(), KeyState::Unchanged);
        // Nothing is lost, and the refused completion goes through when there is room.
        for n in 0..completed {
            let replayed = store.begin(key(&format!("k{n}")), print()).await.unwrap();
            assert!(matches!(replayed, Begin::Replay(_)), "{n}: {replayed:?}");
        }
        disk.grow();
        refused.complete(&response).await.unwrap();
        drop(claims);
        store.get_ref().drain(Duration::from_secs(30)).await;
        server.stop();
    });
}

#[test]
fn tls() {
    if !cfg!(feature = "ring") {
        println!("skipped: TLS has no provider without feature `ring`");
        return;
    }
    block_on(async {
        let Some(bin) = programs() else { return };
        let server = Server::start(bin);
        let data = server.data();
        let certificate = |name: &str| {
            let mut openssl = Command::new("openssl");
            openssl.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]);
            openssl.args(["-nodes", "-days", "2", "-subj", "/CN=test"]);
            openssl.args(["-addext", "subjectAltName=IP:127.0.0.1"]);
            openssl.args(["-addext", "basicConstraints=critical,CA:FALSE"]);
            openssl.arg("-keyout").arg(data.join(format!("{name}.key")));
            openssl.arg("-out").arg(data.join(format!("{name}.crt")));
            let made = openssl.output().is_ok_and(|output| output.status.success());
            made.then(|| std::fs::read(data.join(format!("{name}.crt"))).unwrap())
        };
        let (Some(own), Some(other)) = (certificate("server"), certificate("other")) else {
            println!("skipped: no openssl to make certificates with");
            return;
        };
        server.own("server.key");
        server.sql("postgres", "ALTER SYSTEM SET ssl = on").await;
        let hba = data.join("pg_hba.conf");
        std::fs::write(&hba, "hostssl all all 127.0.0.1/32 trust\n").unwrap();
        server.stop();
        server.resume();
        // As above, a pooler would answer for itself.
        let dsn = format!("{} sslmode=require", server.own_dsn("postgres"));
        let trusting = |pem: &[u8]| options(&dsn).tls_roots(pem);
        trusting(&own).migrate().await.unwrap();
        let store = AsyncStore::new(trusting(&own).connect().await.unwrap());
        let granted = store.begin(key("k"), print()).await.unwrap();
        assert!(matches!(granted, Begin::Execute(_)), "{granted:?}");
        for mode in ["", "sslmode=verify-full"] {
            let dsn = format!("{} {mode}", server.own_dsn("postgres"));
            options(&dsn).tls_roots(&own[..]).connect().await.unwrap();
        }
        // A machine that answers as the server, and has no TLS, is given nothing.
        let impostor = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = impostor.local_addr().unwrap().port();
        let given = tokio::spawn(async move {
            let (mut client, _) = impostor.accept().await.unwrap();
            client.read_exact(&mut [0; 8]).await.unwrap();
            client.write_all(b"N").await.unwrap();
            let mut given = Vec::new();
            let _ = client.read_to_end(&mut given).await;
            given
        });
        let dsn = format!("host=127.0.0.1 port={port} user=shop password=secret dbname=shop");
        let error = refused(&options(&dsn).tls_roots(&own[..])).await;
        assert!(matches!(error, OpenError::Unreachable { .. }), "{error:?}");
        assert_eq!(given.await.unwrap(), b"");
        let error = refused(&trusting(&other)).await;
        assert!(matches!(error, OpenError::Unreachable { .. }), "{error:?}");
        // Without TLS this server takes nobody.
        let plain = refused(&options(&server.own_dsn("postgres"))).await;
        assert!(matches!(plain, OpenError::Denied { .. }), "{plain:?}");
    });
}
