# Sourced by journals.sh. Where columns stand bare in an UPDATE policy, the row must fit before and after.
mine="author = auth_userid()"
cloudsync policy set "$database" entries --select "$mine" --insert "$mine" --update "$mine" --delete "$mine"
