#!/usr/bin/env bash
# Private journals: two users in one table, of whom each sees their own entries only. README.md tells what happens.
# Usage: journals.sh [FOLDER]
. "$(dirname "$0")/../lib.sh"

start_server
publish
join_device anna
join_device ben
device anna "INSERT INTO entries VALUES ('a1', 'anna', 'Monday', 'Rain all day'), ('a2', 'anna', 'Tuesday', 'Sun')"
device ben "INSERT INTO entries VALUES ('b1', 'ben', 'Monday', 'Slept badly')"
sync_as anna anna
sync_as ben ben
sync_as anna anna

say "each has their own entries, and the owner of the server all of them"
device anna "SELECT 'anna: ' || title || ': ' || body FROM entries ORDER BY id"
device ben "SELECT 'ben: ' || title || ': ' || body FROM entries ORDER BY id"
on_server "SELECT 'server: ' || count(*) || ' entries' FROM entries"

say "Ben writes in Anna's name, and tries to give an entry of his away"
device ben "INSERT INTO entries VALUES ('b2', 'anna', 'Forged', 'I like Ben'); UPDATE entries SET author = 'anna' WHERE id = 'b1'"
sync_as ben ben
refused ben
device ben "SELECT 'ben: ' || author || ': ' || title || ': ' || body FROM entries ORDER BY id"

say "Anna's second device gets what is hers"
join_device anna-phone
sync_as anna-phone anna
device anna-phone "SELECT title || ': ' || body FROM entries ORDER BY id"
