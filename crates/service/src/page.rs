//! The unit that answers for the service while the service is fenced, if `init --page` has installed it.
//!
//! This module identifies the process of that unit; the module `page` of the program answers requests. It changes
//! nothing.

use super::ServiceManager;
use super::port_holder::PortHolder;

/// The name of the unit.
pub const UNIT: &str = "ladylinux-refresh-page.service";

/// Returns `true` if a process that listens on the service's port is that of the page.
pub fn is_it(service: &dyn ServiceManager, holder: &PortHolder) -> bool {
    // Most holders are not part of such a unit, so the manager needs no query.
    holder.unit.as_deref() == Some(UNIT)
        && holder.process.is_some()
        && service.page_process().ok().flatten() == holder.process
}
