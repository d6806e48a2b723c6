//! `cloudsync key`: who may sync.

use clap::Subcommand;
use serde_json::json;

use super::Place;
use super::lifetime::Lifetime;
use crate::auth::Scopes;
use crate::control::NewKey;
use crate::error::Result;
use crate::folder::DatabaseName;
use crate::http::now_ms;

#[derive(Debug, Subcommand)]
pub(super) enum KeyCommand {
    /// Create a key and print it; it is not shown again
    Create {
        /// The one database that the key opens; without it, all of them
        #[arg(long)]
        database: Option<String>,
        /// What you call it
        #[arg(long, value_name = "TEXT", default_value = "")]
        name: String,
        /// What it may do: read, write, schema (bring tables), admin (all of it, and mint tokens)
        #[arg(long, value_name = "WORDS", default_value = "admin")]
        scopes: Scopes,
        /// How long it is good, as 12h or 90d; without it, until it is revoked
        #[arg(long, value_name = "TIME")]
        expires_in: Option<Lifetime>,
    },
    /// List the keys, by their first characters
    List,
    /// Revoke a key; a running server refuses it from its next request on
    Revoke {
        /// The id or the first characters, as listed
        #[arg(value_name = "ID-OR-PREFIX")]
        which: String,
    },
}

impl KeyCommand {
    pub(super) fn run(self, place: &Place) -> Result<()> {
        match self {
            Self::Create { database, name, scopes, expires_in } => {
                let database = database.as_deref().map(DatabaseName::new).transpose()?;
                let (_, control) = place.create()?;
                let now_ms = now_ms();
                let expires_ms = expires_in.map(|lifetime| lifetime.end_ms(now_ms));
                let new = NewKey { database: database.as_ref(), name: &name, scopes, expires_ms };
                let (id, key) = control.create_key(new, now_ms)?;
                let created = json!({ "id": id, "key": key.reveal() });
                place.print(&created, |_| key.reveal().to_owned())
            }
            Self::List => {
                let (_, control) = place.open()?;
                let titles = [
                    "ID",
                    "PREFIX",
                    "NAME",
                    "DATABASE",
                    "SCOPES",
                    "CREATED",
                    "LAST USED",
                    "EXPIRES",
                    "REVOKED",
                ];
                place.print_list(&control.keys()?, titles, |key| {
                    let key = key.clone();
                    let database = key.database.unwrap_or_else(|| "*".to_owned());
                    let (used, revoked) =
                        (key.last_used.unwrap_or_default(), key.revoked.unwrap_or_default());
                    [
                        key.id.0.to_string(),
                        key.prefix,
                        key.name,
                        database,
                        key.scopes,
                        key.created,
                        used,
                        key.expires.unwrap_or_default(),
                        revoked,
                    ]
                })
            }
            Self::Revoke { which } => {
                let (_, control) = place.open()?;
                let id = control.revoke_key(&which, now_ms())?;
                place.print(&json!({ "id": id, "revoked": true }), |_| format!("key {} is revoked", id.0))
            }
        }
    }
}
