# Sourced by tenants.sh. The tenant is in the token, so that no user can choose it.
of_tenant="tenant = auth_json() ->> '\$.tenant'"
cloudsync policy set "$database" invoices --select "$of_tenant" --insert "$of_tenant" --update "$of_tenant" \
    --delete "$of_tenant AND auth_json() ->> '\$.role' = 'admin'"
