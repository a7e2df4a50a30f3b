//! The process of a unit.

use super::credentials::Copies;
use super::socket_drop_in::SocketDropIn;
use crate::process::watch::Started;

/// The process of a unit, and what exists as long as it.
#[derive(Debug)]
pub(super) struct Running {
    pub(super) started: Started,
    /// The name of its unit, where that is systemd's.
    pub(super) unit: Option<String>,
    pub(super) _copies: Option<Copies>,
    pub(super) _sockets: Option<SocketDropIn>,
}
