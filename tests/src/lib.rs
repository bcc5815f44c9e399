//! What the tests, the benchmark and the demo share: services and sites of their own.

pub mod eventually;
pub mod house;
pub mod pages;
pub mod probe;
pub mod process;
pub mod services;
