CREATE TABLE invoices (
    id TEXT PRIMARY KEY NOT NULL,
    tenant TEXT NOT NULL DEFAULT '',
    number INTEGER NOT NULL DEFAULT 0,
    amount REAL NOT NULL DEFAULT 0,
    UNIQUE (tenant, number)
);
