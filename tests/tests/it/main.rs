//! The one binary of integration tests: black-box, on real services.

#![allow(clippy::unwrap_used, reason = "a test that unwraps fails with the line that did")]

mod api;
mod arrows;
mod beat;
mod handbook;
mod parking;
mod poison;
mod readme;
mod reference;
mod scraper;
mod services;
mod store;
mod tasks_run;
mod whole_house;
mod workers_die;
