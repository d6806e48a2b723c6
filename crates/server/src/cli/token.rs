//! `cloudsync token`: who the users of a database are.

use clap::Subcommand;
use serde_json::json;

use super::Place;
use super::lifetime::Lifetime;
use crate::auth::User;
use crate::control::{NewToken, TOKEN_S_MAX};
use crate::error::{Error, Result};
use crate::folder::DatabaseName;
use crate::http::now_ms;

#[derive(Debug, Subcommand)]
pub(super) enum TokenCommand {
    /// Mint a token and print it; it is not shown again
    Create {
        /// The database that it opens
        database: String,
        /// The user's id, which policies know as auth_userid()
        user: String,
        /// What else policies may know of the user, as a JSON object
        #[arg(long, value_name = "JSON", default_value = "{}")]
        claims: String,
        /// How long it is good, as 12h or 90d
        #[arg(long, value_name = "TIME", default_value = "30d")]
        expires_in: Lifetime,
    },
    /// List the tokens, by their first characters
    List {
        /// Those of one database only
        database: Option<String>,
    },
    /// Revoke a token; a running server refuses it from its next request on
    Revoke {
        /// The id or the first characters, as listed
        #[arg(value_name = "ID-OR-PREFIX")]
        which: String,
    },
}

impl TokenCommand {
    pub(super) fn run(self, place: &Place) -> Result<()> {
        let (_, control) = place.open()?;
        match self {
            Self::Create { database, user, claims, expires_in } => {
                let database = DatabaseName::new(&database)?;
                let claims = serde_json::from_str(&claims)
                    .map_err(|error| Error::User(format!("its claims are no JSON object: {error}")))?;
                if expires_in.seconds > TOKEN_S_MAX {
                    return Err(Error::User(format!(
                        "its token is good for at most {} days",
                        TOKEN_S_MAX / 86_400
                    )));
                }
                let now_ms = now_ms();
                let user = User { id: user, claims };
                let new = NewToken { database: &database, user, expires_ms: expires_in.end_ms(now_ms) };
                let (id, token) = control.mint_token(&new, now_ms)?;
                let minted = json!({ "id": id, "token": token.reveal(), "expires_ms": new.expires_ms });
                place.print(&minted, |_| token.reveal().to_owned())
            }
            Self::List { database } => {
                let database = database.as_deref().map(DatabaseName::new).transpose()?;
                let titles =
                    ["ID", "PREFIX", "DATABASE", "USER", "CREATED", "LAST USED", "EXPIRES", "REVOKED"];
                place.print_list(&control.tokens(database.as_ref())?, titles, |token| {
                    let token = token.clone();
                    let (used, revoked) =
                        (token.last_used.unwrap_or_default(), token.revoked.unwrap_or_default());
                    let id = token.id.0.to_string();
                    [
                        id,
                        token.prefix,
                        token.database,
                        token.user,
                        token.created,
                        used,
                        token.expires,
                        revoked,
                    ]
                })
            }
            Self::Revoke { which } => {
                let id = control.revoke_token(None, &which, now_ms())?;
                place.print(&json!({ "id": id, "revoked": true }), |_| format!("token {} is revoked", id.0))
            }
        }
    }
}
