//! Bytes and turns: what travels between replicas, and in what order.
//!
//! [`payload`] is the form of changes as bytes, [`message`] that of one request and its answer, [`verdict`] that of
//! rows which the server did not let in, [`range`] how two sides find out whether they hold the same, [`schema`] how two sides compare their tables. [`client`] and [`server`] hold the rules of taking turns. Nothing here opens a
//! socket or a database, reads a clock or draws a random number: those come in as arguments, so the same code runs
//! over HTTP, in a browser and in the simulator.
#![no_std]
#![forbid(unsafe_code)]
#![warn(missing_docs)]

extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod client;
pub mod limits;
pub mod message;
pub mod payload;
pub mod range;
pub mod schema;
pub mod server;
pub mod verdict;
