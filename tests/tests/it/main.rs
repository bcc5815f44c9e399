//! The one binary of integration tests: black-box, on real services.

mod api;
mod beat;
mod services;
mod store;
mod tasks_run;
mod workers_die;
