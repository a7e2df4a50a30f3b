//! systemd as the service's manager.

pub mod dropin;
