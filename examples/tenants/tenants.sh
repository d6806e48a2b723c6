#!/usr/bin/env bash
# A service whose tenants share tables: the tenant stands in the user's token. README.md tells what happens.
# Usage: tenants.sh [FOLDER]
. "$(dirname "$0")/../lib.sh"

start_server
publish
for name in ann amy gus; do join_device $name; done
sync_all() {
    sync_as ann ann '{"tenant":"acme","role":"admin"}'
    sync_as amy amy '{"tenant":"acme","role":"clerk"}'
    sync_as gus gus '{"tenant":"globex","role":"admin"}'
}
invoices() {
    for name in ann amy gus; do
        device $name "SELECT '$name: ' || coalesce(group_concat(number || ' over ' || amount, ', '), 'nothing') FROM (SELECT * FROM invoices ORDER BY number)"
    done
}

device ann "INSERT INTO invoices VALUES ('a-1', 'acme', 1, 120.5)"
device amy "INSERT INTO invoices VALUES ('a-2', 'acme', 2, 80.0)"
device gus "INSERT INTO invoices VALUES ('g-1', 'globex', 1, 999.0)"
sync_all
sync_all
say "each tenant has its own invoices, with numbers of its own"
invoices

say "Gus writes an invoice of Acme, and Amy deletes one without being an admin"
device gus "INSERT INTO invoices VALUES ('g-2', 'acme', 3, 1.0)"
device amy "DELETE FROM invoices WHERE number = 1"
sync_all
refused gus
refused amy
invoices
