# What the examples share. Sourced by their scripts: a server of one's own on a free port, and devices in the `sqlite3` shell.
# Sets `here`, `folder` and `database`; files and server live in `folder`, the script's argument or a temporary one.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
dist=${CLOUDSYNC_DIST:-$here/../../dist}
folder=${1:-$(mktemp -d)}
database=$(basename "$here")
for file in "$dist/cloudsync" "$dist/lib/cloudsync.so"; do
    [ -e "$file" ] || { echo "$file is missing: run \`cargo xtask build\` first" >&2; exit 1; }
done
mkdir -p "$folder"

server=
cleanup() { [ -z "$server" ] || kill "$server" 2>/dev/null || true; }
trap cleanup EXIT

# Runs a command of the server on the folder of this example.
cloudsync() { "$dist/cloudsync" --data-dir "$folder/data" "$@"; }

# Starts the server on a free port, or again on the one it had, and waits until it listens.
start_server() {
    : >"$folder/server.txt"
    "$dist/cloudsync" serve --dev "$database" --data-dir "$folder/data" --addr "127.0.0.1:${port:-0}" --log error >"$folder/server.txt" &
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

# Makes the tables of schema.sql on the server, switches them on for sync, and sets their policies.
publish() {
    cloudsync db sql "$database" "$here/schema.sql"
    for table in $(sed -n 's/^CREATE TABLE \([a-z_]*\).*/\1/p' "$here/schema.sql"); do
        cloudsync table enable "$database" "$table" >/dev/null
    done
    . "$here/policies.sh" >/dev/null
}

# Makes the tables of schema.sql on the server, switches them on for sync, and sets their policies.
publish() {
    cloudsync db sql "$database" "$here/schema.sql"
    for table in $(sed -n 's/^CREATE TABLE \([a-z_]*\).*/\1/p' "$here/schema.sql"); do
        cloudsync table enable "$database" "$table" >/dev/null
    done
    . "$here/policies.sh" >/dev/null
}

# Runs SQL on the server's copy, as its owner.
on_server() { cloudsync db sql "$database" - <<<"$1"; }

# Runs SQL on a device, with the library.
device() {
    local name=$1 sql=$2
    sqlite3 -batch -bail -cmd ".load $dist/lib/cloudsync" "$folder/$name.db" "$sql"
}

# Makes a device: the tables of schema.sql sync, with the server of this example.
join_device() {
    sqlite3 -batch -bail "$folder/$1.db" <"$here/schema.sql"
    device "$1" "SELECT cloudsync_init('*'); SELECT cloudsync_network_init('cloudsync://127.0.0.1:$port/$database');" >/dev/null
}

# Syncs a device with a token: sync_as DEVICE USER [CLAIMS].
sync_as() {
    local token
    token=$(cloudsync token create "$database" "$2" --claims "${3:-{\}}" --json | sed -n 's/.*"token": *"\([^"]*\)".*/\1/p')
    device "$1" "SELECT cloudsync_network_set_token('$token'); SELECT cloudsync_network_sync();" >/dev/null
}

# Syncs a device with the owner's key.
sync() {
    device "$1" "SELECT cloudsync_network_set_apikey('$key'); SELECT cloudsync_network_sync();" >/dev/null
}

# What a device wrote and the server refused, with the reason.
refused() {
    device "$1" "SELECT tbl || ' ' || cloudsync_pk_decode(pk, 0) || ': ' || reason FROM cloudsync_rejected ORDER BY id"
}

say() { printf '\n-- %s\n' "$1"; }
