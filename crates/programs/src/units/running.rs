//! The process of a unit.

use super::credentials::Copies;
use super::socket_drop_in::SocketDropIn;
use crate::process::watch::Started;

/// The process of a unit, and the resources that exist while it lives.
#[derive(Debug)]
pub(super) struct Running {
    pub(super) started: Started,
    /// The name of its unit, if systemd runs it.
    pub(super) unit: Option<String>,
    pub(super) _copies: Option<Copies>,
    pub(super) _sockets: Option<SocketDropIn>,
}
