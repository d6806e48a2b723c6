#!/usr/bin/env bash
# A classroom: students see their own rows, teachers those of their courses. README.md tells what happens.
# Usage: classroom.sh [FOLDER]
. "$(dirname "$0")/../lib.sh"

start_server
publish
on_server "INSERT INTO teachers VALUES ('1', 'algebra', 'tess')"
for name in tess sam sue; do join_device $name; done
sync_all() { for name in tess sam sue; do sync_as $name $name; done; }
grades() {
    for name in tess sam sue; do
        device $name "SELECT '$name: ' || coalesce(group_concat(student || ' ' || coalesce(grade, '-') || ' ' || coalesce(answer, '-'), ', '), 'nothing') FROM (SELECT * FROM grades ORDER BY id)"
    done
}

sync_all
device tess "INSERT INTO grades VALUES ('1', 'algebra', 'sam', NULL, NULL), ('2', 'algebra', 'sue', NULL, NULL)"
sync_all
say "the teacher has all rows of the course, each student one"
grades

say "offline, both students answer; Sam grades himself as well"
device sue "UPDATE grades SET answer = 'x = 4' WHERE id = '2'"
device sam "UPDATE grades SET answer = 'x = 5', grade = 100 WHERE id = '1'"
sync_all
sync_all
refused sam
grades

say "Sam answers again, and Tess grades"
device sam "UPDATE grades SET answer = 'x = 5' WHERE id = '1'"
sync_as sam sam
sync_as tess tess
device tess "UPDATE grades SET grade = CASE answer WHEN 'x = 4' THEN 100 ELSE 40 END"
sync_all
grades
