//! The edge of the API over sockets: who enters, what holds when too much comes, and what never
//! gets out.

mod floods;
mod forged;
mod gate;
mod issuer;
mod keys;
mod leaks;
mod silent;
