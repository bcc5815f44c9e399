//! What the tests, the benchmark and the demo share: services and sites of their own.

#![allow(clippy::unwrap_used, reason = "the harness panics as a test does, with the line that did")]

pub mod chaos;
pub mod deployment;
pub mod eventually;
pub mod house;
pub mod otlp;
pub mod pages;
pub mod probe;
pub mod process;
pub mod proxy;
pub mod scraperapi;
pub mod services;
