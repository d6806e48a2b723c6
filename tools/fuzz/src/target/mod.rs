//! The targets.

mod answer;
mod apply;
mod connection;
mod filter;
mod http;
mod message;
mod payload;
mod policy;
mod request;
mod session;
mod setting;
mod settings;

pub(crate) use request::{store, sync};

use crate::{Target, seeds};

const KIB: usize = 1 << 10;

/// All targets, in the order in which they run.
pub const TARGETS: &[Target] = &[
    Target {
        name: "payload",
        about: "payloads: decoded in bounded memory, and encoded again the same",
        run: payload::run,
        seeds: seeds::payloads,
        bytes_max: 64 * KIB,
        executions: 20_000,
    },
    Target {
        name: "message",
        about: "requests, answers, verdicts, checks, schemas: the same after another trip through bytes",
        run: message::run,
        seeds: seeds::messages,
        bytes_max: 64 * KIB,
        executions: 20_000,
    },
    Target {
        name: "session",
        about: "the state machine of a sync, fed with answers: it ends, in time, and counts right",
        run: session::run,
        seeds: seeds::sessions,
        bytes_max: 4 * KIB,
        executions: 20_000,
    },
    Target {
        name: "apply",
        about: "payloads on a real database: whole afterwards, untouched if refused, the same if repeated",
        run: apply::run,
        seeds: seeds::payloads,
        bytes_max: 64 * KIB,
        executions: 1_500,
    },
    Target {
        name: "answer",
        about: "answers to a device in the middle of a sync: its database is whole, and it goes on",
        run: answer::run,
        seeds: seeds::answers,
        bytes_max: 64 * KIB,
        executions: 1_000,
    },
    Target {
        name: "request",
        about: "requests to a real store: answered with a turn or refused, never failed",
        run: request::run,
        seeds: seeds::requests,
        bytes_max: 64 * KIB,
        executions: 1_500,
    },
    Target {
        name: "http",
        about: "every route with a body, through the server's own router: 2xx or 4xx with JSON, never 5xx",
        run: http::run,
        seeds: seeds::http,
        bytes_max: 16 * KIB,
        executions: 1_500,
    },
    Target {
        name: "connection",
        about: "connection strings: the same after another trip through text, and no secret in an error",
        run: connection::run,
        seeds: seeds::connections,
        bytes_max: KIB,
        executions: 20_000,
    },
    Target {
        name: "policy",
        about: "policies: what is taken stays in its place, reads what it says and writes nothing",
        run: policy::run,
        seeds: seeds::policies,
        bytes_max: 2 * KIB,
        executions: 3_000,
    },
    Target {
        name: "settings",
        about: "cloudsync.toml and variables of the environment: a configuration within its ranges, or an error",
        run: settings::run,
        seeds: seeds::settings,
        bytes_max: 2 * KIB,
        executions: 3_000,
    },
    Target {
        name: "filter",
        about: "filters of tables: those that are taken let every write pass, and are listed",
        run: filter::run,
        seeds: seeds::filters,
        bytes_max: KIB,
        executions: 1_000,
    },
    Target {
        name: "setting",
        about: "settings of a device by SQL: what is taken is given back",
        run: setting::run,
        seeds: seeds::device_settings,
        bytes_max: KIB,
        executions: 3_000,
    },
];

/// How many routes take a body.
pub(crate) const fn http_routes() -> usize {
    http::ROUTES.len()
}
