CREATE TABLE members (
    id TEXT PRIMARY KEY NOT NULL,
    project TEXT NOT NULL DEFAULT '',
    user TEXT NOT NULL DEFAULT '',
    role TEXT NOT NULL DEFAULT 'member'
);
CREATE TABLE tasks (
    id TEXT PRIMARY KEY NOT NULL,
    project TEXT NOT NULL DEFAULT '',
    title TEXT NOT NULL DEFAULT '',
    done INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX tasks_project ON tasks(project);
CREATE INDEX members_project ON members(project);
