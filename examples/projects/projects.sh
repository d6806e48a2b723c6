#!/usr/bin/env bash
# A project tool: memberships come and go while people are offline. README.md tells what happens.
# Usage: projects.sh [FOLDER]
. "$(dirname "$0")/../lib.sh"

start_server
publish
on_server "INSERT INTO members VALUES ('1', 'boat', 'ida', 'admin')"
for name in ida jon; do join_device $name; done
sync_all() { for name in ida jon; do sync_as $name $name; done; }
tasks() {
    for name in ida jon; do
        device $name "SELECT '$name: ' || coalesce(group_concat(title || CASE WHEN done THEN ' (done)' ELSE '' END, ', '), 'nothing') FROM (SELECT * FROM tasks ORDER BY id)"
    done
}

sync_all
device ida "INSERT INTO tasks VALUES ('1', 'boat', 'paint', 0), ('2', 'boat', 'sails', 0)"
sync_all
say "Ida has two tasks, Jon is not in the project"
tasks

say "Jon makes himself an admin"
device jon "INSERT INTO members VALUES ('9', 'boat', 'jon', 'admin')"
sync_all
refused jon
tasks

say "Ida takes him in: what was there before he came arrives"
device ida "INSERT INTO members VALUES ('2', 'boat', 'jon', 'member')"
sync_all
tasks

say "Ida takes him out while he works offline"
device jon "UPDATE tasks SET done = 1 WHERE id = '1'"
device ida "DELETE FROM members WHERE id = '2'"
sync_all
sync_all
refused jon
tasks
