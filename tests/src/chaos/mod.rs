//! What the framework promises, tried on real processes: workers are killed, stopped and cut off
//! while tasks run, and an auditor counts afterwards.
//!
//! - [`probe`]: the application whose workers are harmed
//! - [`history`]: what its tasks say they did
//! - [`ledger`]: what Redis wrote down of them, replayed from its append-only file
//! - [`walk`]: what stands in Redis at the end
//! - [`audit`]: all three judged against each other
//! - [`stage`], [`crew`]: the services and processes of a scenario
//! - [`site`]: a Redis and such processes, for a test without a scenario
//! - [`scenarios`]: what is done to them, and what must hold

pub mod aof;
pub mod audit;
pub mod crew;
pub mod faults;
pub mod ghosts;
pub mod history;
pub mod ledger;
pub mod probe;
pub mod report;
pub mod scenarios;
pub mod shim;
pub mod site;
pub mod stage;
pub mod walk;
pub mod wrong;
