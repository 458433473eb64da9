#!/usr/bin/env bash
# Three PostgreSQL servers on this machine, of which a commit waits for two:
#   cluster.sh start DIR      starts them; the last line is a connection string
#   cluster.sh failover DIR   kills the primary with SIGKILL, makes the standby that has received most the
#                             primary, and the dead server a standby again
#   cluster.sh stop DIR       stops them
# Needs PostgreSQL's programs (Debian: apt-get install postgresql-15). As root the servers run as the user
# postgres, because they refuse root.
set -euo pipefail
verb=$1 dir=$2
bin=$(ls -d /usr/lib/postgresql/*/bin 2>/dev/null | sort -V | tail -1)
[ -x "$bin/initdb" ] || { echo 'no PostgreSQL server is installed (Debian: apt-get install postgresql-15)' >&2; exit 1; }
export PATH="$bin:$PATH"

as() { if [ "$(id -u)" = 0 ]; then runuser -u postgres -- env PATH="$PATH" "$@"; else "$@"; fi; }
port() { cat "$dir/port$1"; }
ask() { psql -h 127.0.0.1 -p "$(port "$1")" -U postgres -Atqc "$2" postgres; }
start() { as pg_ctl -D "$dir/n$1" -w -t 60 -s -l "$dir/n$1.log" -o "-p $(port "$1")" start </dev/null >/dev/null; }
# Processes of a killed server that have not noticed yet keep the next one from starting ("still in use").
boot() {
    for _ in $(seq 60); do
        if start "$1" 2>/dev/null; then return; fi
        tail -n 5 "$dir/n$1.log" | grep -q 'in use' || break
        sleep 1
    done
    cat "$dir/n$1.log" >&2; exit 1
}

# until COMMAND..: waits for it to succeed
until_ok() {
    for _ in $(seq 300); do if "$@" 2>/dev/null; then return; fi; sleep 0.1; done
    echo "it never came about: $*" >&2; exit 1
}
is() { [ "$(ask "$1" "$2")" = "$3" ]; }

# free_port: one that is not in use now, from below those that systems give to clients (32768 and more)
free_port() {
    while :; do
        p=$((10000 + RANDOM % 20000))
        if ! (exec 3<>"/dev/tcp/127.0.0.1/$p") 2>/dev/null; then echo "$p"; return; fi
    done
}

# follow STANDBY PRIMARY: makes a copy of the primary that follows it
follow() {
    # A killed server's processes may still write there.
    until_ok rm -rf "$dir/n$1"
    as pg_basebackup -h 127.0.0.1 -p "$(port "$2")" -U postgres -D "$dir/n$1" -X stream -c fast -N -R
    echo "primary_conninfo = 'host=127.0.0.1 port=$(port "$2") user=postgres application_name=n$1'" |
        as tee -a "$dir/n$1/postgresql.auto.conf" >/dev/null
    boot "$1"
}

# wait_for PRIMARY STANDBYS COUNT: commits wait for one of them from now on
wait_for() {
    ask "$1" "ALTER SYSTEM SET synchronous_standby_names = 'ANY 1 ($2)'"
    ask "$1" 'SELECT pg_reload_conf()' >/dev/null
    until_ok is "$1" "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'quorum'" "$3"
}

case $verb in
start)
    if [ "$(id -u)" = 0 ]; then chown postgres "$dir"; fi
    for i in 1 2 3; do free_port > "$dir/port$i"; done
    echo 1 > "$dir/primary"
    as initdb -D "$dir/n1" -A trust -U postgres --no-instructions --no-sync >/dev/null
    as tee -a "$dir/n1/postgresql.conf" >/dev/null <<C
listen_addresses = '127.0.0.1'
unix_socket_directories = '$dir'
max_connections = 200
max_wal_senders = 10
wal_log_hints = on
wal_keep_size = 256MB
C
    boot 1
    follow 2 1
    follow 3 1
    wait_for 1 'n2, n3' 2
    echo "host=127.0.0.1,127.0.0.1,127.0.0.1 port=$(port 1),$(port 2),$(port 3) user=postgres dbname=postgres"
    ;;
failover)
    dead=$(cat "$dir/primary")
    kill -9 "$(head -1 "$dir/n$dead/postmaster.pid")"
    left=$(for i in 1 2 3; do [ "$i" = "$dead" ] || echo "$i"; done)
    # The dead one sends nothing any more: the one that has received most has all that was acknowledged.
    best='' most=-1
    for i in $left; do
        until_ok is "$i" 'SELECT count(*) FROM pg_stat_wal_receiver' 0
        got=$(ask "$i" "SELECT coalesce(pg_last_wal_receive_lsn(), '0/0') - '0/0'::pg_lsn")
        if [ "$got" -gt "$most" ]; then best=$i most=$got; fi
    done
    ask "$best" 'SELECT pg_promote()' >/dev/null
    for i in $left; do [ "$i" = "$best" ] || other=$i; done
    ask "$other" "ALTER SYSTEM SET primary_conninfo = 'host=127.0.0.1 port=$(port "$best") user=postgres application_name=n$other'"
    ask "$other" 'SELECT pg_reload_conf()' >/dev/null
    wait_for "$best" "n$other" 1
    echo "$best" > "$dir/primary"
    # Clients go on; the dead one comes back as a standby.
    rm -f "$dir/n$dead/postmaster.pid"
    follow "$dead" "$best"
    wait_for "$best" "n$other, n$dead" 2
    ;;
stop)
    for i in 1 2 3; do
        if [ -f "$dir/n$i/postmaster.pid" ]; then as pg_ctl -D "$dir/n$i" -s -m immediate stop || true; fi
    done
    ;;
esac
