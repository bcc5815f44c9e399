//! The edge of the API over sockets: who enters, what holds when too much comes, and what never
//! gets out.

mod canaries;
mod floods;
mod forged;
pub(super) mod gate;
pub(super) mod issuer;
mod keys;
mod leaks;
mod silent;
