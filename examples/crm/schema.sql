CREATE TABLE team_members (
    id TEXT PRIMARY KEY NOT NULL,
    team TEXT NOT NULL DEFAULT '',
    user TEXT NOT NULL DEFAULT '',
    lead INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE accounts (
    id TEXT PRIMARY KEY NOT NULL,
    owner TEXT NOT NULL DEFAULT '',
    team TEXT NOT NULL DEFAULT '',
    name TEXT NOT NULL DEFAULT '',
    phone TEXT
);
CREATE INDEX accounts_team ON accounts(team);
