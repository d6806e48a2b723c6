//! Payloads: what goes in comes out, and nothing else gets in.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "payload/hostile.rs"]
mod hostile;
#[path = "payload/model.rs"]
mod model;
#[path = "payload/round_trip.rs"]
mod round_trip;
#[path = "payload/vectors.rs"]
mod vectors;
