#!/usr/bin/env bash
# A CRM: accounts belong to an owner and a team. README.md tells what happens.
# Usage: crm.sh [FOLDER]
. "$(dirname "$0")/../lib.sh"

start_server
publish
on_server "INSERT INTO team_members VALUES ('1', 'north', 'ada', 1), ('2', 'north', 'bob', 0), ('3', 'south', 'cyn', 0)"
for name in ada bob cyn; do join_device $name; done

# What every device has of the accounts.
accounts() {
    for name in ada bob cyn; do
        device $name "SELECT '$name: ' || coalesce(group_concat(name || ' ' || coalesce(phone, '-'), ', '), 'nothing') FROM (SELECT * FROM accounts ORDER BY id)"
    done
}
sync_all() { for name in ada bob cyn; do sync_as $name $name; done; }

device ada "INSERT INTO accounts VALUES ('1', 'ada', 'north', 'Acme', NULL), ('2', 'ada', 'north', 'Borealis', '555-02')"
sync_all
say "the team of the north sees its accounts"
accounts

say "Bob may edit them, and not delete them"
device bob "UPDATE accounts SET phone = '555-01' WHERE id = '1'; DELETE FROM accounts WHERE id = '2'"
sync_as bob bob
sync_all
refused bob
accounts

say "Acme moves to the south: Bob loses it, Cyn gets it, Ada still owns it"
device ada "UPDATE accounts SET team = 'south' WHERE id = '1'"
sync_all
accounts

say "Ada leads the north and may delete there"
device ada "DELETE FROM accounts WHERE id = '2'"
sync_all
accounts
