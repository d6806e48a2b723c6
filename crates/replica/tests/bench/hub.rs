//! A server as small as one can be: a replica that takes uploads and sends what is new.
#![allow(dead_code)] // Each test file uses some of it.

use super::{Device, NOW};
use cloudsync_core::id::SiteId;
use cloudsync_protocol::client::{Absorbed, Goal};
use cloudsync_protocol::message::{Accepted, Request, Turn, Upload};
use cloudsync_protocol::payload::Opened;
use cloudsync_replica::{Extraction, Origin, Source, Zstd};

pub(crate) const BOTH: Goal = Goal { push: true, pull: true };
pub(crate) const PUSH: Goal = Goal { push: true, pull: false };
pub(crate) const PULL: Goal = Goal { push: false, pull: true };

/// The server's database, on which tests may write as well.
pub(crate) struct Hub {
    pub(crate) server: Device,
    nonce: u64,
    /// Chunks of the round on its way.
    staged: Vec<Vec<u8>>,
    /// Rows that checks looked at here, and bytes that they took both ways.
    pub(crate) looked_at: u64,
    pub(crate) checked_bytes: usize,
}

impl Hub {
    pub(crate) fn new(schema: &str) -> Self {
        Self::on(Device::new(200, schema))
    }

    /// With this one as its database.
    pub(crate) fn on(mut server: Device) -> Self {
        server.replica.give_ordinals().unwrap();
        server.replica.fold().unwrap();
        Self { server, nonce: 0, staged: Vec::new(), looked_at: 0, checked_bytes: 0 }
    }

    /// One turn; everything must fit it.
    pub(crate) fn turn(&mut self, device: &mut Device, goal: Goal) -> Absorbed {
        let bytes = device.replica.prepare(goal, false).unwrap();
        self.answer(device, &bytes, |_| {})
    }

    /// A turn that checks ranges, if there is anything to check. `meanwhile` runs on the device before the answer comes.
    pub(crate) fn check_while(
        &mut self,
        device: &mut Device,
        meanwhile: impl FnOnce(&mut Device),
    ) -> Option<Absorbed> {
        let bytes = device.replica.prepare_check(BOTH).unwrap()?;
        Some(self.answer(device, &bytes, meanwhile))
    }

    pub(crate) fn check(&mut self, device: &mut Device) -> Option<Absorbed> {
        self.check_while(device, |_| {})
    }

    /// An idle turn and the check behind it.
    pub(crate) fn check_idle(&mut self, device: &mut Device) -> Absorbed {
        assert!(self.turn(device, BOTH).idle);
        self.check(device).unwrap()
    }

    fn answer(&mut self, device: &mut Device, bytes: &[u8], meanwhile: impl FnOnce(&mut Device)) -> Absorbed {
        let request = Request::decode(bytes).unwrap();
        let upload = request.upload.as_ref();
        if let Some(upload) = upload {
            self.take(request.site, upload);
        }
        let accepted = upload.map(|upload| Accepted {
            round: upload.round,
            committed: upload.is_final,
            repeated: false,
            differs: false,
            quarantined: 0,
        });
        let (payload, cursor) = self.give(&request);
        let checked = match request.check.ranges.is_empty() {
            true => Vec::new(),
            false => {
                let answer = self.server.replica.answer_check(&request.check, true).unwrap();
                self.looked_at += answer.rows;
                answer.checked
            }
        };
        self.checked_bytes += request.check.encode().len() + checked.len();
        self.nonce += 1;
        meanwhile(device);
        let turn = Turn {
            epoch: 1,
            nonce: self.nonce,
            now: NOW,
            accepted,
            drained: true,
            cursor,
            position: b"",
            rows_total: 0,
            verdicts: &[],
            checked: &checked,
            payload: &payload,
        };
        device.replica.absorb(&turn).unwrap()
    }

    /// Until nothing is left.
    pub(crate) fn sync(&mut self, device: &mut Device) {
        loop {
            let mut absorbed = self.turn(device, BOTH);
            while absorbed.unchecked {
                absorbed = self.check(device).unwrap_or_default();
            }
            if !absorbed.more {
                return;
            }
        }
    }

    fn take(&mut self, site: SiteId, upload: &Upload<'_>) {
        if upload.chunk == 0 {
            self.staged.clear();
        }
        self.staged.push(upload.payload.to_vec());
        assert_eq!(self.staged.len(), upload.chunk as usize + 1);
        if !upload.is_final {
            return;
        }
        let (replica, staged) = (&mut self.server.replica, &self.staged);
        replica
            .with_apply_settings(|replica| {
                replica.transact(|replica| {
                    replica.fold_here()?;
                    let origin = Origin::Site(replica.meet_site(site)?);
                    let chunks = staged.iter().filter(|chunk| !chunk.is_empty());
                    let opened = chunks.map(|chunk| Opened::open(chunk, &Zstd));
                    let opened = opened.collect::<Result<Vec<_>, _>>()?;
                    let payloads = opened.iter().map(Opened::payload).collect::<Result<Vec<_>, _>>()?;
                    if payloads.is_empty() {
                        return Ok(());
                    }
                    let source = Source { origin, time_max: None, base: upload.base };
                    replica.apply_in_transaction(&payloads, source).map(drop)
                })
            })
            .unwrap();
    }

    fn give(&mut self, request: &Request<'_>) -> (Vec<u8>, u64) {
        if !request.pull {
            return (Vec::new(), request.cursor);
        }
        let given = self.server.replica.transact(|replica| {
            replica.fold_here()?;
            let (from, last) = (replica.position_after(request.cursor)?, replica.version()?);
            let site = replica.meet_site(request.site)?;
            let filter = replica.filter_for(site, request.cursor, request.echo)?;
            let chunk =
                replica.extract_in_transaction(&Extraction { from, last, filter, bytes_target: 1 << 24 })?;
            assert!(chunk.next.is_none());
            Ok((chunk.payload, last.max(1)))
        });
        given.unwrap()
    }
}
