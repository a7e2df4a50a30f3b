//! One run: the six steps of the specification, in its order.
//!
//! 1. [`stop`] (RW-5.1): fence up, service down, its processes ended, its port free
//! 2. [`sync`] (RW-5.2): the prepared tree moved in, hard-reset, cleaned; preserved paths carried across
//! 3. [`environment`] (RW-5.3): the environment provided, `venv` switched to it
//! 4. [`prepare`] (RW-5.4): hooks
//! 5. [`restart`] (RW-5.5): synced, started, probed until settled, fence down
//! 6. [`status`] (RW-5.6): the report
//!
//! The order is a type: each step is a method that consumes its predecessor's state, so a skipped, repeated or
//! reordered step does not compile (`tests/order/`). [`steps::Refresh::advance`] is the only way from one state to the
//! next, and the only code that writes intent and outcome to the journal. Nothing is cleaned up in `Drop`, because a
//! killed process does not run it.

pub(crate) mod account;
pub(crate) mod again;
pub mod begin;
pub mod entry;
pub(crate) mod environment;
mod hook;
mod hook_program;
pub mod killed;
pub mod models;
pub mod others;
pub(crate) mod page;
pub(crate) mod prepare;
pub(crate) mod rehearsal;
pub(crate) mod restart;
pub mod socket;
mod socket_holder;
mod staged;
mod staged_assets;
pub(crate) mod staging;
pub mod status;
mod steps;
pub(crate) mod stop;
pub(crate) mod sync;

pub use account::Account;
pub use begin::begin;
pub use steps::{Built, Planned, Prepared, Refresh, Running, Stopped, Synced, execute};
