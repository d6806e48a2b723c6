//! Ours, by way of the crate that the extension and the server are made of.

use super::{Subject, Wins};
use crate::data::{Keys, Shape};
use crate::database::Database;
use anyhow::{Result, anyhow};
use cloudsync_protocol::limits::CHUNK_BYTES_TARGET;
use cloudsync_protocol::payload::Opened;
use cloudsync_replica::{
    Extraction, FLAG_INTEGER_KEY, Filter, Origin, Replica, Source, SystemEnvironment, Zstd,
};
use std::rc::Rc;

pub(crate) struct Cloudsync {
    replica: Replica,
    mark: u64,
}

impl Cloudsync {
    pub(crate) fn attach(database: &Database, shape: Shape) -> Result<Self> {
        let connection = database.connection();
        let environment = SystemEnvironment::new(move |buffer: &mut [u8]| connection.randomness(buffer));
        let mut replica = Replica::open(connection, Rc::new(environment))?;
        if replica.is_enabled("t").is_err() {
            replica.init("t", "cls", if shape.keys == Keys::Integer { FLAG_INTEGER_KEY } else { 0 })?;
            replica.fold()?;
        }
        Ok(Self { replica, mark: 0 })
    }
}

impl Subject for Cloudsync {
    fn mark(&mut self, _database: &Database) -> Result<()> {
        self.mark = self.replica.version()?;
        Ok(())
    }

    fn settle(&mut self) -> Result<()> {
        self.replica.fold()?;
        Ok(())
    }

    fn extract(&mut self, _database: &Database, take: &mut dyn FnMut(Vec<u8>) -> Result<()>) -> Result<()> {
        let last = self.replica.version()?;
        let mut from = Some(self.replica.position_after(self.mark)?);
        while let Some(position) = from {
            let wanted = Extraction {
                from: position,
                last,
                filter: Filter::Everything,
                bytes_target: CHUNK_BYTES_TARGET,
            };
            let chunk = self.replica.transact(|replica| replica.extract_in_transaction(&wanted))?;
            if chunk.rows > 0 {
                take(chunk.payload)?;
            }
            from = chunk.next;
        }
        Ok(())
    }

    /// Each piece in a transaction of its own, as those of a server.
    fn apply(&mut self, _database: &Database, piece: &[u8], _wins: Wins) -> Result<()> {
        let source = Source { origin: Origin::Server, time_max: None, base: 0 };
        let opened = Opened::open(piece, &Zstd).map_err(|error| anyhow!("{error}"))?;
        let payload = opened.payload().map_err(|error| anyhow!("{error}"))?;
        let apply = |replica: &mut Replica| replica.apply_in_transaction(&[payload], source);
        let applied = self.replica.with_apply_settings(|replica| replica.transact(apply))?;
        match applied.quarantined {
            0 => Ok(()),
            rows => Err(anyhow!("{rows} rows were put into the quarantine")),
        }
    }
}
