#!/usr/bin/env bash
# Two devices that are offline for a while and edit the same notes; what becomes of it is told in README.md.
# Usage: walkthrough.sh [FOLDER]   Files and server live in FOLDER, a temporary one if none is given.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
dist=${CLOUDSYNC_DIST:-$here/../../dist}
folder=${1:-$(mktemp -d)}
database=notes
for file in "$dist/cloudsync" "$dist/lib/cloudsync.so"; do
    [ -e "$file" ] || { echo "$file is missing: run \`cargo xtask build\` first" >&2; exit 1; }
done
mkdir -p "$folder"

server=
cleanup() { [ -z "$server" ] || kill "$server" 2>/dev/null || true; }
trap cleanup EXIT

# Starts the server on a free port, or again on the one it had, and waits until it listens.
start_server() {
    : >"$folder/server.txt"
    "$dist/cloudsync" serve --dev $database --data-dir "$folder/data" --addr "127.0.0.1:${port:-0}" --log error >"$folder/server.txt" &
    server=$!
    until grep -q '^listening on' "$folder/server.txt"; do
        kill -0 $server || { echo "the server ended; $folder/server.txt has its words" >&2; exit 1; }
    done
    port=$(sed -n 's/^listening on .*:\([0-9]*\).*/\1/p' "$folder/server.txt")
    key=${key:-$(sed -n "s/.*cloudsync_network_set_apikey('\([^']*\)').*/\1/p" "$folder/server.txt" | head -1)}
}

stop_server() {
    kill "$server" && wait "$server" || true
    server=
}

# Runs SQL on a device, with the library.
device() {
    local name=$1 sql=$2
    sqlite3 -batch -bail -cmd ".load $dist/lib/cloudsync" "$folder/$name.db" "$sql"
}

sync() {
    device "$1" "SELECT cloudsync_network_set_apikey('$key'); SELECT cloudsync_network_sync();" >/dev/null
}

say() { printf '\n-- %s\n' "$1"; }

start_server
for name in anna ben; do
    device $name "
        CREATE TABLE notes (id TEXT PRIMARY KEY NOT NULL, title TEXT, body TEXT);
        SELECT cloudsync_init('notes');
        SELECT cloudsync_network_init('cloudsync://127.0.0.1:$port/$database');" >/dev/null
done
device anna "INSERT INTO notes VALUES ('1', 'Picnic', 'Saturday'), ('2', 'Shopping', 'bread')"
sync anna
sync ben
say "both have the notes"
device ben "SELECT id, title, body FROM notes ORDER BY id"

stop_server
say "the server is gone; both go on working"
device anna "UPDATE notes SET body = 'Saturday at ten' WHERE id = '1'"
device anna "UPDATE notes SET body = 'bread, cheese' WHERE id = '2'"
# Stamps have milliseconds: whoever writes in a later one wins.
sqlite3 "$folder/ben.db" "UPDATE notes SET title = 'Picnic by the lake' WHERE id = '1'"
sqlite3 "$folder/ben.db" "UPDATE notes SET body = 'bread, apples' WHERE id = '2'"
sqlite3 "$folder/ben.db" "INSERT INTO notes VALUES ('3', 'New', 'written without the library')"
sync anna 2>/dev/null || echo "anna: no server; nothing is lost"
device anna "SELECT 'anna: unsent changes: ' || cloudsync_network_has_unsent_changes()"

start_server
say "the server is back"
sync anna
sync ben
sync anna
device anna "SELECT id, title, body FROM notes ORDER BY id"
[ "$(device anna 'SELECT * FROM notes ORDER BY id')" = "$(device ben 'SELECT * FROM notes ORDER BY id')" ]
echo "anna and ben have the same"

say "note 2 was edited by both: Ben was later, and what Anna wrote is kept"
device anna "SELECT tbl, cloudsync_pk_decode(pk, 0), col_name, col_value, kind FROM cloudsync_conflicts"
