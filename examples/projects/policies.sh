# Sourced by projects.sh. The first member of a project is whom the server's owner puts there.
member="EXISTS (SELECT 1 FROM members AS m WHERE m.project = tasks.project AND m.user = auth_userid())"
fellow="EXISTS (SELECT 1 FROM members AS m WHERE m.project = members.project AND m.user = auth_userid())"
admin="EXISTS (SELECT 1 FROM members AS m WHERE m.project = members.project AND m.user = auth_userid() AND m.role = 'admin')"
cloudsync policy set "$database" members --select "$fellow" --insert "$admin" --update "$admin" \
    --delete "$admin OR user = auth_userid()"
cloudsync policy set "$database" tasks --select "$member" --insert "$member" --update "$member" --delete "$member"
