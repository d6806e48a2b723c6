#!/usr/bin/env bash
# Two devices that are offline for a while and edit the same notes; what becomes of it is told in README.md.
# Usage: walkthrough.sh [FOLDER]   Files and server live in FOLDER, a temporary one if none is given.
. "$(dirname "$0")/../lib.sh"

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
