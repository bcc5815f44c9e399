//! The one binary of integration tests: black-box, on real services.

#![allow(clippy::unwrap_used, reason = "a test that unwraps fails with the line that did")]

mod acl;
mod api;
mod arrows;
mod beat;
mod bombs;
mod cancel;
mod chaos;
mod dead_letters;
mod deploy;
mod docs;
mod edge;
mod epochs;
mod ghosts;
mod handbook;
mod limits;
mod metrics;
mod model;
mod operators;
mod parking;
mod pauses;
mod poison;
mod proxy;
mod readme;
mod reference;
mod roster;
mod schedule;
mod schedules;
mod scraper;
mod services;
mod store;
mod supervised;
mod supervisor;
mod tasks_run;
mod terminal;
mod tls;
mod traces;
mod trouble;
mod whole_house;
mod wire;
mod workers_die;
