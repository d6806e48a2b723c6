//! `cloudsync issuer`: whose signed tokens (JWT) a database trusts.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde_json::json;

use super::Place;
use crate::control::{IssuerId, NewIssuer, Secret, Trust};
use crate::error::{Error, Result};
use crate::folder::DatabaseName;
use crate::http::now_ms;

#[derive(Debug, Subcommand)]
pub(super) enum IssuerCommand {
    /// Trust the tokens of an issuer
    Add(Add),
    /// List the issuers
    List {
        /// Those of one database only
        database: Option<String>,
    },
    /// Trust an issuer no more; a running server refuses its tokens from the next request on
    Remove {
        /// The id, as listed
        id: i64,
    },
}

#[derive(Debug, Args)]
pub(super) struct Add {
    /// The database
    database: String,
    /// What the claim `iss` must be
    issuer: String,
    /// What must be in the claim `aud`; may be given several times
    #[arg(long, value_name = "NAME", required = true)]
    audience: Vec<String>,
    #[command(flatten)]
    trust: TrustArgs,
    /// The claim that names the user
    #[arg(long, value_name = "NAME", default_value = "sub")]
    user_claim: String,
}

/// Exactly one of them.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct TrustArgs {
    /// File with the secret of HS256, 32 bytes at least; a line break at its end does not count
    #[arg(long, value_name = "FILE")]
    secret_file: Option<PathBuf>,
    /// File with the public keys (JWKS) of RS256, ES256 or EdDSA
    #[arg(long, value_name = "FILE")]
    keys_file: Option<PathBuf>,
    /// HTTPS address of the public keys (JWKS); they are fetched again when keys change
    #[arg(long, value_name = "URL")]
    keys_url: Option<String>,
}

impl TrustArgs {
    fn read(self) -> Result<Trust> {
        if let Some(path) = self.secret_file {
            let mut secret = read_file(&path)?;
            while secret.last().is_some_and(|byte| matches!(byte, b'\n' | b'\r')) {
                secret.pop();
            }
            return Ok(Trust::Secret(Secret(secret)));
        }
        if let Some(path) = self.keys_file {
            return Ok(Trust::Keys(String::from_utf8_lossy(&read_file(&path)?).into_owned()));
        }
        Ok(Trust::Url(self.keys_url.unwrap_or_default()))
    }
}

fn read_file(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).map_err(|source| Error::Input { path: path.to_owned(), source })
}

impl IssuerCommand {
    pub(super) fn run(self, place: &Place) -> Result<()> {
        let (_, control) = place.open()?;
        match self {
            Self::Add(Add { database, issuer, audience, trust, user_claim }) => {
                let database = DatabaseName::new(&database)?;
                let new = NewIssuer {
                    database: &database,
                    issuer: &issuer,
                    audiences: &audience,
                    user_claim: &user_claim,
                    trust: trust.read()?,
                };
                let id = control.add_issuer(&new, now_ms())?;
                place.print(&json!({ "id": id }), |_| format!("issuer {} is trusted", id.0))
            }
            Self::List { database } => {
                let database = database.as_deref().map(DatabaseName::new).transpose()?;
                let titles = ["ID", "DATABASE", "ISSUER", "AUDIENCES", "USER CLAIM", "TRUST", "CREATED"];
                place.print_list(&control.list_issuers(database.as_ref())?, titles, |issuer| {
                    let issuer = issuer.clone();
                    let (id, audiences) = (issuer.id.0.to_string(), issuer.audiences.join(" "));
                    [
                        id,
                        issuer.database,
                        issuer.issuer,
                        audiences,
                        issuer.user_claim,
                        issuer.trust,
                        issuer.created,
                    ]
                })
            }
            Self::Remove { id } => {
                control.remove_issuer(IssuerId(id))?;
                place.print(&json!({ "id": id, "removed": true }), |_| {
                    format!("issuer {id} is trusted no more")
                })
            }
        }
    }
}
