# Sourced by crm.sh. Nobody but the owner of the server, who has a key, may write team_members.
in_team="EXISTS (SELECT 1 FROM team_members AS m WHERE m.team = accounts.team AND m.user = auth_userid())"
was_in_team="EXISTS (SELECT 1 FROM team_members AS m WHERE m.team = OLD.team AND m.user = auth_userid())"
leads_team="EXISTS (SELECT 1 FROM team_members AS m WHERE m.team = OLD.team AND m.user = auth_userid() AND m.lead)"
cloudsync policy set "$database" team_members --select "user = auth_userid()"
cloudsync policy set "$database" accounts \
    --select "owner = auth_userid() OR $in_team" \
    --insert "owner = auth_userid() AND $in_team" \
    --update "OLD.owner = auth_userid() OR NEW.owner = OLD.owner AND $was_in_team" \
    --delete "$leads_team"
