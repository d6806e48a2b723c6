-- What valgrind watches in the shell: LIBRARY and FOLDER are put in by `cargo xtask sanitize valgrind`.
.load LIBRARY
.bail off
CREATE TABLE notes(id TEXT PRIMARY KEY NOT NULL, title TEXT, place UNIQUE, body BLOB);
CREATE TABLE shelf(id TEXT PRIMARY KEY NOT NULL, v);
CREATE TABLE parents(id TEXT PRIMARY KEY NOT NULL);
CREATE TABLE children(id TEXT PRIMARY KEY NOT NULL, parent REFERENCES parents ON DELETE CASCADE);
CREATE TABLE log(what);
CREATE TRIGGER came AFTER INSERT ON notes BEGIN INSERT INTO log VALUES(NEW.id); UPDATE shelf SET v = v + 1; END;
SELECT length(cloudsync_init('notes')), length(cloudsync_init('shelf', 'aws'));
SELECT length(cloudsync_init('parents', 'dws')), length(cloudsync_init('children'));
INSERT INTO notes SELECT value, 'title ' || value, value, zeroblob(value * 100) FROM json_each('[1,2,3,4,5,6,7,8,9]');
INSERT OR REPLACE INTO notes VALUES('x', 'replaces', 3, NULL);
UPDATE notes SET title = upper(title) WHERE place < 5;
BEGIN; DELETE FROM notes WHERE id = '4'; SAVEPOINT s; DELETE FROM notes; ROLLBACK TO s; COMMIT;
INSERT INTO shelf VALUES('a', 1), ('b', 2); DELETE FROM shelf WHERE id = 'a';
INSERT INTO parents VALUES('p'); INSERT INTO children VALUES('c', 'p');
SELECT cloudsync_payload_save('FOLDER/one.bin') > 100;
SELECT count(*), sum(length(col_value)) FROM cloudsync_changes;
SELECT sum(length(payload)) FROM cloudsync_payload_chunks(0);
SELECT length(cloudsync_status()), length(cloudsync_network_status());
SELECT cloudsync_set_filter('notes', 'place > 4 AND title <> ''''');
UPDATE notes SET place = place + 10;
SELECT cloudsync_clear_filter('notes');
SELECT cloudsync_set_filter('notes', '((((nonsense');
SELECT cloudsync_begin_alter('shelf');
ALTER TABLE shelf RENAME COLUMN v TO w;
SELECT cloudsync_commit_alter('shelf');
SELECT cloudsync_payload_apply(x'c55c01');
SELECT cloudsync_payload_load('FOLDER/none.bin');
SELECT cloudsync_session_start();
SELECT length(cloudsync_session_request());
SELECT cloudsync_session_answer(200, x'c54101');
SELECT cloudsync_session_answer(503, x'');
SELECT cloudsync_network_init('cloudsync://127.0.0.1:1/nowhere');
SELECT cloudsync_network_set_apikey('not a key');
SELECT cloudsync_network_sync();
-- Another device takes it in: conflicts, a row that waits, an orphan, triggers of the app.
.open FOLDER/two.db
.load LIBRARY
CREATE TABLE notes(id TEXT PRIMARY KEY NOT NULL, title TEXT, place UNIQUE, body BLOB);
CREATE TABLE shelf(id TEXT PRIMARY KEY NOT NULL, v);
CREATE TABLE parents(id TEXT PRIMARY KEY NOT NULL);
CREATE TABLE children(id TEXT PRIMARY KEY NOT NULL, parent REFERENCES parents ON DELETE CASCADE);
CREATE TABLE log(what);
CREATE TRIGGER came AFTER INSERT ON notes BEGIN INSERT INTO log VALUES(NEW.id); UPDATE shelf SET v = v + 1; END;
SELECT length(cloudsync_init('notes')), length(cloudsync_init('shelf', 'aws'));
SELECT length(cloudsync_init('parents', 'dws')), length(cloudsync_init('children'));
INSERT INTO notes VALUES('1', 'mine', 100, NULL), ('mine', 'takes a place', 7, NULL);
PRAGMA foreign_keys = ON;
SELECT cloudsync_payload_load('FOLDER/one.bin');
SELECT count(*) FROM cloudsync_conflicts;
SELECT reason FROM cloudsync_quarantine;
UPDATE notes SET place = 101 WHERE id = 'mine';
SELECT cloudsync_payload_load('FOLDER/one.bin');
SELECT cloudsync_network_logout(1);
SELECT cloudsync_cleanup('*');
PRAGMA integrity_check;
